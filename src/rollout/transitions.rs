//! The moves that a look at a trial can end with: to the next step, to the end, or to waiting for something or somebody.

use jiff::{SignedDuration, Timestamp};

use super::{
    analysis::Judged,
    commands,
    context::{DecisionContext, signed},
};
use crate::api::{
    CanaryVersion, OnDeadline, OnFailure, Progress, Step, Verdict, VersionRef, conditions::reasons,
};

/// The evidence fails: all traffic back, or the weight held for a person to decide, as the spec has it.
pub(super) fn fail(
    context: &mut DecisionContext<'_>,
    stable: &VersionRef,
    canary: &CanaryVersion,
    why: &str,
) {
    if context.spec.rollout.on_failure == OnFailure::Rollback {
        context.roll_back(stable, canary, Some(Verdict::Fail), why);
        return;
    }
    hold(context, canary, why, "spec.rollout.onFailure is Pause");
}

/// The evidence fails, and it is a person who decides what follows.
pub(super) fn hold(
    context: &mut DecisionContext<'_>,
    canary: &CanaryVersion,
    why: &str,
    policy: &str,
) {
    let sentence = format!(
        "{why} Held at {} % ({policy}) until a person aborts it or promotes it in full.",
        canary.weight
    );
    context.record_waiting(
        reasons::FAILURE_HELD,
        canary.weight,
        Verdict::Fail,
        sentence,
    );
    commands::refuse_skip(context, canary, "its evidence fails");
}

/// Nothing moves while the metrics cannot be trusted; after the hold, what the policy says.
pub(super) fn blind(
    context: &mut DecisionContext<'_>,
    stable: &VersionRef,
    mut canary: CanaryVersion,
    reason: &str,
) {
    let policy = &context.spec.rollout.on_metrics_outage;
    let hold = signed(policy.hold.into());
    let Some(progress) = canary.progress.as_mut() else {
        return;
    };
    let first = progress.blind_since.is_none();
    let since = *progress.blind_since.get_or_insert(context.now);
    context.next.canary = Some(canary.clone());
    if context.witnessed(since) >= hold && policy.then == OnDeadline::Rollback {
        let why = format!(
            "The metrics could not be trusted for {} (spec.rollout.onMetricsOutage): {reason}.",
            policy.hold
        );
        context.roll_back(stable, &canary, Some(Verdict::Blind), &why);
        return;
    }
    let sentence = format!(
        "Holding at {} %: the metrics cannot be trusted. {reason}.",
        canary.weight
    );
    if first {
        context.record(
            reasons::METRICS_OUTAGE,
            canary.weight,
            Some(Verdict::Blind),
            sentence,
        );
    } else {
        context.next.message = sentence;
    }
    commands::refuse_skip(context, &canary, "the metrics cannot be trusted");
}

/// The metrics can be trusted: an outage, if there was one, is over and its time does not count as time_in_step.
pub(super) fn metrics_recovered(context: &mut DecisionContext<'_>, canary: &mut CanaryVersion) {
    let Some(progress) = canary.progress.as_mut() else {
        return;
    };
    let Some(since) = progress.blind_since.take() else {
        return;
    };
    let gap = outage(progress, since, context.now);
    progress.blind_ms = progress
        .blind_ms
        .saturating_add(i64::try_from(gap.as_millis()).unwrap_or(i64::MAX));
    context.next.canary = Some(canary.clone());
    let sentence = format!(
        "The metrics can be trusted again after {} s; what was counted meanwhile is taken in.",
        gap.as_secs()
    );
    context.record(reasons::METRICS_BACK, canary.weight, None, sentence);
}

/// The metrics can be trusted and nothing speaks against the version for certain: on to the next step, if all that it
/// takes is there.
pub(super) fn go_on(
    context: &mut DecisionContext<'_>,
    stable: &VersionRef,
    canary: CanaryVersion,
    next: Option<&Step>,
    judged: &Judged,
) {
    let rollout = &context.spec.rollout;
    let Some(progress) = &canary.progress else {
        return;
    };
    let time_in_step = time_in_step(progress, context.now);
    let least = signed(rollout.least_time(progress.step as usize));
    let patience = signed(rollout.on_insufficient_data.after.into());
    let sentence = judged.sentence.clone();
    context.next.message.clone_from(&sentence);
    if rollout.paused {
        context.next.message = format!("Paused at {} %. {sentence}", canary.weight);
        commands::refuse_skip(
            context,
            &canary,
            "the rollout is paused (spec.rollout.paused)",
        );
    } else if commands::skips(context, &canary) && !judged.suspect {
        context.by.clone_from(&context.commands.by);
        let person = commands::person(context.by.as_deref());
        let why = format!("{person} skips the step of {} %. {sentence}", canary.weight);
        leave(context, stable, canary, next, None, &why);
    } else if judged.pass && time_in_step >= least {
        once_approved(context, stable, canary, next, Verdict::Pass, &sentence);
    } else if judged.pass {
        let end = (context.now + (least - time_in_step)).strftime("%H:%M:%SZ");
        context.next.message = format!("{sentence} This step lasts until {end} at least.");
    } else if time_in_step >= patience {
        let proven = time_in_step >= least && !judged.suspect;
        insufficient(context, stable, canary, next, &sentence, proven);
    }
    if judged.suspect {
        let canary = context.next.canary.clone();
        if let Some(canary) = &canary {
            commands::refuse_skip(context, canary, "the version is suspect");
        }
    }
}

/// The step has had its time and proves nothing. `acceptable` is whether the policy may let it pass all the same.
fn insufficient(
    context: &mut DecisionContext<'_>,
    stable: &VersionRef,
    canary: CanaryVersion,
    next: Option<&Step>,
    sentence: &str,
    acceptable: bool,
) {
    let policy = &context.spec.rollout.on_insufficient_data;
    let why = format!(
        "No proof within {} (spec.rollout.onInsufficientData). {sentence}",
        policy.after
    );
    match policy.then {
        OnDeadline::Rollback => {
            context.roll_back(stable, &canary, Some(Verdict::NeedMoreData), &why);
        }
        OnDeadline::Advance if acceptable => {
            once_approved(context, stable, canary, next, Verdict::NeedMoreData, &why);
        }
        OnDeadline::Advance | OnDeadline::Pause => context.record_waiting(
            reasons::INSUFFICIENT_DATA,
            canary.weight,
            Verdict::NeedMoreData,
            why,
        ),
    }
}

/// Leaves the step, unless it waits for a person first.
fn once_approved(
    context: &mut DecisionContext<'_>,
    stable: &VersionRef,
    canary: CanaryVersion,
    next: Option<&Step>,
    verdict: Verdict,
    sentence: &str,
) {
    let Some(progress) = &canary.progress else {
        return;
    };
    match &progress.approved {
        None if context.spec.rollout.needs_approval(progress.step as usize) => {
            let what = next.map_or_else(
                || "being promoted".to_owned(),
                |next| format!("getting {} %", next.weight),
            );
            let sentence = format!(
                "{sentence} Before {what}, version {} waits for a person's yes: the annotation {}={}@{}.",
                canary.version,
                crate::api::commands::APPROVE,
                canary.revision,
                canary.weight
            );
            context.record_waiting(reasons::AWAITING_APPROVAL, canary.weight, verdict, sentence);
        }
        approved => {
            if let Some(approved) = approved {
                context.by.clone_from(&approved.by);
            }
            leave(context, stable, canary, next, Some(verdict), sentence);
        }
    }
}

/// To the next step's weight, or to the promotion, as soon as the pods can carry it: the canary's to serve it, and, while
/// weight is still to be raised, stable's to take all of it back.
fn leave(
    context: &mut DecisionContext<'_>,
    stable: &VersionRef,
    mut canary: CanaryVersion,
    next: Option<&Step>,
    verdict: Option<Verdict>,
    sentence: &str,
) {
    let health = context.health(&canary.revision);
    if !health.has_capacity(context.spec.pods_needed()) {
        context.next.message = format!("{sentence} Holding at {} %.", canary.weight);
        return; // what its pods lack is said below the message
    }
    if let Some(missing) = context.snapshot.missing() {
        let missing = missing.sentence();
        context.next.message = format!("{sentence} Holding at {} %. {missing}", canary.weight);
        return;
    }
    let Some(next) = next else {
        let sentence = format!("{sentence} Version {} is promoted.", canary.version);
        context.promote(stable, &canary, verdict, sentence);
        return;
    };
    if let Some(reason) = context.no_way_back(stable) {
        context.next.message = format!("{sentence} Holding at {} %. {reason}", canary.weight);
        return;
    }
    commands::spend_skip(context, &canary);
    canary.weight = next.weight;
    if let Some(progress) = canary.progress.as_mut() {
        progress.step += 1;
        progress.approved = None;
        restart_step(progress, next.weight, context);
    }
    context.next.canary = Some(canary);
    let sentence = format!("{sentence} Moving to {} %.", next.weight);
    context.record(reasons::STEP_ADVANCED, next.weight, verdict, sentence);
}

/// Time in this step, up to a moment, during which the metrics could be trusted. An outage takes its time away and never
/// adds any, even where the clock was set back meanwhile.
pub(super) fn time_in_step(progress: &Progress, until: Timestamp) -> SignedDuration {
    let blind = progress
        .blind_since
        .map_or(SignedDuration::ZERO, |since| outage(progress, since, until));
    until.duration_since(progress.step_since)
        - SignedDuration::from_millis(progress.blind_ms)
        - blind
}

/// How much of the step an outage has lasted: one that began before it was noted by a clock that was behind.
fn outage(progress: &Progress, since: Timestamp, until: Timestamp) -> SignedDuration {
    let since = since.max(progress.step_since);
    until.duration_since(since).max(SignedDuration::ZERO)
}

/// Begins a step, or begins it again: its clock and its counts.
pub(super) fn restart_step(progress: &mut Progress, weight: u8, context: &DecisionContext<'_>) {
    for gate in &mut progress.gates {
        gate.evidence.begin_step(weight);
    }
    progress.step_since = context.now;
    progress.blind_ms = 0;
    progress.blind_since = None;
}
