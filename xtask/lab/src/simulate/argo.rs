//! Argo Rollouts' rules (argoproj/argo-rollouts, docs/features/analysis.md and
//! analysis/analysis.go), with an analysis of `interval: 60s`, `count: 5`, `failureLimit: 2`,
//! `initialDelay: 60s` as a step after each weight:
//!
//! - a measurement is Successful, Failed, Inconclusive or Error; with a `successCondition` alone,
//!   what is not a success is Failed (utils/evaluate);
//! - NaN makes `result[0] >= 0.99` false, so it is Failed (docs, "NaN and Infinity"); an empty
//!   answer has no `result[0]`, so the condition cannot be evaluated: Error;
//! - a metric is Failed once `failed > failureLimit`, in Error once `consecutiveError >
//!   consecutiveErrorLimit` (4), and Successful once `count` measurements that are no errors have
//!   been taken; each metric counts for itself;
//! - a run that ends Failed or in Error aborts the rollout; one that ends Successful lets the next
//!   step begin.

use super::gate::{Gate, Move, STEPS};
use super::prometheus::{Answer, Counters, Prometheus, Sample};

/// `interval: 60s`, in seconds.
const INTERVAL: u32 = 60;
/// `count: 5`.
const COUNT: u32 = 5;
/// `failureLimit: 2`.
const FAILURE_LIMIT: u32 = 2;
/// `consecutiveErrorLimit`, by default.
const CONSECUTIVE_ERROR_LIMIT: u32 = 4;

/// Success rate at least 99 %.
const MIN_SUCCESS: f64 = 0.99;
/// p99 at most 250 ms.
const MAX_P99: f64 = 250.0;

/// How the conditions are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// `result[0] >= 0.99`.
    Plain,
    /// `len(result) == 0 || isNaN(result[0]) || result[0] >= 0.99`, as the docs advise for little
    /// traffic.
    MissingPasses,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Successful,
    Failed,
    Error,
}

/// One metric of an analysis run.
#[derive(Debug, Default)]
struct Metric {
    failed: u32,
    successful: u32,
    consecutive_errors: u32,
}

/// One rollout by Argo Rollouts.
#[derive(Debug)]
pub struct Argo {
    condition: Condition,
    step: usize,
    /// When the step's analysis began.
    since: u32,
    success_rate: Metric,
    p99: Metric,
}

impl Argo {
    /// A rollout whose conditions are written so.
    pub fn new(condition: Condition) -> Self {
        Self {
            condition,
            step: 0,
            since: 0,
            success_rate: Metric::default(),
            p99: Metric::default(),
        }
    }

    fn measure(&self, answer: Answer, holds: impl Fn(f64) -> bool) -> Phase {
        match answer {
            Answer::Empty if self.condition == Condition::MissingPasses => Phase::Successful,
            Answer::Unreachable | Answer::Empty => Phase::Error,
            Answer::Value(value)
                if value.is_nan() && self.condition == Condition::MissingPasses =>
            {
                Phase::Successful
            }
            Answer::Value(value) if holds(value) => Phase::Successful,
            Answer::Value(_) => Phase::Failed,
        }
    }
}

impl Metric {
    /// Takes a measurement in, unless the metric is complete; how the metric ended, if it has.
    fn take(&mut self, measured: &Phase) -> Option<Phase> {
        if self.failed + self.successful >= COUNT {
            return Some(Phase::Successful);
        }
        match measured {
            Phase::Successful => self.successful += 1,
            Phase::Failed => self.failed += 1,
            Phase::Error => self.consecutive_errors += 1,
        }
        if *measured != Phase::Error {
            self.consecutive_errors = 0;
        }
        if self.failed > FAILURE_LIMIT {
            Some(Phase::Failed)
        } else if self.consecutive_errors > CONSECUTIVE_ERROR_LIMIT {
            Some(Phase::Error)
        } else if self.failed + self.successful >= COUNT {
            Some(Phase::Successful)
        } else {
            None
        }
    }
}

impl Gate for Argo {
    fn evaluate(&mut self, now: u32, prometheus: &Prometheus) -> Move {
        if !(now - self.since).is_multiple_of(INTERVAL) {
            return Move::Stay;
        }
        let canary: fn(&Sample) -> &Counters = |sample| &sample.canary;
        let success = self.measure(prometheus.success_rate(now, canary), |rate| {
            rate >= MIN_SUCCESS
        });
        let latency = self.measure(prometheus.p99(now, canary), |p99| p99 <= MAX_P99);
        let ended = (self.success_rate.take(&success), self.p99.take(&latency));
        match ended {
            (Some(Phase::Failed | Phase::Error), _) | (_, Some(Phase::Failed | Phase::Error)) => {
                Move::RollBack
            }
            (Some(Phase::Successful), Some(Phase::Successful)) => {
                *self = Self {
                    step: self.step + 1,
                    since: now,
                    ..Self::new(self.condition)
                };
                STEPS
                    .get(self.step)
                    .map_or(Move::Promote, |weight| Move::Weight(*weight))
            }
            _ => Move::Stay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gate::tests::{end, looks};
    use super::*;

    fn ends(condition: Condition, requests: u64, errors: u64) -> (Move, u32) {
        end(&mut Argo::new(condition), |second, prometheus| {
            looks(prometheus, second, requests, errors);
        })
    }

    #[test]
    fn the_third_failed_measurement_aborts() {
        assert_eq!(ends(Condition::Plain, 30, 6), (Move::RollBack, 180));
        assert_eq!(ends(Condition::Plain, 30, 0), (Move::Promote, 1_200));
    }

    #[test]
    fn a_version_without_any_good_answer_is_an_error_or_passes() {
        assert_eq!(ends(Condition::Plain, 30, 30), (Move::RollBack, 300));
        assert_eq!(
            ends(Condition::MissingPasses, 30, 30),
            (Move::Promote, 1_200)
        );
    }

    #[test]
    fn an_error_is_not_counted_as_a_measurement() {
        let mut prometheus_is_late = Argo::new(Condition::Plain);
        let outcome = end(&mut prometheus_is_late, |second, prometheus| {
            prometheus.away = second <= 120;
            looks(prometheus, second, 30, 0);
        });
        assert_eq!(outcome, (Move::Promote, 1_320));
    }
}
