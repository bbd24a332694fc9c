//! A judgement in words, always with the numbers.

use std::fmt::{self, Display};
use std::time::Duration;

use super::{GateVerdict, Judgement, Tally};

/// What makes a request bad, for the words of a [`Judgement`] and for the gate's budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Criterion {
    /// The answer was a 5xx.
    ErrorRate {
        /// The share of failed requests that the objective allows: 0.01 for 1 %.
        max: f64,
    },
    /// The answer took too long. "p-quantile ≤ T" is the same as "a share of at most 1 − p over T".
    Latency {
        /// The quantile, between 0 and 1: 0.99 for p99.
        quantile: f64,
        /// The longest time that this quantile may take.
        max: Duration,
    },
}

impl Criterion {
    /// The share of bad requests that the objective allows, for
    /// [`GatePolicy::budget`](super::GatePolicy::budget).
    pub fn budget(&self) -> f64 {
        match *self {
            Self::ErrorRate { max } => max,
            Self::Latency { quantile, .. } => 1.0 - quantile,
        }
    }

    /// "31 of 150 canary requests *failed*".
    fn verb(&self) -> String {
        match self {
            Self::ErrorRate { .. } => "failed".to_owned(),
            Self::Latency { max, .. } => format!("took over {}", span(*max)),
        }
    }

    /// "0 *errors* in 40 requests".
    fn noun(&self, count: u64) -> &'static str {
        match (self, count) {
            (Self::ErrorRate { .. }, 1) => "error",
            (Self::ErrorRate { .. }, _) => "errors",
            (Self::Latency { .. }, _) => "too slow",
        }
    }

    /// "*the rate* is below 9.5 %".
    fn share(&self) -> String {
        match self {
            Self::ErrorRate { .. } => "the rate".to_owned(),
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
        }
    }
}

impl Judgement {
    /// The judgement in words. `canary_rate` is the canary's requests a second, to tell how long the
    /// requests still lacking will take; `None` leaves that out.
    ///
    /// "The chance that a good version looks this bad is under 1 in N" is the guarantee of the
    /// evidence, no estimate: a version that stays within its objective, or within stable's bad share,
    /// ever brings the evidence to `N` with probability at most `1/N`.
    pub fn sentence(&self, criterion: &Criterion, canary_rate: Option<f64>) -> String {
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
                "{counts}. A version within its objective has less than one such scrape in a million."
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
                "{counts}. Suspect: the chance that a version within its objective looks this bad is \
                 under {chance}, {why}; holding."
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

/// "1 in 340", rounded so that the chance is not understated; no more than a million is claimed.
pub(super) fn one_in(evidence: f64) -> String {
    let evidence = evidence.clamp(1.0, 1e6);
    let unit = 10_f64.powi((evidence.log10().floor() as i32 - 1).max(0));
    format!("1 in {}", count(((evidence / unit).floor() * unit) as u64))
}

pub(super) fn plural(requests: u64) -> &'static str {
    if requests == 1 { "request" } else { "requests" }
}

/// "1,350"
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A share in percent with two significant digits: "21 %", "9.5 %", "0.1 %".
pub(super) fn percent(share: f64) -> String {
    two_digits(share * 100.0, f64::round)
}

/// The same, rounded up: an upper bound must stay one.
pub(super) fn percent_up(share: f64) -> String {
    // The tolerance keeps 4.000000000000001 from becoming 4.1.
    two_digits(share * 100.0, |value| (value - 1e-9).ceil())
}

fn two_digits(percent: f64, round: impl Fn(f64) -> f64) -> String {
    if percent <= 0.0 {
        return "0 %".to_owned();
    }
    let scale = 10_f64.powi(1 - percent.log10().floor() as i32);
    format!("{} %", tidy(round(percent * scale) / scale))
}

/// Without the digits that only binary fractions need: 99.9, not 99.90000000000001.
fn tidy(value: f64) -> f64 {
    (value * 1e9).round() / 1e9
}

/// A threshold as people write it: "250 ms", "1.5 s".
fn span(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", tidy(time.as_secs_f64() * 1_000.0))
    } else {
        format!("{} s", tidy(time.as_secs_f64()))
    }
}

/// A time to wait, in its largest fitting unit: "45 s", "54 min", "6.1 h", "3 d".
pub(super) fn about(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7_200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.1} h", seconds / 3_600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}
