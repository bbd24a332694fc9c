//! The objectives of a load test, and whether they were met.

use std::time::Duration;

use serde::Serialize;

use super::args::BenchArgs;
use super::memory::Memory;
use super::stats::Step;

/// One objective at one rate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Objective {
    /// In words, as `p99 ≤ 100 ms at 400/s`.
    pub name: String,
    /// What was found, in words.
    pub found: String,
    pub held: bool,
}

/// Holds the steps to the objectives of the command line. What could not be measured was not held.
pub(super) fn judge(args: &BenchArgs, steps: &[Step], memory: Option<&Memory>) -> Vec<Objective> {
    let latencies = [
        (50.0, args.max_p50),
        (95.0, args.max_p95),
        (99.0, args.max_p99),
        (99.9, args.max_p999),
    ];
    let mut objectives = Vec::new();
    for step in steps {
        for (percent, bound) in latencies {
            objectives.extend(bound.map(|bound| latency(step, percent, bound)));
        }
        objectives.extend(args.max_error_rate.map(|bound| Objective {
            name: format!("errors ≤ {} % at {}/s", bound * 100.0, step.rate),
            found: format!(
                "{:.3} % of {} requests",
                step.error_rate * 100.0,
                step.requests
            ),
            held: step.requests > 0 && step.error_rate <= bound,
        }));
    }
    objectives.extend(args.max_memory_growth.map(|bound| {
        let growth = memory.and_then(|memory| memory.growth);
        Objective {
            name: format!("memory grows ≤ {} %", bound * 100.0),
            found: growth.map_or("not measured".to_owned(), |growth| {
                format!("{:+.2} %", growth.share * 100.0)
            }),
            held: growth.is_some_and(|growth| growth.share <= bound),
        }
    }));
    objectives
}

fn latency(step: &Step, percent: f64, bound: Duration) -> Objective {
    let bound = bound.as_secs_f64() * 1e3;
    let count = step.latency.count;
    let found = step.latency.at(percent);
    Objective {
        name: format!("p{percent} ≤ {bound} ms at {}/s", step.rate),
        found: found.map_or(
            format!("not measured: {count} samples are too few"),
            |found| format!("{found:.2} ms of {count} samples"),
        ),
        held: found.is_some_and(|found| found <= bound),
    }
}
