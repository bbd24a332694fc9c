//! The trial of a canary that has weight: one look, one verdict, one move at most.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    decide::{Turn, signed},
    evidence,
    gate::{Criterion, GatePolicy, GateState, GateVerdict},
};
use crate::{
    api::{
        AfterPatience, CanaryVersion, GateRecord, Objective, ObjectiveRecord, Phase, Progress,
        Step, Verdict, VersionRef, conditions::reasons,
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

/// Gives the canary its first weight.
pub(super) fn start(turn: &mut Turn<'_>, canary: &mut CanaryVersion) {
    let Some(first) = turn.spec.rollout.steps.first() else {
        return;
    };
    let mut progress = Progress {
        step: 0,
        step_since: turn.now,
        blind_ms: 0,
        blind_since: None,
        unready_since: None,
        gates: turn
            .spec
            .objectives
            .iter()
            .map(|objective| new_gate(objective, turn.now))
            .collect(),
    };
    for gate in &mut progress.gates {
        gate.evidence.begin_step(first.weight);
    }
    canary.progress = Some(progress);
    canary.weight = first.weight;
    turn.next.canary = Some(canary.clone());
    turn.next.phase = Phase::Canary;
    let sentence = format!(
        "Version {} is Ready, verified and warm: it gets {} % of the traffic.",
        canary.version, first.weight
    );
    turn.record(reasons::CANARY_STARTED, first.weight, None, sentence);
}

/// Takes in one look and makes the move that it asks for.
pub(super) fn judge(
    turn: &mut Turn<'_>,
    stable: &VersionRef,
    mut canary: CanaryVersion,
) -> Option<Duration> {
    let mut progress = canary.progress.take()?;
    let Some(step) = realign(turn, &mut canary, &mut progress) else {
        // No declared step is as low as the weight it has: it starts over from no weight.
        canary.weight = 0;
        turn.next.phase = Phase::Preparing;
        turn.next.canary = Some(canary);
        return Some(Duration::ZERO);
    };
    let next_step = turn
        .spec
        .rollout
        .steps
        .get(progress.step as usize + 1)
        .cloned();
    let judged = look(turn, &mut progress, next_step.as_ref());
    turn.evidence.clone_from(&judged.evidence);
    let failure = pods_fail(turn, &canary, &mut progress);
    let outage = judged
        .blind
        .clone()
        .or_else(|| share_is_off(turn, &canary, &progress));
    canary.progress = Some(progress);
    turn.next.canary = Some(canary.clone());

    if let Some(reason) = failure.or_else(|| judged.fail.clone()) {
        turn.roll_back(stable, &canary, Some(Verdict::Fail), &reason);
        return Some(Duration::ZERO);
    }
    if let Some(reason) = outage {
        return blind(turn, stable, canary, &reason);
    }
    sighted(turn, &mut canary);
    turn.next.message.clone_from(&judged.sentence);

    let baked = canary
        .progress
        .as_ref()
        .map_or(jiff::SignedDuration::ZERO, |progress| {
            baked(turn.now, progress)
        });
    let enough_time = baked >= signed(step.min_duration.into());
    let capable = turn
        .snapshot
        .health(&canary.revision)
        .has_capacity(turn.spec.replicas);
    if turn.spec.rollout.paused {
        turn.next.message = format!("Paused at {} %. {}", canary.weight, judged.sentence);
    } else if judged.pass && enough_time && capable {
        advance(
            turn,
            stable,
            canary,
            next_step.as_ref(),
            Verdict::Pass,
            &judged.sentence,
        );
    } else if judged.pass && !enough_time {
        let end = turn.now + (signed(step.min_duration.into()) - baked);
        turn.next.message = format!(
            "{} This step lasts until {} at least.",
            judged.sentence,
            end.strftime("%H:%M:%SZ")
        );
    } else if !judged.pass && baked >= signed(turn.spec.rollout.on_insufficient_data.after.into()) {
        insufficient(turn, stable, canary, next_step.as_ref(), &judged);
    }
    Some(turn.interval)
}

/// What one look says, over all gates.
struct Judged {
    /// Why the canary fails, if it does.
    fail: Option<String>,
    /// Why the counts cannot be believed, if so.
    blind: Option<String>,
    /// Whether every gate passes.
    pass: bool,
    /// Whether some gate suspects the canary.
    suspect: bool,
    /// All gates' sentences.
    sentence: String,
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
        blind: None,
        pass: true,
        suspect: false,
        sentence: String::new(),
        evidence: Vec::new(),
    };
    let seconds = baked(turn.now, progress).as_secs_f64();
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
                judged.blind = Some(format!("{}: what was read is not requests", gate.objective))
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
fn policy(objective: &Objective, gates: usize, steps: usize, min_requests: i64) -> GatePolicy {
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

fn new_gate(objective: &Objective, now: Timestamp) -> GateRecord {
    GateRecord {
        objective: objective.name(),
        threshold: None,
        sentence: String::new(),
        evidence: GateState::new(),
        cursors: Cursors::starting_at(now.as_millisecond()),
    }
}

/// Fits the trial to steps and objectives that may have been edited since. The step is the highest one declared that
/// is not above the weight; a weight never rises by an edit. `None` where even the first step is higher.
fn realign(turn: &Turn<'_>, canary: &mut CanaryVersion, progress: &mut Progress) -> Option<Step> {
    let steps = &turn.spec.rollout.steps;
    let index = steps
        .iter()
        .rposition(|step| step.weight <= canary.weight)?;
    let step = steps.get(index)?.clone();
    let moved = step.weight != canary.weight;
    progress.step = u32::try_from(index).unwrap_or(u32::MAX);
    canary.weight = step.weight;
    let old = std::mem::take(&mut progress.gates);
    for objective in &turn.spec.objectives {
        let known = old
            .iter()
            .find(|gate| gate.objective == objective.name())
            .cloned();
        let fresh = known.is_none();
        let mut gate = known.unwrap_or_else(|| new_gate(objective, turn.now));
        if fresh {
            gate.evidence.begin_step(step.weight);
        }
        progress.gates.push(gate);
    }
    if moved {
        restart_step(progress, step.weight, turn.now);
    }
    Some(step)
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
            restart_step(progress, canary.weight, turn.now);
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

/// Nothing moves while the metrics cannot be trusted; after the hold, what the policy says.
fn blind(
    turn: &mut Turn<'_>,
    stable: &VersionRef,
    mut canary: CanaryVersion,
    reason: &str,
) -> Option<Duration> {
    let policy = &turn.spec.rollout.on_metrics_outage;
    let hold = signed(policy.hold.into());
    let progress = canary.progress.as_mut()?;
    let first = progress.blind_since.is_none();
    let since = *progress.blind_since.get_or_insert(turn.now);
    turn.next.canary = Some(canary.clone());
    if turn.now.duration_since(since) >= hold && policy.then == AfterPatience::Rollback {
        let why = format!(
            "The metrics could not be trusted for {} (spec.rollout.onMetricsOutage): {reason}.",
            policy.hold
        );
        turn.roll_back(stable, &canary, Some(Verdict::Blind), &why);
        return Some(Duration::ZERO);
    }
    let sentence = format!(
        "Holding at {} %: the metrics cannot be trusted. {reason}.",
        canary.weight
    );
    if first {
        turn.record(
            reasons::METRICS_OUTAGE,
            canary.weight,
            Some(Verdict::Blind),
            sentence,
        );
    } else {
        turn.next.message = sentence;
    }
    Some(turn.interval)
}

/// The metrics can be trusted: an outage, if there was one, is over and its time does not count as baked.
fn sighted(turn: &mut Turn<'_>, canary: &mut CanaryVersion) {
    let Some(progress) = canary.progress.as_mut() else {
        return;
    };
    let Some(since) = progress.blind_since.take() else {
        return;
    };
    let gap = turn.now.duration_since(since);
    progress.blind_ms = progress
        .blind_ms
        .saturating_add(i64::try_from(gap.as_millis()).unwrap_or(i64::MAX));
    turn.next.canary = Some(canary.clone());
    let sentence = format!(
        "The metrics can be trusted again after {} s; what was counted meanwhile is taken in.",
        gap.as_secs()
    );
    turn.record(reasons::METRICS_BACK, canary.weight, None, sentence);
}

/// Time in this step during which the metrics could be trusted.
fn baked(now: Timestamp, progress: &Progress) -> jiff::SignedDuration {
    let blind = progress
        .blind_since
        .map_or(jiff::SignedDuration::ZERO, |since| {
            now.duration_since(since)
        });
    now.duration_since(progress.step_since)
        - jiff::SignedDuration::from_millis(progress.blind_ms)
        - blind
}

/// The step has had its time and proves nothing.
fn insufficient(
    turn: &mut Turn<'_>,
    stable: &VersionRef,
    canary: CanaryVersion,
    next: Option<&Step>,
    judged: &Judged,
) {
    let policy = &turn.spec.rollout.on_insufficient_data;
    let why = format!(
        "No proof within {} (spec.rollout.onInsufficientData). {}",
        policy.after, judged.sentence
    );
    match policy.then {
        AfterPatience::Rollback => {
            turn.roll_back(stable, &canary, Some(Verdict::NeedMoreData), &why);
        }
        AfterPatience::Advance if !judged.suspect => {
            advance(turn, stable, canary, next, Verdict::NeedMoreData, &why);
        }
        AfterPatience::Advance | AfterPatience::Pause => {
            let told = turn
                .next
                .decisions
                .last()
                .is_some_and(|last| last.action == reasons::INSUFFICIENT_DATA);
            if told {
                turn.next.message = why;
            } else {
                turn.record(
                    reasons::INSUFFICIENT_DATA,
                    canary.weight,
                    Some(Verdict::NeedMoreData),
                    why,
                );
            }
        }
    }
}

/// The next step's weight, or all of it for good.
fn advance(
    turn: &mut Turn<'_>,
    stable: &VersionRef,
    mut canary: CanaryVersion,
    next: Option<&Step>,
    verdict: Verdict,
    sentence: &str,
) {
    let Some(next) = next else {
        let sentence = format!("{sentence} Version {} is promoted.", canary.version);
        turn.promote(stable, &canary, sentence);
        return;
    };
    canary.weight = next.weight;
    if let Some(progress) = canary.progress.as_mut() {
        progress.step += 1;
        restart_step(progress, next.weight, turn.now);
    }
    turn.next.canary = Some(canary);
    let sentence = format!("{sentence} Moving to {} %.", next.weight);
    turn.record(reasons::STEP_ADVANCED, next.weight, Some(verdict), sentence);
}

/// Begins a step, or begins it again: its clock and its counts.
fn restart_step(progress: &mut Progress, weight: u8, now: Timestamp) {
    for gate in &mut progress.gates {
        gate.evidence.begin_step(weight);
    }
    progress.step_since = now;
    progress.blind_ms = 0;
    progress.blind_since = None;
}
