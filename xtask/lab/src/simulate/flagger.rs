//! Flagger's rules (fluxcd/flagger, docs "How it works" and `pkg/controller/scheduler.go`):
//!
//! - every `analysis.interval`, `advanceCanary` first rolls back if `FailedChecks >= threshold`, so
//!   a rollback comes one interval after the failed check that completes the threshold;
//! - then it runs the checks in order; the first that fails adds one to `FailedChecks` and ends the
//!   evaluation. The number is kept over all steps of a rollout;
//! - `request-success-rate` must be at least its minimum and `request-duration` (p99 in whole
//!   milliseconds) at most its maximum; no value, NaN and a failed query are failed checks
//!   (`scheduler_metrics.go`, `providers/prometheus.go`);
//! - an evaluation whose checks pass takes the next of `stepWeights`; past the last one it
//!   promotes.
//!
//! One thing is ours: each weight is held for five passed checks, so that all gates have the same
//! steps of five minutes. Flagger itself would take a step with each passed check.

use super::gate::{Gate, Move, STEPS};
use super::prometheus::{Answer, Counters, Prometheus, Sample};

/// `analysis.interval: 60s`, in seconds.
const INTERVAL: u32 = 60;
/// `analysis.threshold: 5`.
const THRESHOLD: u32 = 5;
/// Passed checks before the next weight.
const CHECKS_A_STEP: u32 = 5;

/// Success rate at least 99 %.
const MIN_SUCCESS: f64 = 0.99;
/// p99 at most 250 ms.
const MAX_P99: f64 = 250.0;

/// One rollout by Flagger.
#[derive(Debug, Default)]
pub struct Flagger {
    failed_checks: u32,
    step: usize,
    passed_in_step: u32,
}

impl Gate for Flagger {
    fn evaluate(&mut self, now: u32, prometheus: &Prometheus) -> Move {
        if !now.is_multiple_of(INTERVAL) {
            return Move::Stay;
        }
        if self.failed_checks >= THRESHOLD {
            return Move::RollBack;
        }
        if !checks_pass(now, prometheus) {
            self.failed_checks += 1;
            return Move::Stay;
        }
        self.passed_in_step += 1;
        if self.passed_in_step < CHECKS_A_STEP {
            return Move::Stay;
        }
        self.passed_in_step = 0;
        self.step += 1;
        STEPS
            .get(self.step)
            .map_or(Move::Promote, |weight| Move::Weight(*weight))
    }
}

fn checks_pass(now: u32, prometheus: &Prometheus) -> bool {
    let canary: fn(&Sample) -> &Counters = |sample| &sample.canary;
    let success = match prometheus.success_rate(now, canary) {
        Answer::Value(rate) => rate >= MIN_SUCCESS,
        Answer::Empty | Answer::Unreachable => false,
    };
    success
        && match prometheus.p99(now, canary) {
            Answer::Value(p99) => p99.trunc() <= MAX_P99,
            Answer::Empty | Answer::Unreachable => false,
        }
}

#[cfg(test)]
mod tests {
    use super::super::gate::tests::{end, looks};
    use super::*;

    #[test]
    fn a_rollback_comes_one_interval_after_the_fifth_failed_check() {
        let nothing = end(&mut Flagger::default(), |_, _| {});
        assert_eq!(nothing, (Move::RollBack, 360));
    }

    #[test]
    fn failed_checks_are_not_forgotten_when_a_step_is_taken() {
        let mut flagger = Flagger::default();
        // One minute of five is bad.
        let outcome = end(&mut flagger, |second, prometheus| {
            looks(
                prometheus,
                second,
                30,
                if second % 300 < 240 { 0 } else { 10 },
            );
        });
        assert_eq!(outcome.0, Move::RollBack);
        assert!(flagger.step >= 1);
    }

    #[test]
    fn a_healthy_version_is_promoted_after_twenty_checks() {
        let outcome = end(&mut Flagger::default(), |second, prometheus| {
            looks(prometheus, second, 30, 0);
        });
        assert_eq!(outcome, (Move::Promote, 1_200));
    }
}
