//! The memory with which a look begins. Pure.

use jiff::Timestamp;

use crate::{
    api::{Gate, GateMemory, ModelDeploymentSpec, State, TrialMemory},
    evidence::{Cursors, Memory},
};

/// The memory of each gate of the spec, for a canary with weight; empty without one. `kept` is what
/// was kept last.
///
/// It may be older than the state, or lost. Nothing is lost with it but time: Prometheus still has
/// the samples behind the cursors, and a gate without memory counts its step from the step's
/// beginning. A gate that the trial did not have before counts from `now`.
pub fn resume(
    spec: &ModelDeploymentSpec,
    state: &State,
    kept: Option<&TrialMemory>,
    now: Timestamp,
) -> Vec<GateMemory> {
    let Some(canary) = &state.canary else {
        return Vec::new();
    };
    let Some(progress) = &canary.progress else {
        return Vec::new();
    };
    let kept = kept.filter(|kept| kept.revision == canary.revision && kept.since == canary.since);
    let gates = spec.gates();
    let resumed = gates.iter().map(|gate| {
        let known = kept.and_then(|kept| {
            let known = kept.gates.iter().find(|memory| memory.is_of(gate))?;
            Some((known.clone(), kept.step_since))
        });
        match known {
            Some((memory, step_since)) if step_since == progress.step_since => memory,
            // A crash between the two writes: the state has begun a step that the memory has not.
            Some((mut memory, _)) => {
                memory.evidence.begin_step(canary.weight);
                memory
            }
            None => {
                let was_judged = progress.gates.iter().any(|record| record.is_of(gate));
                let from = if was_judged { progress.step_since } else { now };
                let mut memory = begun(gate, from);
                memory.evidence.begin_step(canary.weight);
                memory
            }
        }
    });
    resumed.collect()
}

/// The memory of a gate that has counted nothing, and counts from a time on.
pub fn begun(gate: &Gate, from: Timestamp) -> GateMemory {
    GateMemory {
        objective: gate.name.clone(),
        measures: gate.measures(),
        threshold: None,
        evidence: Memory::new(gate),
        cursors: Cursors::starting_at(from.as_millisecond()),
    }
}
