//! A person's word. It is heeded when it names the very trial that is under way, and from then on it is spent.

use super::context::DecisionContext;
use crate::api::{Approved, CanaryVersion, VersionRef, commands::Command, conditions::reasons};

/// Ends the trial where a person aborted it: traffic back, version refused. Says whether it did.
pub(super) fn abort(
    context: &mut DecisionContext<'_>,
    stable: &VersionRef,
    canary: &CanaryVersion,
) -> bool {
    if !context
        .commands
        .ask(&Command::Abort(canary.revision.clone()))
    {
        return false;
    }
    context.by.clone_from(&context.commands.by);
    let reason = format!(
        "{} aborted the rollout of version {} at {} %.",
        person(context.by.as_deref()),
        canary.version,
        canary.weight
    );
    context.refuse(stable, canary, reasons::ABORTED, None, &reason);
    true
}

/// Promotes the version where a person asks for it, whatever is known of it: only its pods must be able to serve. Says
/// whether it did; where they cannot yet, the message says so.
pub(super) fn promote_full(
    context: &mut DecisionContext<'_>,
    stable: &VersionRef,
    canary: &CanaryVersion,
) -> bool {
    let asked = Command::PromoteFull(canary.revision.clone());
    let health = context.health(&canary.revision);
    let is_ready = health.has_capacity(context.spec.pods_needed());
    if !context.commands.ask(&asked) || !is_ready || context.snapshot.missing().is_some() {
        return false;
    }
    context.by.clone_from(&context.commands.by);
    let sentence = format!(
        "{} promoted version {} from {} % without waiting for its evidence.",
        person(context.by.as_deref()),
        canary.version,
        canary.weight
    );
    context.promote(stable, canary, None, sentence);
    true
}

/// Whether a person wants to leave this step without its evidence.
pub(super) fn skips(context: &DecisionContext<'_>, canary: &CanaryVersion) -> bool {
    let skip = Command::Skip(canary.revision.clone(), canary.weight);
    context.commands.ask(&skip)
}

/// Says in the message why a skip that is asked for does not happen; nothing where none is.
pub(super) fn refuse_skip(context: &mut DecisionContext<'_>, canary: &CanaryVersion, why: &str) {
    if skips(context, canary) {
        let message = &mut context.next.message;
        message.push_str(" The step is not skipped: ");
        message.push_str(why);
        message.push('.');
    }
}

/// The skip has had its effect.
pub(super) fn spend_skip(context: &mut DecisionContext<'_>, canary: &CanaryVersion) {
    let skip = Command::Skip(canary.revision.clone(), canary.weight);
    if context.commands.ask(&skip) {
        context.spend(&skip);
    }
}

/// Takes down a person's yes to leaving this step, where the step waits for one.
pub(super) fn hear_approval(context: &mut DecisionContext<'_>, canary: &mut CanaryVersion) {
    let approve = Command::Approve(canary.revision.clone(), canary.weight);
    let Some(progress) = canary.progress.as_mut() else {
        return;
    };
    let needed = context.spec.rollout.needs_approval(progress.step as usize);
    if !needed || progress.approved.is_some() || !context.commands.ask(&approve) {
        return;
    }
    let by = context.commands.by.clone();
    progress.approved = Some(Approved {
        at: context.now,
        by: by.clone(),
    });
    context.next.canary = Some(canary.clone());
    context.spend(&approve);
    let leaving = if canary.weight == 100 {
        "its promotion".to_owned()
    } else {
        format!("leaving {} %", canary.weight)
    };
    let sentence = format!(
        "{} approved version {}: {leaving} now waits for the evidence alone.",
        person(by.as_deref()),
        canary.version
    );
    context.by = by;
    context.record(reasons::APPROVED, canary.weight, None, sentence);
}

/// The person who spoke, as the subject of a sentence.
pub(super) fn person(by: Option<&str>) -> &str {
    by.unwrap_or("Somebody (serin.dev/requested-by is not set)")
}
