//! Where a version starts: at the first step, or as high as its traffic needs and half of it allows.

use std::time::Duration;

use super::{analysis::new_gate, context::DecisionContext, objectives};
use crate::{
    api::{CanaryVersion, FirstStep, ModelDeploymentSpec, Phase, Progress, conditions::reasons},
    evidence::{BlindReason, Memory},
};

/// A version never starts with more than this share of the traffic, in percent.
pub const HIGHEST_START: u8 = 50;

/// Gives the canary its first weight.
pub(super) fn start(context: &mut DecisionContext<'_>, canary: &mut CanaryVersion) {
    let (index, why) = match context.spec.rollout.first_step {
        FirstStep::Declared => (0, String::new()),
        FirstStep::Adaptive => adapted(context.spec, context.snapshot.stable_rate.as_ref()),
    };
    let Some(first) = context.spec.rollout.steps.get(index) else {
        return;
    };
    let mut gates: Vec<_> = context
        .spec
        .gates()
        .iter()
        .map(|gate| new_gate(gate, context.now))
        .collect();
    for gate in &mut gates {
        gate.evidence.begin_step(first.weight);
    }
    canary.progress = Some(Progress {
        step: u32::try_from(index).unwrap_or(u32::MAX),
        step_since: context.now,
        blind_ms: 0,
        blind_since: None,
        approved: None,
        unready_since: None,
        gates,
    });
    canary.weight = first.weight;
    context.next.canary = Some(canary.clone());
    context.next.phase = Phase::Canary;
    let mut sentence = format!(
        "Version {} is Ready, verified and warm: it gets {} % of the traffic{why}.",
        canary.version, first.weight
    );
    if let Some(reason) = context.unmeasurable(|reason| !reason.is_outage()) {
        sentence = format!("{sentence} Not everything can be measured yet. {reason}");
    }
    context.record(reasons::CANARY_STARTED, first.weight, None, sentence);
}

/// The lowest step at which stable's traffic brings the requests that the next step asks for within the step's own time,
/// and why, in words. With little traffic a low first step would only take long: at 2 requests/s, 105 clean requests
/// take 9 minutes at 10 % and 2 minutes at 50 %, and the version that fails serves as many bad ones either way.
fn adapted(spec: &ModelDeploymentSpec, rate: Option<&Result<f64, BlindReason>>) -> (usize, String) {
    let steps = &spec.rollout.steps;
    let rate = match rate {
        Some(Ok(rate)) => rate,
        Some(Err(blind)) => {
            let why = format!(", the first step, since stable's traffic is not known: {blind}");
            return (0, why);
        }
        None => return (0, String::new()),
    };
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
            let why = format!(
                ", the lowest step at which stable's {rate:.1} requests/s would bring, within {}, the {needed} clean ones that the next step asks for",
                step.min_duration
            );
            return (index, why);
        }
    }
    let why = format!(
        ", the highest step to start at, since stable's {rate:.1} requests/s would at none bring the clean ones that the next step asks for"
    );
    (candidates.saturating_sub(1), why)
}

/// Clean requests that a version without history needs at a step before the next: those of the objective that asks for most.
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
