//! What was known of an objective when a decision was taken, for its record.

use std::time::Duration;

use super::objectives::Finding;
use crate::{
    api::{GateRecord, ObjectiveRecord, Verdict},
    evidence::{BlindReason, Reading},
    gate::GateVerdict,
    sentences,
};

impl From<GateVerdict> for Verdict {
    fn from(verdict: GateVerdict) -> Self {
        match verdict {
            GateVerdict::Pass => Self::Pass,
            GateVerdict::Fail => Self::Fail,
            GateVerdict::NeedMoreData => Self::NeedMoreData,
        }
    }
}

/// What is known of one objective at one look. `window` is how far back its query reached. Where
/// the reading is blind, the counts are those before it.
pub(super) fn record(
    gate: &GateRecord,
    finding: &Finding,
    reading: Option<&Result<Reading, BlindReason>>,
    window: Duration,
) -> ObjectiveRecord {
    let (verdict, query, sentence) = match reading {
        Some(Ok(reading)) => (
            finding.verdict.into(),
            reading.query().to_owned(),
            gate.sentence.clone(),
        ),
        Some(Err(blind)) => (
            Verdict::NoMetrics,
            String::new(),
            sentences::unread(Some(blind)),
        ),
        None => (Verdict::NoMetrics, String::new(), sentences::unread(None)),
    };
    ObjectiveRecord {
        objective: gate.objective.clone(),
        verdict,
        threshold: finding.conclusion.limit(),
        query,
        window_seconds: window.as_secs(),
        step: finding.counts.map(|(step, _)| step),
        rollout: finding.counts.map(|(_, rollout)| rollout),
        value: finding.value.map(shortened),
        upper_bound: finding.bound.map(|(bound, _)| rounded_up(bound)),
        bound_needed: finding.bound.map(|(_, needed)| rounded_up(needed)),
        sentence,
    }
}

/// A share with four significant digits, rounded up: what is below the one is below the other. So
/// short a number comes back from every JSON reader as the same one.
fn rounded_up(share: f64) -> f64 {
    if share <= 0.0 {
        return 0.0;
    }
    let scale = 10_f64.powi(3 - share.log10().floor() as i32);
    ((share * scale - 1e-9).ceil() / scale).min(1.0)
}

/// A value with nine significant digits, for the same reason.
fn shortened(value: f64) -> f64 {
    format!("{value:.8e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp)] // the very number is meant
    fn a_bound_is_short_and_never_too_low() {
        for (share, short) in [
            (0.04, 0.04),
            (0.012_345_6, 0.01235),
            (0.999_99, 1.0),
            (1.0, 1.0),
            (0.0, 0.0),
            (0.000_001_000_04, 0.000_001_001),
        ] {
            assert_eq!(rounded_up(share), short);
        }
        assert_eq!(shortened(1.0 / 3.0), 0.333_333_333);
        assert_eq!(shortened(-2e300), -2e300);
    }
}
