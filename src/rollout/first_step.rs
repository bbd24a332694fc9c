//! Where a version starts: at the first step, or as high as its traffic needs and half of it
//! allows.

use std::time::Duration;

use super::objectives;
use crate::{
    api::{ModelDeploymentSpec, StartAt},
    evidence::{BlindReason, Memory},
    sentences::FirstStepReason,
};

/// A version never starts with more than this share of the traffic, in percent.
pub const HIGHEST_START: u8 = 50;

/// The index of the step at which a version starts, and why. `rate` is stable's requests a second,
/// where they were measured.
pub(super) fn first_step(
    spec: &ModelDeploymentSpec,
    rate: Option<&Result<f64, BlindReason>>,
) -> (usize, FirstStepReason) {
    match (spec.rollout.start_at, rate) {
        (StartAt::FirstStep, _) | (_, None) => (0, FirstStepReason::Declared),
        (StartAt::ByTraffic, Some(Ok(rate))) => adapted(spec, *rate),
        (StartAt::ByTraffic, Some(Err(blind))) => (0, FirstStepReason::RateUnknown(blind.clone())),
    }
}

/// The lowest step at which stable's traffic brings the requests that the next step asks for within
/// the step's own time. With little traffic a low first step would only take long: at 2 requests/s,
/// 105 clean requests take 9 minutes at 10 % and 2 minutes at 50 %, and the version that fails
/// serves as many bad ones either way.
fn adapted(spec: &ModelDeploymentSpec, rate: f64) -> (usize, FirstStepReason) {
    let steps = &spec.rollout.steps;
    let candidates = steps
        .iter()
        .take_while(|step| step.weight <= HIGHEST_START)
        .count();
    for (index, step) in steps.iter().enumerate().take(candidates) {
        let time = Duration::from(step.min_duration);
        let expected = rate * f64::from(step.weight) / 100.0 * time.as_secs_f64();
        let Some(needed) = needed(spec, index) else {
            continue;
        };
        if expected >= needed as f64 {
            let why = FirstStepReason::Enough {
                rate,
                within: step.min_duration,
                needed,
            };
            return (index, why);
        }
    }
    let highest = candidates.saturating_sub(1);
    (highest, FirstStepReason::Highest { rate })
}

/// Clean requests that a version without history needs at a step before the next: those of the
/// objective that asks for most.
fn needed(spec: &ModelDeploymentSpec, index: usize) -> Option<u64> {
    let steps = &spec.rollout.steps;
    let next = steps.get(index + 1).map(|next| next.weight);
    let gates = spec.gates();
    let lacking = gates.iter().filter_map(|gate| {
        let policy = objectives::policy(spec, gate, gates.len(), index);
        Memory::new(gate).clean_requests_needed(&policy, next)
    });
    lacking.collect::<Option<Vec<_>>>()?.into_iter().max()
}
