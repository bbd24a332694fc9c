//! What the simulation must show, or fail.

use super::cells::{Cell, Outcomes};
use super::gate::Contender;
use super::play::End;
use super::scenario::{Deserves, Scraping, Story};

/// Share of whole rollouts in which a canary that deserves trust may be rolled back.
const FALSE_ROLLBACKS: f64 = 0.01;

/// The same where the canary alone fails requests together, which no guarantee covers: as the
/// design has it.
const ROLLBACKS_BY_BURSTS: f64 = 0.05;

/// What comes by chance less often than this is not put down to chance.
const BY_CHANCE: f64 = 0.01;
/// Rollouts from which a share of 1 % stands out by itself: 0.7 % in truth are over 1 % seen in one
/// case of thirty.
const ENOUGH_ROLLOUTS: usize = 2_000;

/// A bound, and whether it holds.
#[derive(Debug)]
pub struct Bound {
    /// What must hold, and what was seen.
    pub sentence: String,
    /// Whether it does.
    pub holds: bool,
}

/// All bounds on Serin's rollouts.
pub fn check(cells: &[Cell]) -> Vec<Bound> {
    let serin = Contender::ALL.into_iter().filter(|gate| gate.is_serin());
    let mut bounds = Vec::new();
    for gate in serin {
        for cell in cells.iter().filter(|cell| gate.plays(cell.scenario)) {
            bounds.extend(bounds_of(cell, gate));
        }
    }
    bounds
}

fn bounds_of(cell: &Cell, gate: Contender) -> Vec<Bound> {
    let outcomes = cell.of(gate);
    let place = format!(
        "{}, \"{}\" at {} rps",
        gate.name(),
        cell.scenario.name,
        cell.rate
    );
    let away = matches!(cell.scenario.scraping, Scraping::Away { .. });
    let mut bounds = Vec::new();
    match cell.scenario.deserves {
        Deserves::Trust if away => {
            // Whatever has been rolled back, was because metrics were missing: nothing else is
            // wrong.
            let count = outcomes.count(End::RolledBack);
            bounds.push(Bound {
                sentence: format!("{place}: {count} rollbacks from missing metrics, 0 allowed"),
                holds: count == 0,
            });
        }
        Deserves::Trust
            if matches!(cell.scenario.story, Story::BothFail(_))
                && outcomes.runs() < ENOUGH_ROLLOUTS =>
        {
            // No healthy version, only one that is no worse than stable: its true share lies near 1
            // %, and few rollouts cannot tell on which side.
            let (count, runs) = (outcomes.count(End::RolledBack), outcomes.runs());
            bounds.push(Bound {
                sentence: format!(
                    "{place}: {count} rolled back of {runs} rollouts, clearly more than 1 %"
                ),
                holds: at_least(count, runs, FALSE_ROLLBACKS) >= BY_CHANCE,
            });
        }
        Deserves::Trust => bounds.push(rolled_back(&outcomes, &place, FALSE_ROLLBACKS)),
        Deserves::Patience if cell.scenario.has_all_rates() => {
            bounds.push(rolled_back(&outcomes, &place, ROLLBACKS_BY_BURSTS));
        }
        Deserves::Rollback => bounds.extend(bounds_of_regression(cell, &outcomes, &place)),
        Deserves::Patience | Deserves::Either => {}
    }
    bounds
}

/// That at most this share of rollouts was rolled back.
fn rolled_back(outcomes: &Outcomes<'_>, place: &str, allowed: f64) -> Bound {
    let share = outcomes.share(End::RolledBack);
    Bound {
        sentence: format!(
            "{place}: {:.2} % rolled back of {} rollouts, {:.0} % allowed",
            share * 100.0,
            outcomes.runs(),
            allowed * 100.0
        ),
        holds: share <= allowed,
    }
}

fn bounds_of_regression(cell: &Cell, outcomes: &Outcomes<'_>, place: &str) -> Vec<Bound> {
    let mut bounds = Vec::new();
    let at_once = match cell.scenario.story {
        Story::Fails {
            share,
            from_weight: 0,
        } if cell.scenario.scraping == Scraping::Steady && cell.rate >= 20.0 => {
            if share >= 1.0 {
                Some((1.0, 15))
            } else if share >= 0.2 {
                Some((0.95, 60))
            } else {
                None
            }
        }
        _ => None,
    };
    if let Some((quantile, limit)) = at_once {
        let after = outcomes.rollback_after(quantile);
        bounds.push(Bound {
            sentence: format!(
                "{place}: {:.0} % rolled back within {}, {limit} s allowed",
                quantile * 100.0,
                after.map_or("no time".to_owned(), |seconds| format!("{seconds} s"))
            ),
            holds: after.is_some_and(|seconds| seconds <= limit),
        });
    }
    // A regression of 20 % at any weight, under missing and lost metrics as well.
    if matches!(cell.scenario.story, Story::Fails { share, .. } if share >= 0.2) {
        let count = outcomes.count(End::Promoted);
        bounds.push(Bound {
            sentence: format!(
                "{place}: {count} promoted of {}, 0 allowed",
                outcomes.runs()
            ),
            holds: count == 0,
        });
    }
    bounds
}

/// The probability of at least `count` of `runs`, if each comes true with probability `p`.
fn at_least(count: usize, runs: usize, p: f64) -> f64 {
    let mut chance = (1.0 - p).powi(i32::try_from(runs).unwrap_or(i32::MAX));
    let mut below = 0.0;
    for hits in 0..count {
        below += chance;
        chance *= (runs - hits) as f64 / (hits + 1) as f64 * p / (1.0 - p);
    }
    1.0 - below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_allowed_for_and_no_more() {
        // 100 rollouts at 1 %: 1 or more in 63.4 %, 4 or more in 1.8 %, 5 or more in 0.34 %.
        assert!((at_least(0, 100, 0.01) - 1.0).abs() < 1e-12);
        assert!((at_least(1, 100, 0.01) - 0.634).abs() < 1e-3);
        assert!((at_least(4, 100, 0.01) - 0.0184).abs() < 1e-3);
        assert!(at_least(5, 100, 0.01) < BY_CHANCE);
    }
}
