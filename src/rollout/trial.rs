//! The trial of a canary that has weight: one look, one verdict, one move at most.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    evidence,
    gate::{Criterion, GatePolicy, GateState, GateVerdict},
    moves,
    turn::{Turn, signed},
    word,
};
use crate::{
    api::{
        CanaryVersion, GateRecord, Objective, ObjectiveRecord, Phase, Progress, Step, Verdict,
        VersionRef, conditions::reasons,
    },
    observe::metrics::{Cursors, Reading, Snapped},
};

/// A canary with weight may be without a ready pod for this long; the router sends its share to stable meanwhile.
const UNREADY_PATIENCE: Duration = Duration::from_secs(60);
/// Requests in a step from which the observed share of traffic must resemble the weight.
const SHARE_CHECK_REQUESTS: u64 = 200;
/// How many times off the weight the observed share may be before the counts are not believed.
const SHARE_TOLERANCE: f64 = 3.0;
/// Scrapes after which a step's own requests outweigh those that stable answered before it: its first scrape counts whole.
const SHARE_SETTLES: u32 = 2;

/// Takes in one look and makes the move that it asks for.
pub(super) fn judge(
    turn: &mut Turn<'_>,
    stable: &VersionRef,
    mut canary: CanaryVersion,
) -> Option<Duration> {
    let mut progress = canary.progress.take()?;
    if !realign(turn, &mut canary, &mut progress) {
        start_over(turn, canary);
        return Some(Duration::ZERO);
    }
    let steps = &turn.spec.rollout.steps;
    let next = steps.get(progress.step as usize + 1).cloned();
    let judged = look(turn, &mut progress, next.as_ref());
    turn.evidence.clone_from(&judged.evidence);
    let cannot_serve = pods_fail(turn, &canary, &mut progress);
    let outage = judged
        .blind
        .clone()
        .or_else(|| share_is_off(turn, &canary, &progress));
    canary.progress = Some(progress);
    turn.next.canary = Some(canary.clone());

    // The order is the order of precedence: facts, a person's word, the evidence, and last what is missing.
    if let Some(reason) = cannot_serve.or_else(|| judged.hard_failure.clone()) {
        turn.roll_back(stable, &canary, Some(Verdict::Fail), &reason);
        return Some(Duration::ZERO);
    }
    if word::promote_full(turn, stable, &canary) {
        return Some(Duration::ZERO);
    }
    if let Some(reason) = &judged.fail {
        moves::fail(turn, stable, &canary, reason);
    } else if let Some(reason) = &outage {
        moves::blind(turn, stable, canary, reason);
    } else {
        moves::sighted(turn, &mut canary);
        word::hear_approval(turn, &mut canary);
        moves::go_on(turn, stable, canary, next.as_ref(), &judged);
    }
    let over = turn.next.canary.is_none();
    Some(if over { Duration::ZERO } else { turn.interval })
}

/// No declared step is as low as the weight that the canary has: it starts over from no weight.
fn start_over(turn: &mut Turn<'_>, mut canary: CanaryVersion) {
    let sentence = format!(
        "No step of spec.rollout.steps is as low as {} % any more: version {} starts over, all traffic is on stable.",
        canary.weight, canary.version
    );
    canary.weight = 0;
    turn.next.phase = Phase::Preparing;
    turn.next.canary = Some(canary);
    turn.record(reasons::STEPS_CHANGED, 0, None, sentence);
}

/// What one look says, over all gates.
pub(super) struct Judged {
    /// Why the canary fails, if it does.
    fail: Option<String>,
    /// The same where one scrape was so bad that no statistics and no person are waited for.
    hard_failure: Option<String>,
    /// Why the counts cannot be believed, if so.
    blind: Option<String>,
    /// Whether every gate passes.
    pub(super) pass: bool,
    /// Whether some gate suspects the canary.
    pub(super) suspect: bool,
    /// All gates' sentences.
    pub(super) sentence: String,
    /// What is known of each objective.
    evidence: Vec<ObjectiveRecord>,
}

/// Feeds each gate what was read for it. A gate whose reading is blind stays as it was.
fn look(turn: &Turn<'_>, progress: &mut Progress, next: Option<&Step>) -> Judged {
    let spec = turn.spec;
    let min_requests = spec
        .rollout
        .steps
        .get(progress.step as usize)
        .map_or(0, |step| step.min_requests);
    let mut judged = Judged {
        fail: None,
        hard_failure: None,
        blind: None,
        pass: true,
        suspect: false,
        sentence: String::new(),
        evidence: Vec::new(),
    };
    let seconds = moves::baked(turn, progress).as_secs_f64();
    for (index, (objective, gate)) in spec.objectives.iter().zip(&mut progress.gates).enumerate() {
        let policy = policy(
            objective,
            spec.objectives.len(),
            spec.rollout.steps.len(),
            min_requests,
        );
        let window = gate.cursors.span(turn.now, turn.interval).range;
        let reading = turn.snapshot.readings.get(index);
        match reading {
            Some(Ok(Reading::Counts(window))) => {
                gate.evidence.observe(&window.look, &policy);
                gate.cursors.clone_from(&window.cursors);
                gate.threshold.clone_from(&window.threshold);
            }
            Some(Ok(_)) => {
                judged.blind = Some(format!("{}: what was read is not requests", gate.objective));
            }
            Some(Err(blind)) => judged.blind = Some(format!("{}: {blind}", gate.objective)),
            None => judged.blind = Some(format!("{}: the metrics were not read", gate.objective)),
        }
        let judgement = gate.evidence.judge(&policy, next.map(|step| step.weight));
        let rate = (seconds >= 1.0).then(|| judgement.step.canary.requests as f64 / seconds);
        let criterion = criterion(objective, gate.threshold.as_ref());
        gate.sentence = judgement.sentence(&criterion, rate);
        judged.evidence.push(evidence::record(
            gate, &judgement, &criterion, reading, window,
        ));
        judged.pass &= judgement.verdict == GateVerdict::Pass;
        judged.suspect |= judgement.suspect;
        if judgement.verdict == GateVerdict::Fail && judged.fail.is_none() {
            judged.fail = Some(gate.sentence.clone());
        }
        if judgement.guard.is_some() && judged.hard_failure.is_none() {
            judged.hard_failure = Some(gate.sentence.clone());
        }
    }
    judged.sentence = progress
        .gates
        .iter()
        .map(|gate| gate.sentence.as_str())
        .collect::<Vec<_>>()
        .join(" ");
    judged
}

/// The policy of an objective's gate.
pub(super) fn policy(
    objective: &Objective,
    gates: usize,
    steps: usize,
    min_requests: i64,
) -> GatePolicy {
    let gates = u32::try_from(gates).unwrap_or(u32::MAX);
    let steps = u32::try_from(steps).unwrap_or(u32::MAX);
    GatePolicy {
        min_requests: u64::try_from(min_requests).unwrap_or(0),
        ..GatePolicy::new(criterion(objective, None).budget(), gates, steps)
    }
}

/// What makes a request bad. A latency limit is the histogram edge that it was snapped to, where known.
fn criterion(objective: &Objective, threshold: Option<&Snapped>) -> Criterion {
    match (&objective.latency, &objective.error_rate) {
        (Some(latency), _) => Criterion::Latency {
            quantile: latency.quantile,
            max: threshold.map_or_else(|| latency.max.into(), |snapped| snapped.edge),
        },
        (None, Some(errors)) => Criterion::ErrorRate {
            max: errors.max.share(),
        },
        (None, None) => Criterion::ErrorRate { max: 0.0 }, // refused by validation
    }
}

pub(super) fn new_gate(objective: &Objective, now: Timestamp) -> GateRecord {
    GateRecord {
        objective: objective.name(),
        threshold: None,
        sentence: String::new(),
        evidence: GateState::new(),
        cursors: Cursors::starting_at(now.as_millisecond()),
    }
}

/// Fits the trial to steps and objectives that may have been edited since. The step is the highest one declared that
/// is not above the weight; a weight never rises by an edit. Says whether there is one; else even the first is higher.
fn realign(turn: &mut Turn<'_>, canary: &mut CanaryVersion, progress: &mut Progress) -> bool {
    let steps = &turn.spec.rollout.steps;
    let index = steps.iter().rposition(|step| step.weight <= canary.weight);
    let Some((index, weight)) = index.and_then(|index| Some((index, steps.get(index)?.weight)))
    else {
        return false;
    };
    let old = std::mem::take(&mut progress.gates);
    for objective in &turn.spec.objectives {
        let known = old
            .iter()
            .find(|gate| gate.objective == objective.name())
            .cloned();
        let fresh = known.is_none();
        let mut gate = known.unwrap_or_else(|| new_gate(objective, turn.now));
        if fresh {
            gate.evidence.begin_step(weight);
        }
        progress.gates.push(gate);
    }
    progress.step = u32::try_from(index).unwrap_or(u32::MAX);
    if weight < canary.weight {
        let sentence = format!(
            "{} % is no step of spec.rollout.steps any more: version {} goes back to {weight} %.",
            canary.weight, canary.version
        );
        canary.weight = weight;
        progress.approved = None;
        moves::restart_step(progress, weight, turn);
        turn.record(reasons::STEPS_CHANGED, weight, None, sentence);
    }
    true
}

/// Facts of the API server that fail a version whatever its metrics say.
fn pods_fail(turn: &Turn<'_>, canary: &CanaryVersion, progress: &mut Progress) -> Option<String> {
    let health = turn.snapshot.health(&canary.revision);
    if let Some(failure) = health.failure {
        return Some(format!("Version {} cannot run: {failure}", canary.version));
    }
    if health.ready > 0 {
        if progress.unready_since.take().is_some() {
            // Stable answered the canary's share meanwhile: the step's counts say nothing about its weight.
            moves::restart_step(progress, canary.weight, turn);
        }
        return None;
    }
    let since = *progress.unready_since.get_or_insert(turn.now);
    (turn.now.duration_since(since) >= signed(UNREADY_PATIENCE)).then(|| {
        format!(
            "Version {} has had no Ready pod for {} s.",
            canary.version,
            UNREADY_PATIENCE.as_secs()
        )
    })
}

/// A canary share of requests far from the weight means that the counts are not of this traffic.
fn share_is_off(turn: &Turn<'_>, canary: &CanaryVersion, progress: &Progress) -> Option<String> {
    if progress.unready_since.is_some() {
        return None; // stable answers the canary's share
    }
    let step = progress.gates.first()?.evidence.step();
    if step.requests() < SHARE_CHECK_REQUESTS {
        return None;
    }
    let share = step.canary.requests as f64 / step.requests() as f64;
    let weight = f64::from(canary.weight) / 100.0;
    let settled =
        turn.now.duration_since(progress.step_since) >= signed(turn.interval * SHARE_SETTLES);
    let off = share > weight * SHARE_TOLERANCE || (settled && share < weight / SHARE_TOLERANCE);
    off.then(|| {
        format!(
            "the canary answered {:.1} % of {} requests in this step, its weight is {} %: the counts are not of this traffic",
            share * 100.0,
            step.requests(),
            canary.weight
        )
    })
}
