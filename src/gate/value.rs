//! The value of a user's query against its limits.
//!
//! Nothing is known of how such a value comes about, so there is no test of chance: three scrapes
//! in a row beyond a limit fail it, as operators would want from an alert with a `for`, and one
//! within lets it pass. A value that is not there is neither (the reading is blind).

use std::time::Duration;

use jiff::Timestamp;

use super::policy::GateVerdict;
use crate::evidence::ValueState;

/// So many scrapes in a row beyond a limit fail the gate.
pub(crate) const BREACHES: u32 = 3;

/// The limits of a value, both included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The lowest good value, if there is one.
    pub min: Option<f64>,
    /// The highest good value, if there is one.
    pub max: Option<f64>,
}

impl Limits {
    fn hold(self, value: f64) -> bool {
        self.min.is_none_or(|min| value >= min) && self.max.is_none_or(|max| value <= max)
    }
}

impl ValueState {
    /// The memory of a gate that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a step. A breach carries over; a failure does not, since continuing after
    /// one overrules it.
    pub fn begin_step(&mut self) {
        self.failed = false;
        self.breaches = self.breaches.min(BREACHES - 1);
    }

    /// Takes in the value of the moment `at`. A value that was read less than a scrape after the
    /// last one is of the same samples and changes nothing.
    pub fn observe(&mut self, value: f64, at: Timestamp, limits: Limits, interval: Duration) {
        // Looks are an interval apart, give or take what a busy machine adds.
        let soon = interval * 3 / 4;
        let since =
            |last: Timestamp| Duration::try_from(at.duration_since(last)).unwrap_or_default();
        if self.at.is_some_and(|last| since(last) < soon) {
            return;
        }
        // Nine digits come back from JSON as they were; no reader needs more.
        self.last = format!("{value:.8e}").parse().ok();
        self.at = Some(at);
        self.breaches = if limits.hold(value) {
            0
        } else {
            self.breaches.saturating_add(1)
        };
        self.failed |= self.breaches >= BREACHES;
    }

    /// What to do.
    pub fn verdict(&self) -> GateVerdict {
        if self.failed {
            GateVerdict::Fail
        } else if self.last.is_some() && self.breaches == 0 {
            GateVerdict::Pass
        } else {
            GateVerdict::NeedMoreData
        }
    }

    /// Whether the value is beyond a limit, though not yet for long enough.
    pub fn is_suspect(&self) -> bool {
        self.breaches > 0
    }

    /// The last value.
    pub fn last(&self) -> Option<f64> {
        self.last
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(15);
    const AT_MOST_3: Limits = Limits {
        min: None,
        max: Some(3.0),
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    /// The gate after values that are 15 s apart.
    fn after(values: &[f64]) -> ValueState {
        let mut state = ValueState::new();
        for (seconds, value) in (0..).step_by(15).zip(values) {
            state.observe(*value, at(seconds), AT_MOST_3, INTERVAL);
        }
        state
    }

    #[test]
    fn three_scrapes_in_a_row_beyond_a_limit_fail() {
        for (values, verdict) in [
            (&[][..], GateVerdict::NeedMoreData),
            (&[3.0], GateVerdict::Pass),
            (&[3.1], GateVerdict::NeedMoreData),
            (&[3.1, 3.1], GateVerdict::NeedMoreData),
            (&[3.1, 3.1, 2.0, 3.1, 3.1], GateVerdict::NeedMoreData),
            (&[3.1, 3.1, 2.0], GateVerdict::Pass),
            (&[3.1, 3.1, 3.1], GateVerdict::Fail),
            // A gate that waits for a person after a failure must not pass by itself.
            (&[3.1, 3.1, 3.1, 2.0], GateVerdict::Fail),
        ] {
            assert_eq!(after(values).verdict(), verdict, "{values:?}");
        }
        assert_eq!(
            after(&[9.0, 9.0, 9.25]).sentence(AT_MOST_3),
            "The value is 9.25, expected at most 3, for 3 scrapes in a row."
        );
    }

    #[test]
    fn looks_between_two_scrapes_count_once() {
        let mut state = ValueState::new();
        for second in 0..20 {
            state.observe(9.0, at(second), AT_MOST_3, INTERVAL);
        }
        assert_eq!(state.breaches, 2);
    }

    #[test]
    fn both_limits_are_good_values() {
        let limits = Limits {
            min: Some(-1.0),
            max: Some(1.0),
        };
        for (value, holds) in [(-1.0, true), (1.0, true), (-1.1, false), (1.1, false)] {
            assert_eq!(limits.hold(value), holds);
        }
    }

    #[test]
    fn a_new_step_forgets_the_failure_and_remembers_the_breach() {
        let mut state = after(&[9.0, 9.0, 9.0]);
        state.begin_step();
        assert_eq!(state.verdict(), GateVerdict::NeedMoreData);
        state.observe(9.0, at(100), AT_MOST_3, INTERVAL);
        assert_eq!(state.verdict(), GateVerdict::Fail);
    }

    #[test]
    fn it_survives_status() {
        for value in [0.1, 1.0 / 3.0, -1e300, 5e-324, 0.0] {
            let state = after(&[value]);
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<ValueState>(&json).unwrap(), state);
        }
    }
}
