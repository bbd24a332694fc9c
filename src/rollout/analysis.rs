//! The trial of a canary that has weight: one look, one verdict, one move at most.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    commands,
    context::{DecisionContext, signed},
    gate::GateVerdict,
    objective_record,
    objectives::{self, Terms},
    pods::{self, Fault, Pods},
    transitions,
};
use crate::{
    api::{
        CanaryVersion, Gate, GateRecord, ObjectiveRecord, OnFailure, Phase, Progress, Step,
        Verdict, VersionRef, conditions::reasons,
    },
    evidence::{Cursors, Memory},
};

/// A version's first answers say little about its latency: caches fill and code is compiled. For so long after its first
/// weight, or a fifth of that step where it is shorter, they are weighed as one scrape.
const WARM_UP: Duration = Duration::from_secs(60);
/// A scrape may lie in the future by this much and an interval, as far as two machines' clocks may differ.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);
/// Requests in a step from which the observed share of traffic must resemble the weight.
pub const SHARE_CHECK_REQUESTS: u64 = 200;
/// How many times off the weight the observed share may be before the counts are not believed.
pub const SHARE_TOLERANCE: f64 = 3.0;
/// Scrapes after which a step's own requests outweigh those that stable answered before it: its first scrape counts whole.
pub const SHARE_SETTLES: u32 = 2;

/// Takes in one look and makes the move that it asks for.
pub(super) fn judge(
    context: &mut DecisionContext<'_>,
    stable: &VersionRef,
    mut canary: CanaryVersion,
) -> Option<Duration> {
    let mut progress = canary.progress.take()?;
    if !realign(context, &mut canary, &mut progress) {
        start_over(context, canary);
        return Some(Duration::ZERO);
    }
    let steps = &context.spec.rollout.steps;
    let next = steps.get(progress.step as usize + 1).cloned();
    let judged = look(context, &mut progress, next.as_ref());
    if judged.blind.is_none() {
        set_cursors_back(context, &mut progress);
    }
    context.evidence.clone_from(&judged.evidence);
    let (cannot_serve, trouble, away) = match pods::judge(context, &canary, &mut progress) {
        Pods::Serve => (None, None, None),
        Pods::End(Fault::Version(reason)) => (Some(reason), None, None),
        Pods::End(Fault::Platform(reason)) => (None, Some(reason), None),
        Pods::Away(reason) => (None, None, Some(reason)),
    };
    let outage = judged
        .blind
        .clone()
        .or_else(|| share_is_off(context, &canary, &progress));
    canary.progress = Some(progress);
    context.next.canary = Some(canary.clone());

    // The order is the order of precedence: facts, a person's word, the evidence, and last what is missing.
    if let Some(reason) = cannot_serve.or_else(|| judged.hard_failure.clone()) {
        context.roll_back(stable, &canary, Some(Verdict::Fail), &reason);
        return Some(Duration::ZERO);
    }
    if commands::promote_full(context, stable, &canary) {
        return Some(Duration::ZERO);
    }
    if let Some(reason) = &judged.fail {
        transitions::fail(context, stable, &canary, reason);
    } else if let Some(reason) = &trouble {
        context.postpone(stable, &canary, reason);
    } else if let Some(reason) = &away {
        // Without pods there are no metrics of it either: that is no outage.
        pods::hold(context, &canary, reason);
    } else if let Some(reason) = &outage {
        transitions::blind(context, stable, canary, reason);
    } else if let Some(reason) = &judged.held {
        transitions::metrics_recovered(context, &mut canary);
        transitions::hold(context, &canary, reason, "the objective's `then` is Pause");
    } else {
        transitions::metrics_recovered(context, &mut canary);
        commands::hear_approval(context, &mut canary);
        transitions::go_on(context, stable, canary, next.as_ref(), &judged);
    }
    pods::mention_missing(context);
    let over = context.next.canary.is_none();
    Some(if over {
        Duration::ZERO
    } else {
        context.interval
    })
}

/// No declared step is as low as the weight that the canary has: it starts over from no weight.
fn start_over(context: &mut DecisionContext<'_>, mut canary: CanaryVersion) {
    let sentence = format!(
        "No step of spec.rollout.steps is as low as {} % any more: version {} starts over, all traffic is on stable.",
        canary.weight, canary.version
    );
    canary.weight = 0;
    context.next.phase = Phase::Preparing;
    context.next.canary = Some(canary);
    context.record(reasons::STEPS_CHANGED, 0, None, sentence);
}

/// Counting that begins in the future was begun by a clock that was ahead: it begins now, or a breach would go unseen until
/// that time has come. Only called where Prometheus' clock agrees with this machine's.
fn set_cursors_back(context: &DecisionContext<'_>, progress: &mut Progress) {
    let allowed = signed(context.interval + CLOCK_TOLERANCE);
    for gate in &mut progress.gates {
        if gate.cursors.newest().duration_since(context.now) > allowed {
            let cursors = std::mem::replace(&mut gate.cursors, Cursors::starting_at(0));
            gate.cursors = cursors.not_after(context.now.as_millisecond());
        }
    }
}

/// What one look says, over all gates.
pub(super) struct Judged {
    /// Why the canary fails, if it does.
    fail: Option<String>,
    /// Why it fails an objective whose failure waits for a person, if it does.
    held: Option<String>,
    /// Why it fails where one scrape was so bad that no statistics and no person are waited for.
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
fn look(context: &DecisionContext<'_>, progress: &mut Progress, next: Option<&Step>) -> Judged {
    let spec = context.spec;
    let mut judged = Judged {
        fail: None,
        held: None,
        hard_failure: None,
        blind: None,
        pass: true,
        suspect: false,
        sentence: String::new(),
        evidence: Vec::new(),
    };
    let gates = spec.gates();
    let warming_up = warms_up(context, progress);
    let mut records = std::mem::take(&mut progress.gates);
    for (index, (gate, record)) in gates.iter().zip(&mut records).enumerate() {
        let policy = objectives::policy(spec, gate, gates.len(), progress.step as usize);
        let window = record.cursors.span(context.now, context.interval).range;
        let reading = context.snapshot.readings.get(index);
        let unseen = match reading {
            Some(Ok(reading)) => {
                record.take_in(reading, gate, policy, context.interval, warming_up)
            }
            Some(Err(blind)) => Some(blind.to_string()),
            None => Some("the metrics were not read".to_owned()),
        };
        if let Some(why) = unseen {
            judged.blind = Some(format!("{}: {why}", record.objective));
        }
        // The counts are those up to the newest scrape, and so is the time in which they came: a look between two scrapes
        // says nothing else than the one before it. The first scrape may have counted requests from before the step.
        let scraped = record.cursors.newest().min(context.now);
        let counted_for = Duration::try_from(transitions::time_in_step(progress, scraped))
            .ok()
            .filter(|time| *time >= context.interval);
        let finding = record.evidence.judge(&Terms {
            gate,
            policy,
            threshold: record.threshold.as_ref(),
            next_weight: next.map(|step| step.weight),
            counted_for,
        });
        record.sentence.clone_from(&finding.sentence);
        let told = objective_record::record(record, &finding, reading, window);
        judged.evidence.push(told);
        judged.pass &= finding.verdict == GateVerdict::Pass;
        judged.suspect |= finding.suspect;
        if finding.guard {
            judged.hard_failure.get_or_insert(finding.sentence.clone());
        }
        if finding.verdict == GateVerdict::Fail {
            let why = match gate.then() {
                OnFailure::Rollback => &mut judged.fail,
                OnFailure::Pause => &mut judged.held,
            };
            why.get_or_insert(finding.sentence);
        }
    }
    progress.gates = records;
    if judged.blind.is_none() {
        judged.blind = objectives::uncounted(&progress.gates);
    }
    judged.sentence = progress
        .gates
        .iter()
        .map(|gate| gate.sentence.as_str())
        .collect::<Vec<_>>()
        .join(" ");
    judged
}

/// Whether the step has only just begun. Whether it is the version's first, each gate knows.
fn warms_up(context: &DecisionContext<'_>, progress: &Progress) -> bool {
    let step = context.spec.rollout.steps.get(progress.step as usize);
    let fifth = step.map_or(Duration::ZERO, |step| Duration::from(step.min_duration) / 5);
    let lasted = context.now.duration_since(progress.step_since);
    // A step that began by a clock that was ahead does not warm up until its beginning has come.
    lasted >= -signed(context.interval + CLOCK_TOLERANCE) && lasted <= signed(WARM_UP.min(fifth))
}

pub(super) fn new_gate(gate: &Gate, now: Timestamp) -> GateRecord {
    GateRecord {
        objective: gate.name(),
        threshold: None,
        sentence: String::new(),
        evidence: Memory::new(gate),
        cursors: Cursors::starting_at(now.as_millisecond()),
    }
}

/// Fits the trial to steps and objectives that may have been edited since. The step is the highest one declared that
/// is not above the weight; a weight never rises by an edit. Says whether there is one; else even the first is higher.
fn realign(
    context: &mut DecisionContext<'_>,
    canary: &mut CanaryVersion,
    progress: &mut Progress,
) -> bool {
    let steps = &context.spec.rollout.steps;
    let index = steps.iter().rposition(|step| step.weight <= canary.weight);
    let Some((index, weight)) = index.and_then(|index| Some((index, steps.get(index)?.weight)))
    else {
        return false;
    };
    let old = std::mem::take(&mut progress.gates);
    for gate in context.spec.gates() {
        let known = old
            .iter()
            .find(|record| record.objective == gate.name())
            .cloned();
        let fresh = known.is_none();
        let mut gate = known.unwrap_or_else(|| new_gate(&gate, context.now));
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
        transitions::restart_step(progress, weight, context);
        context.record(reasons::STEPS_CHANGED, weight, None, sentence);
    }
    true
}

/// A canary share of requests far from the weight means that the counts are not of this traffic.
fn share_is_off(
    context: &DecisionContext<'_>,
    canary: &CanaryVersion,
    progress: &Progress,
) -> Option<String> {
    if progress.unready_since.is_some() {
        return None; // stable answers the canary's share
    }
    let mut counted = progress
        .gates
        .iter()
        .filter_map(|gate| gate.evidence.step());
    let step = counted.next()?;
    if step.requests() < SHARE_CHECK_REQUESTS {
        return None;
    }
    let share = step.canary.requests as f64 / step.requests() as f64;
    let weight = f64::from(canary.weight) / 100.0;
    let settled =
        context.now.duration_since(progress.step_since) >= signed(context.interval * SHARE_SETTLES);
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
