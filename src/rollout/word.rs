//! A person's word. It is heeded when it names the very trial that is under way, and from then on it is spent.

use super::turn::Turn;
use crate::api::{Approved, CanaryVersion, VersionRef, commands::Command, conditions::reasons};

/// Ends the trial where a person aborted it: traffic back, version refused. Says whether it did.
pub(super) fn abort(turn: &mut Turn<'_>, stable: &VersionRef, canary: &CanaryVersion) -> bool {
    if !turn.commands.ask(&Command::Abort(canary.revision.clone())) {
        return false;
    }
    turn.by.clone_from(&turn.commands.by);
    let reason = format!(
        "{} aborted the rollout of version {} at {} %.",
        person(turn.by.as_deref()),
        canary.version,
        canary.weight
    );
    turn.refuse(stable, canary, reasons::ABORTED, None, &reason);
    true
}

/// Promotes the version where a person asks for it, whatever is known of it: only its pods must be able to serve. Says
/// whether it did; where they cannot yet, the message says so.
pub(super) fn promote_full(
    turn: &mut Turn<'_>,
    stable: &VersionRef,
    canary: &CanaryVersion,
) -> bool {
    let asked = Command::PromoteFull(canary.revision.clone());
    let health = turn.health(&canary.revision);
    let is_ready = health.has_capacity(turn.spec.pods_needed());
    if !turn.commands.ask(&asked) || !is_ready || turn.snapshot.missing().is_some() {
        return false;
    }
    turn.by.clone_from(&turn.commands.by);
    let sentence = format!(
        "{} promoted version {} from {} % without waiting for its evidence.",
        person(turn.by.as_deref()),
        canary.version,
        canary.weight
    );
    turn.promote(stable, canary, None, sentence);
    true
}

/// Whether a person wants to leave this step without its evidence.
pub(super) fn skips(turn: &Turn<'_>, canary: &CanaryVersion) -> bool {
    let skip = Command::Skip(canary.revision.clone(), canary.weight);
    turn.commands.ask(&skip)
}

/// Says in the message why a skip that is asked for does not happen; nothing where none is.
pub(super) fn refuse_skip(turn: &mut Turn<'_>, canary: &CanaryVersion, why: &str) {
    if skips(turn, canary) {
        let message = &mut turn.next.message;
        message.push_str(" The step is not skipped: ");
        message.push_str(why);
        message.push('.');
    }
}

/// The skip has had its effect.
pub(super) fn spend_skip(turn: &mut Turn<'_>, canary: &CanaryVersion) {
    let skip = Command::Skip(canary.revision.clone(), canary.weight);
    if turn.commands.ask(&skip) {
        turn.spend(&skip);
    }
}

/// Takes down a person's yes to leaving this step, where the step waits for one.
pub(super) fn hear_approval(turn: &mut Turn<'_>, canary: &mut CanaryVersion) {
    let approve = Command::Approve(canary.revision.clone(), canary.weight);
    let Some(progress) = canary.progress.as_mut() else {
        return;
    };
    let needed = turn.spec.rollout.needs_approval(progress.step as usize);
    if !needed || progress.approved.is_some() || !turn.commands.ask(&approve) {
        return;
    }
    let by = turn.commands.by.clone();
    progress.approved = Some(Approved {
        at: turn.now,
        by: by.clone(),
    });
    turn.next.canary = Some(canary.clone());
    turn.spend(&approve);
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
    turn.by = by;
    turn.record(reasons::APPROVED, canary.weight, None, sentence);
}

/// The person who spoke, as the subject of a sentence.
pub(super) fn person(by: Option<&str>) -> &str {
    by.unwrap_or("Somebody (serin.dev/requested-by is not set)")
}
