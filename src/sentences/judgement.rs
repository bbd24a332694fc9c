//! A judgement on counted requests in words, always with the numbers.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use super::numbers::{about, count, one_in, percent, percent_up, plural, span, tidy};
use crate::{
    evidence::{Observation, Tally},
    gate::{Criterion, GateVerdict, Judgement},
};

impl Criterion {
    /// "31 of 150 canary requests *failed*".
    fn verb(&self) -> String {
        match self {
            Self::ErrorRate { .. } | Self::Margin { .. } => "failed".to_owned(),
            Self::Latency { max, .. } => format!("took over {}", span(*max)),
        }
    }

    /// "0 *errors* in 40 requests".
    fn noun(&self, count: u64) -> &'static str {
        match (self, count) {
            (Self::Latency { .. }, _) => "too slow",
            (_, 1) => "error",
            (_, _) => "errors",
        }
    }

    /// "*the rate* is below 9.5 %".
    fn share(&self) -> String {
        match self {
            Self::ErrorRate { .. } | Self::Margin { .. } => "the rate".to_owned(),
            Self::Latency { max, .. } => format!("the share over {}", span(*max)),
        }
    }
}

impl Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let budget = percent(self.budget());
        match self {
            Self::ErrorRate { .. } => write!(f, "{budget}"),
            Self::Latency { quantile, max } => {
                let (quantile, max) = (tidy(quantile * 100.0), span(*max));
                write!(f, "p{quantile} ≤ {max} (share over {max} ≤ {budget})")
            }
            Self::Margin { margin } => write!(f, "stable's share and {}", points(*margin)),
        }
    }
}

impl Judgement {
    /// The judgement in words. `canary_rate` is the canary's requests a second, to say how long
    /// the requests still lacking will take; `None` leaves that out.
    ///
    /// "The chance that a good version looks this bad is under 1 in N" is the guarantee of the
    /// evidence, no estimate: a version that stays within its objective, or within stable's bad
    /// share, ever brings the evidence to `N` with probability at most `1/N`.
    pub fn sentence(&self, criterion: &Criterion, canary_rate: Option<f64>) -> String {
        if let Criterion::Margin { margin } = *criterion {
            return self.beside_stable(margin, canary_rate);
        }
        match self.verdict {
            GateVerdict::Fail => self.fail_sentence(criterion),
            GateVerdict::Pass => {
                let bound = self.bound_clause(criterion);
                format!("{bound}; {} needs {}.", self.next(), self.below_needed())
            }
            GateVerdict::NeedMoreData => self.hold_sentence(criterion, canary_rate),
        }
    }

    fn fail_sentence(&self, criterion: &Criterion) -> String {
        if let Some(look) = self.guard {
            let counts = counts(criterion, look.canary, look.stable, " in one scrape");
            return format!(
                "{counts}. A version within its objective has less than one such scrape in a \
                 million."
            );
        }
        format!(
            "{}. The chance that a good version looks this bad is under {}.",
            counts(criterion, self.step.canary, self.step.stable, ""),
            one_in(self.strongest)
        )
    }

    fn hold_sentence(&self, criterion: &Criterion, canary_rate: Option<f64>) -> String {
        if self.suspect {
            let counts = counts(criterion, self.rollout.canary, self.rollout.stable, "");
            let chance = one_in(self.e_slo);
            let why = if self.e_slo >= self.fail_threshold && self.e_rel < self.fail_threshold {
                "but it is not proven worse than stable, so rolling back may not help"
            } else {
                "which is too little to roll back"
            };
            return format!(
                "{counts}. Suspect: the chance that a version within its objective looks this bad \
                 is under {chance}, {why}; holding."
            );
        }
        if self.rollout.canary.requests == 0 {
            return format!(
                "No canary requests yet ({}); {} needs {}{}.",
                stable(self.rollout.stable),
                self.next(),
                self.below_needed(),
                self.lacking(canary_rate),
            );
        }
        let bound = self.bound_clause(criterion);
        let lacking = self.lacking(canary_rate);
        if self.upper_bound <= self.bound_needed {
            // Proven, but by earlier steps: this one has too few requests, or too many bad ones.
            let Tally { requests, bad } = self.step.canary;
            let (bad, requests) = (count(bad), count(requests));
            return format!("{bound}; in this step alone {bad} of {requests}{lacking}.");
        }
        format!(
            "{bound}; {} needs {}{lacking}.",
            self.next(),
            self.below_needed()
        )
    }

    /// "0 errors in 40 canary requests (stable 0 of 360): the rate is below 9.5 %"
    fn bound_clause(&self, criterion: &Criterion) -> String {
        let Tally { requests, bad } = self.rollout.canary;
        let below = if self.upper_bound >= 1.0 {
            "unknown".to_owned()
        } else {
            format!("below {}", percent_up(self.upper_bound))
        };
        format!(
            "{} {} in {} canary {} ({}): {} is {below}",
            count(bad),
            criterion.noun(bad),
            count(requests),
            plural(requests),
            stable(self.rollout.stable),
            criterion.share(),
        )
    }

    /// The same where the canary is held to stable's share and a margin.
    fn beside_stable(&self, margin: f64, canary_rate: Option<f64>) -> String {
        let margin = points(margin);
        match (self.verdict, self.guard) {
            (GateVerdict::Fail, Some(look)) => format!(
                "{} in one scrape. A version no worse than stable has less than one such scrape in \
                 a million.",
                side_by_side(&look)
            ),
            (GateVerdict::Fail, None) => format!(
                "{}: worse by more than {margin}. The chance that a version within that margin \
                 looks this bad is under {}.",
                side_by_side(&self.step),
                one_in(self.strongest)
            ),
            (GateVerdict::NeedMoreData, _) if self.suspect => format!(
                "{}. Suspect: the chance that a version at most {margin} worse than stable looks \
                 this bad is under {}, which is too little to roll back; holding.",
                side_by_side(&self.rollout),
                one_in(self.e_slo)
            ),
            (verdict, _) => {
                let worse_by = if self.upper_bound >= 1.0 {
                    "an unknown share".to_owned()
                } else {
                    let bound = percent_up(self.upper_bound.max(0.0));
                    format!("less than {} points", bound.trim_end_matches(" %"))
                };
                let lacking = if verdict == GateVerdict::Pass {
                    String::new()
                } else {
                    self.lacking(canary_rate)
                };
                format!(
                    "{}: worse by {worse_by}; {} needs below {}{lacking}.",
                    side_by_side(&self.rollout),
                    self.next(),
                    points(self.bound_needed)
                )
            }
        }
    }

    /// "moving to 25 %", "promoting it"
    fn next(&self) -> String {
        match self.next_weight {
            Some(weight) => format!("moving to {weight} %"),
            None => "promoting it".to_owned(),
        }
    }

    /// "below 4 %"
    fn below_needed(&self) -> String {
        format!("below {}", percent(self.bound_needed))
    }

    /// ", about 65 more clean requests (≈ 54 min at this traffic)"
    fn lacking(&self, canary_rate: Option<f64>) -> String {
        let Some(lacking) = self.clean_requests_needed else {
            return ", more than a billion more clean requests".to_owned();
        };
        let time = canary_rate
            .filter(|rate| *rate > 0.0)
            .and_then(|rate| Duration::try_from_secs_f64(lacking as f64 / rate).ok())
            .map(|time| format!(" (≈ {} at this traffic)", about(time)))
            .unwrap_or_default();
        format!(
            ", about {} more clean {}{time}",
            count(lacking),
            plural(lacking)
        )
    }
}

/// "31 of 150 canary requests failed (21 %, objective 1 %); stable 2 of 1,350"
fn counts(criterion: &Criterion, canary: Tally, beside: Tally, when: &str) -> String {
    format!(
        "{} of {} canary {} {}{when} ({}, objective {criterion}); {}",
        count(canary.bad),
        count(canary.requests),
        plural(canary.requests),
        criterion.verb(),
        percent(canary.bad_share()),
        stable(beside)
    )
}

/// "stable 2 of 1,350"
fn stable(tally: Tally) -> String {
    if tally.requests == 0 {
        "stable had no requests".to_owned()
    } else {
        format!("stable {} of {}", count(tally.bad), count(tally.requests))
    }
}

/// "31 of 150 canary requests failed (21 %), stable 2 of 1,350 (0.15 %)"
fn side_by_side(look: &Observation) -> String {
    let Observation {
        canary,
        stable: beside,
    } = *look;
    let share = if beside.requests == 0 {
        String::new()
    } else {
        format!(" ({})", percent(beside.bad_share()))
    };
    format!(
        "{} of {} canary {} failed ({}), {}{share}",
        count(canary.bad),
        count(canary.requests),
        plural(canary.requests),
        percent(canary.bad_share()),
        stable(beside)
    )
}

/// "0.5 percentage points"
fn points(share: f64) -> String {
    let percent = percent(share);
    format!("{} percentage points", percent.trim_end_matches(" %"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::tests::{after, close, look, policy};

    const ERRORS: Criterion = Criterion::ErrorRate { max: 0.01 };
    const P99: Criterion = Criterion::Latency {
        quantile: 0.99,
        max: Duration::from_millis(250),
    };

    #[test]
    fn sentences_say_what_was_counted_and_what_it_means() {
        let policy = policy();
        let judge = |looks: &[Observation], next| after(looks, &policy).judge(&policy, next);
        let failing = [look((6, 30), (0, 270)), look((6, 30), (1, 270))];
        let failing = [failing[0], failing[1], look((19, 90), (1, 810))];
        let mut bad_second_step = after(&[look((0, 100_000), (0, 900_000))], &policy);
        bad_second_step.begin_step(25);
        bad_second_step.observe(&look((9, 100), (0, 300)), &policy);
        bad_second_step.observe(&look((3, 60), (0, 180)), &policy);
        for (judgement, criterion, rate, words) in [
            (
                judge(&[look((0, 40), (0, 360))], Some(25)),
                ERRORS,
                Some(0.02),
                "0 errors in 40 canary requests (stable 0 of 360): the rate is below 8.5 %; moving \
                 to 25 % needs below 4 %, about 47 more clean requests (≈ 39 min at this traffic).",
            ),
            (
                judge(&[look((1, 900), (9, 8_100))], Some(25)),
                P99,
                None,
                "1 too slow in 900 canary requests (stable 9 of 8,100): the share over 250 ms is \
                 below 0.69 %; moving to 25 % needs below 4 %.",
            ),
            (
                judge(&failing, Some(25)),
                ERRORS,
                None,
                "31 of 150 canary requests failed (21 %, objective 1 %); stable 2 of 1,350. The \
                 chance that a good version looks this bad is under 1 in 3,400.",
            ),
            (
                judge(&failing, Some(25)),
                P99,
                None,
                "31 of 150 canary requests took over 250 ms (21 %, objective p99 ≤ 250 ms (share \
                 over 250 ms ≤ 1 %)); stable 2 of 1,350. The chance that a good version looks this \
                 bad is under 1 in 3,400.",
            ),
            (
                judge(&[look((28, 30), (0, 270))], Some(25)),
                ERRORS,
                None,
                "28 of 30 canary requests failed in one scrape (93 %, objective 1 %); stable 0 of \
                 270. A version within its objective has less than one such scrape in a million.",
            ),
            (
                judge(&[look((9, 300), (81, 2_700)); 10], Some(25)),
                ERRORS,
                None,
                "90 of 3,000 canary requests failed (3 %, objective 1 %); stable 810 of 27,000. \
                 Suspect: the chance that a version within its objective looks this bad is under 1 \
                 in 1,000,000, but it is not proven worse than stable, so rolling back may not \
                 help; holding.",
            ),
            (
                bad_second_step.judge(&policy, Some(50)),
                ERRORS,
                Some(10.0),
                "12 errors in 100,160 canary requests (stable 0 of 900,480): the rate is below \
                 0.027 %; in this step alone 12 of 160, about 440 more clean requests (≈ 44 s at \
                 this traffic).",
            ),
            (
                judge(&[look((0, 0), (0, 300))], None),
                ERRORS,
                Some(0.0),
                "No canary requests yet (stable 0 of 300); promoting it needs below 1 %, about 351 \
                 more clean requests.",
            ),
        ] {
            assert_eq!(judgement.sentence(&criterion, rate), words);
        }
    }

    #[test]
    fn a_criterion_knows_its_budget() {
        close(ERRORS.budget(), 0.01);
        close(P99.budget(), 0.01);
        let p999 = Criterion::Latency {
            quantile: 0.999,
            max: Duration::from_millis(1_500),
        };
        assert_eq!(p999.to_string(), "p99.9 ≤ 1.5 s (share over 1.5 s ≤ 0.1 %)");
    }
}
