//! What comes next, and on which conditions.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        CanaryVersion, ModelDeploymentSpec, OnDeadline, OnFailure, Phase, Progress, RefusedVersion,
        Revision, Rollout, State, conditions::reasons,
    },
    k8s::{KnownVersion, stable_before},
    report::text::{declared, moment},
    sentences::named_among,
};

/// The conditions of the next move.
pub(super) fn prospects(
    state: &State,
    rollout: &Rollout,
    refused: Option<&RefusedVersion>,
    now: Timestamp,
) -> Vec<String> {
    let mut lines = Vec::new();
    match &state.canary {
        Some(CanaryVersion {
            progress: Some(progress),
            version,
            ..
        }) => {
            let held = state
                .last_move()
                .is_some_and(|last| last.action == reasons::FAILURE_HELD);
            if held {
                lines.push(
                    "It failed and is held for you: its weight stays until you abort it or promote \
                     it in full."
                        .to_owned(),
                );
            } else {
                lines.push(forward(progress, rollout, version, now));
            }
            lines.push(backward(rollout).to_owned());
            lines.push(without_proof(progress, rollout, now));
            lines.push(without_metrics(progress, rollout, now));
        }
        Some(canary) if canary.rollback => lines.push(format!(
            "All traffic once its pods are Ready (spec.rollout.rollbackWindow); not if they are \
             not by {} (spec.rollout.progressDeadline), or cannot run.",
            moment(after(canary.since, rollout.progress_deadline.into()), now)
        )),
        Some(canary) if state.stable.is_some() => lines.push(format!(
            "Its first {} % of the traffic once its pods are Ready; its trial ends if they are not \
             by {} (spec.rollout.progressDeadline), or at once if they cannot run.",
            rollout.steps.first().map_or(0, |step| step.weight),
            moment(after(canary.since, rollout.progress_deadline.into()), now)
        )),
        Some(_) => lines.push(
            "All traffic once a pod of it is Ready: there is nothing to compare it with."
                .to_owned(),
        ),
        None if state.postponed.is_some() => {
            lines.extend(state.postponed.iter().map(|postponed| {
                format!(
                    "Version {} is tried again at {} (attempt {}), or at once if \
                     spec.rollout.retryToken changes. {}",
                    postponed.version,
                    moment(postponed.retry_at, now),
                    postponed.attempts.saturating_add(1),
                    postponed.reason
                )
            }));
        }
        None if state.phase == Phase::Asleep => lines.push(
            "Nothing, until spec.replicas is above 0. Then the stable version comes back first, \
             and the spec's version, if it is another one, is put on trial after it."
                .to_owned(),
        ),
        None if refused.is_none() => {
            lines.push("Nothing, until the spec asks for another version.".to_owned());
        }
        None => lines.push(
            "Nothing, until the spec asks for a version that was not rolled back, or \
             spec.rollout.retryToken changes."
                .to_owned(),
        ),
    }
    lines
}

/// Which versions would go straight back to all traffic today.
pub(super) fn way_back(
    state: &State,
    spec: &ModelDeploymentSpec,
    known: &BTreeMap<Revision, KnownVersion>,
    now: Timestamp,
) -> String {
    let window = &spec.rollout.rollback_window;
    if window.revisions == 0 {
        return "Back to an earlier version by the steps (spec.rollout.rollbackWindow.revisions is \
                0)."
            .to_owned();
    }
    let names: Vec<_> = known
        .iter()
        .map(|(revision, version)| (revision, version.spec.name()))
        .collect();
    let taken = names.iter().filter_map(|(revision, name)| {
        let before = stable_before(known, state, revision)?;
        let takes = window.takes(before.back, before.until, now);
        let all = names.iter().map(|(revision, name)| (*revision, &**name));
        takes.then(|| (before.back, named_among(all, revision, name)))
    });
    let mut taken: Vec<_> = taken.collect();
    taken.sort();
    let names: Vec<_> = taken.into_iter().map(|(_, name)| name).collect();
    let which = match names.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    format!(
        "Without steps, should the spec ask for it (`undo`), goes back a version that was stable \
         at most {} promotions and {} ago (spec.rollout.rollbackWindow): today {which}.",
        window.revisions,
        declared(window.within)
    )
}

fn forward(progress: &Progress, rollout: &Rollout, version: &str, now: Timestamp) -> String {
    let index = progress.step as usize;
    let target = rollout.steps.get(index + 1).map_or_else(
        || format!("Version {version} is promoted"),
        |next| format!("On to {} %", next.weight),
    );
    if rollout.paused {
        return format!("{target} only after the rollout is resumed (spec.rollout.paused).");
    }
    let end = after(
        progress.step_since + SignedDuration::from_millis(progress.metrics_outage_ms),
        rollout.least_time(index),
    );
    let not_before = if end > now {
        format!(", not before {}", moment(end, now))
    } else {
        String::new()
    };
    let consent = match &progress.approved {
        Some(approved) => format!(
            " ({} agreed at {})",
            approved.by.as_deref().unwrap_or("a person"),
            moment(approved.at, now)
        ),
        None if rollout.needs_approval(index) => " and a person agrees".to_owned(),
        None => pause(progress, rollout, now),
    };
    format!("{target} at the first look in which every objective passes{consent}{not_before}.")
}

/// How the step's pause is over by itself.
fn pause(progress: &Progress, rollout: &Rollout, now: Timestamp) -> String {
    let pause = rollout.pause(progress.step as usize);
    let Some(duration) = pause.and_then(|pause| pause.duration) else {
        return String::new();
    };
    let over = match progress.paused_since {
        Some(since) => format!("at {}", moment(after(since, duration.into()), now)),
        None => format!("{} after that", declared(duration)),
    };
    format!(" and the step's pause is over, {over} or once a person ends it")
}

/// What follows failing evidence.
fn backward(rollout: &Rollout) -> &'static str {
    match rollout.on_failure {
        OnFailure::Rollback => {
            "Back to 0 % in the same look in which an objective is proven broken, a scrape is so \
             bad that no proof is needed, or its pods fail."
        }
        OnFailure::Hold => {
            "If an objective is proven broken, the weight is held for a person to decide \
             (spec.rollout.onFailure). Back to 0 % at once if a scrape is so bad that no proof is \
             needed, or its pods fail."
        }
    }
}

fn without_proof(progress: &Progress, rollout: &Rollout, now: Timestamp) -> String {
    let policy = &rollout.on_insufficient_data;
    let since = progress.step_since + SignedDuration::from_millis(progress.metrics_outage_ms);
    let end = moment(after(since, policy.after.into()), now);
    let then = match policy.then {
        OnDeadline::Hold => "keep waiting",
        OnDeadline::AwaitApproval => "wait for a person's approval",
        OnDeadline::Advance => "take the next step, unless the version is suspect",
        OnDeadline::Rollback => "roll back",
    };
    format!("If still inconclusive at {end}: {then} (spec.rollout.onInsufficientData).")
}

fn without_metrics(progress: &Progress, rollout: &Rollout, now: Timestamp) -> String {
    let policy = &rollout.on_metrics_outage;
    let goes_back = policy.then == OnDeadline::Rollback;
    match progress.metrics_outage_since {
        None if goes_back => format!(
            "While the metrics cannot be trusted nothing moves; after {} of that all traffic goes \
             back (spec.rollout.onMetricsOutage).",
            declared(policy.hold)
        ),
        None => "While the metrics cannot be trusted nothing moves (spec.rollout.onMetricsOutage)."
            .to_owned(),
        Some(since) if goes_back => format!(
            "The metrics cannot be trusted since {}, so nothing moves; if that lasts until {}, all \
             traffic goes back (spec.rollout.onMetricsOutage).",
            moment(since, now),
            moment(after(since, policy.hold.into()), now)
        ),
        Some(since) => format!(
            "The metrics cannot be trusted since {}, so nothing moves until they can \
             (spec.rollout.onMetricsOutage).",
            moment(since, now)
        ),
    }
}

fn after(since: Timestamp, time: std::time::Duration) -> Timestamp {
    since.checked_add(time).unwrap_or(Timestamp::MAX)
}
