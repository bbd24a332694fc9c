//! What the evidence on an objective says, and its limit, in words.

use std::fmt;

use crate::{
    evidence::ValueState,
    gate::{BREACHES, Conclusion, GateVerdict, Limits},
};

impl Conclusion {
    /// What the evidence says.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::Requests {
                judged,
                criterion,
                rate,
                ..
            } => judged.sentence(criterion, *rate),
            Self::AwaitsQuantile { quantile, .. } => format!(
                "Stable's p{} is not known yet: it needs {:.0} requests within an hour.",
                quantile * 100.0,
                5.0 / (1.0 - quantile)
            ),
            Self::Drift(judged) => judged.sentence(),
            Self::Value { state, limits } => state.sentence(*limits),
        }
    }

    /// The limit that the objective sets.
    pub(crate) fn limit(&self) -> String {
        match self {
            Self::Requests {
                criterion, asked, ..
            } => {
                let edge = asked.map(|asked| format!(", the bucket edge below {asked:?}"));
                format!("{criterion}{}", edge.unwrap_or_default())
            }
            Self::AwaitsQuantile { quantile, by } => {
                format!("stable's p{} and {} %", quantile * 100.0, by * 100.0)
            }
            Self::Drift(judged) => judged.limit(),
            Self::Value { limits, .. } => limits.to_string(),
        }
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.max) {
            (Some(min), Some(max)) => write!(f, "{min} to {max}"),
            (Some(min), None) => write!(f, "at least {min}"),
            (None, Some(max)) => write!(f, "at most {max}"),
            (None, None) => f.write_str("any value"),
        }
    }
}

impl ValueState {
    /// The last value and its limits, in words.
    pub fn sentence(&self, limits: Limits) -> String {
        let Some(value) = self.last() else {
            return format!("No value yet, expected {limits}.");
        };
        let said = format!("The value is {value}");
        match (self.verdict(), self.breaches) {
            (GateVerdict::Fail, 0) => format!(
                "{said} again, expected {limits}, after {BREACHES} scrapes in a row beyond that."
            ),
            (GateVerdict::Fail, breaches) => {
                format!("{said}, expected {limits}, for {breaches} scrapes in a row.")
            }
            (GateVerdict::Pass, _) => format!("{said}, expected {limits}."),
            (GateVerdict::NeedMoreData, breaches) => format!(
                "{said}, expected {limits}: beyond it for {breaches} of {BREACHES} scrapes in a \
                 row; holding."
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_name_both_ends() {
        let limits = Limits {
            min: Some(-1.0),
            max: Some(1.0),
        };
        assert_eq!(limits.to_string(), "-1 to 1");
    }
}
