//! Reads the past of the version that served, look by look, with the operator's own queries.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{CanaryVersion, GateMemory, ModelDeployment, Progress, Revision, State, VersionRef},
    evidence::{BlindReason, Cursors, Reading},
    observe::EvidenceReader,
    rollout::begun,
};

/// One look: a reading for each objective, of all requests since the previous look.
#[derive(Clone, Debug)]
pub struct PastLook {
    /// The time of the look.
    pub at: Timestamp,
    /// The readings. All requests are the canary's, since the serving version is read as the
    /// canary.
    pub readings: Vec<Result<Reading, BlindReason>>,
}

/// Reads a period of one revision's past as the operator would have read it: a look after each
/// interval, each counting what no earlier look has counted. After each look, `progress` is called
/// with the number of looks done and in all.
pub async fn read(
    evidence: &EvidenceReader,
    model: &ModelDeployment,
    revision: &Revision,
    from: Timestamp,
    to: Timestamp,
    mut progress: impl FnMut(usize, usize),
) -> Vec<PastLook> {
    let interval = SignedDuration::try_from(evidence.interval()).unwrap_or(SignedDuration::MAX);
    let count = to.duration_since(from).as_millis() / interval.as_millis().max(1);
    let count = usize::try_from(count).unwrap_or(0);
    let state = serving_on_trial(revision, from);
    let gates = model.spec.gates();
    let mut memory: Vec<_> = gates.iter().map(|gate| begun(gate, from)).collect();
    let mut looks = Vec::with_capacity(count);
    let mut at = from;
    for number in 1..=count {
        at += interval;
        let mut readings = evidence.read(model, &state, &memory, at).await;
        for (gate, reading) in memory.iter_mut().zip(&mut readings) {
            take_over(gate, reading);
        }
        looks.push(PastLook { at, readings });
        progress(number, count);
    }
    looks
}

/// A state with the serving version as canary, so that its requests are counted.
fn serving_on_trial(revision: &Revision, from: Timestamp) -> State {
    let serving = VersionRef {
        revision: revision.clone(),
        version: String::new(),
    };
    State {
        canary: Some(CanaryVersion {
            revision: serving.revision.clone(),
            version: String::new(),
            weight: 100,
            since: from,
            rollback: false,
            progress: Some(Progress {
                step: 0,
                step_since: from,
                metrics_outage_ms: 0,
                metrics_outage_since: None,
                paused_since: None,
                approved: None,
                unready_since: None,
                gates: Vec::new(),
            }),
        }),
        stable: Some(serving),
        ..State::default()
    }
}

/// Keeps the cursors, and drops from the reading what would take too much memory in a backtest of
/// 40,000 looks.
fn take_over(gate: &mut GateMemory, reading: &mut Result<Reading, BlindReason>) {
    let drained = || Cursors::starting_at(0);
    match reading {
        Ok(Reading::Counts(window)) => {
            gate.cursors = std::mem::replace(&mut window.cursors, drained());
            gate.threshold.clone_from(&window.threshold);
            window.query = String::new();
        }
        Ok(Reading::Classes(classes)) => {
            gate.cursors = std::mem::replace(&mut classes.cursors, drained());
            classes.query = String::new();
        }
        Ok(Reading::Value(value)) => value.query = String::new(),
        Err(_) => {}
    }
}
