//! One rollout: the same requests for each of several gates, each with its own weight and its own
//! Prometheus.

use super::gate::{Gate, Move, SCRAPE};
use super::prometheus::{Counters, Prometheus, Sample};
use super::requests::{Request, Stream, Version, mix, uniform};
use super::scenario::{Odds, Scenario, Scraping};

/// Versions' behaviour and the traffic's rate change at most each so many seconds.
const SLICE: u32 = 5;
/// Scrapes of [`Scraping::Ragged`] that get lost.
const LOST: f64 = 0.1;

/// How a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The canary is the stable version.
    Promoted,
    /// All traffic is back on the stable version.
    RolledBack,
    /// Neither within the simulated time.
    Held,
}

/// What became of one rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// When, in seconds after the canary got its first weight.
    pub seconds: u32,
    /// When the canary got all traffic.
    pub full_at: Option<u32>,
    /// Bad answers that the canary gave: failed, or over 250 ms.
    pub bad: u64,
}

/// A gate at work.
struct Player {
    gate: Box<dyn Gate>,
    weight: u8,
    canary: Counters,
    stable: Counters,
    bad: u64,
    odds: Odds,
    prometheus: Prometheus,
    full_at: Option<u32>,
    outcome: Option<Outcome>,
}

/// Plays a scenario at a rate, until each gate has ended its rollout or so many seconds have
/// passed.
pub fn play(
    scenario: &Scenario,
    rate: f64,
    seed: u64,
    horizon: u32,
    gates: Vec<Box<dyn Gate>>,
) -> Vec<Outcome> {
    let mut players: Vec<Player> = gates.into_iter().map(Player::new).collect();
    let mut stable_odds = Odds::healthy();
    let mut stream = Stream::new(seed);
    let mut requests = Vec::new();
    let mut now = 0;
    while now < horizon && players.iter().any(|player| player.outcome.is_none()) {
        requests.clear();
        stream.take(rate * scenario.load(now) * f64::from(SLICE), &mut requests);
        stable_odds.become_those_of(&scenario.stable(seed, now));
        let away = is_away(scenario, now + SLICE);
        let scraped = !away && is_scraped(scenario, seed, now + SLICE);
        for player in players.iter_mut().filter(|player| player.outcome.is_none()) {
            let canary = scenario.canary(seed, now, player.weight);
            player.odds.become_those_of(&canary);
            player.answer(&requests, &stable_odds);
            player.prometheus.away = away;
            if scraped {
                player.prometheus.scrape(Sample {
                    at: now + SLICE,
                    canary: player.canary,
                    stable: player.stable,
                });
            }
            if (now + SLICE).is_multiple_of(SCRAPE) {
                player.evaluate(now + SLICE);
            }
        }
        now += SLICE;
    }
    players
        .into_iter()
        .map(|player| {
            player.outcome.unwrap_or(Outcome {
                end: End::Held,
                seconds: horizon,
                full_at: player.full_at,
                bad: player.bad,
            })
        })
        .collect()
}

impl Player {
    fn new(gate: Box<dyn Gate>) -> Self {
        Self {
            weight: gate.first_weight(),
            gate,
            canary: Counters::default(),
            stable: Counters::default(),
            bad: 0,
            odds: Odds::healthy(),
            prometheus: Prometheus::default(),
            full_at: None,
            outcome: None,
        }
    }

    /// Both versions answer what the router sends them.
    fn answer(&mut self, requests: &[Request], stable_odds: &Odds) {
        for request in requests {
            if request.goes_to_canary(self.weight) {
                let (failure, latency) = request.fate(Version::Canary);
                let failed = self.odds.fails(*request, failure);
                let slow_before = self.canary.slow();
                self.canary.count(failed, self.odds.bucket(latency));
                self.bad += u64::from(failed || self.canary.slow() > slow_before);
            } else {
                let (failure, latency) = request.fate(Version::Stable);
                let failed = stable_odds.fails(*request, failure);
                self.stable.count(failed, stable_odds.bucket(latency));
            }
        }
    }

    fn evaluate(&mut self, now: u32) {
        let end = match self.gate.evaluate(now, &self.prometheus) {
            Move::Stay => return,
            Move::Weight(weight) => {
                self.weight = weight;
                if weight == 100 {
                    self.full_at = Some(now);
                }
                return;
            }
            Move::Promote => End::Promoted,
            Move::RollBack => End::RolledBack,
        };
        self.outcome = Some(Outcome {
            end,
            seconds: now,
            full_at: self.full_at,
            bad: self.bad,
        });
    }
}

fn is_away(scenario: &Scenario, second: u32) -> bool {
    match scenario.scraping {
        Scraping::Away { from, seconds } => (from..from + seconds).contains(&second),
        Scraping::Steady | Scraping::Ragged => false,
    }
}

/// Whether the counters are scraped at this second.
fn is_scraped(scenario: &Scenario, seed: u64, second: u32) -> bool {
    if scenario.scraping != Scraping::Ragged {
        return second.is_multiple_of(SCRAPE);
    }
    // The scrape due at each multiple of 15 s comes at it, 5 s before or 5 s after.
    let due = (second + SLICE) / SCRAPE;
    let draw = mix(seed ^ mix(u64::from(due) + 0x5C));
    let late = (draw % 3) as u32 * SLICE;
    uniform(mix(draw)) >= LOST && due > 0 && second + SLICE == due * SCRAPE + late
}

#[cfg(test)]
mod tests {
    use super::super::gate::Contender;
    use super::super::scenario::SCENARIOS;
    use super::*;

    fn named(name: &str) -> &'static Scenario {
        SCENARIOS
            .iter()
            .find(|scenario| scenario.name == name)
            .expect("a scenario of this name")
    }

    #[test]
    fn a_rollout_ends_alike_whoever_else_is_playing() {
        let scenario = named("2 % (twice the budget)");
        let alone = play(scenario, 2.0, 5, 3_600, vec![Contender::Flagger.gate(2.0)]);
        let gates = Contender::ALL.map(|gate| gate.gate(2.0)).into();
        let together = play(scenario, 2.0, 5, 3_600, gates);
        assert_eq!(alone[0], together[0]);
    }

    #[test]
    fn a_canary_that_fails_all_is_seen_by_serin_in_one_scrape() {
        let outcome = play(
            named("100 % errors"),
            20.0,
            1,
            3_600,
            vec![Contender::Serin.gate(20.0)],
        )[0];
        assert_eq!((outcome.end, outcome.seconds), (End::RolledBack, 15));
        assert!((15..60).contains(&outcome.bad), "{outcome:?}");
    }

    #[test]
    fn ragged_scrapes_come_about_every_fifteen_seconds() {
        let scenario = named("scrapes that jitter and get lost");
        let scrapes = (5..=15_000)
            .step_by(5)
            .filter(|second| is_scraped(scenario, 3, *second))
            .count();
        assert!((850..950).contains(&scrapes), "{scrapes}");
    }
}
