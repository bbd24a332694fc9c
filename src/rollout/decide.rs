//! The state machine: from what is, to what should be next. Pure: no client, no clock, no
//! randomness.
//!
//! ```text
//! Pending ─► Stable ─► Preparing ─► Canary(10) ─► … ─► Canary(100) ─► Promoting ─► Stable
//!                          └──────────────┴──────────────────┴─► RollingBack ─► Stable
//! any ─► Asleep ─► Waking ─► Stable
//! ```
//! Forward moves wait until the cluster has what the state says; the move back to stable waits for
//! nothing.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    context::DecisionContext,
    decision::{Decision, Unfit},
};
use crate::{api::ModelDeploymentSpec, observe::Snapshot, sentences::Withdrawal};

/// Decides what comes next.
///
/// `spec` has passed [`crate::api::validate`]. `interval` is the time between two looks at the
/// metrics.
pub fn decide(
    spec: &ModelDeploymentSpec,
    snapshot: &Snapshot,
    now: Timestamp,
    interval: Duration,
) -> Decision {
    let mut context = DecisionContext::new(spec, snapshot, now, interval);
    context.next.listener_port = context.next.listener_port.or(snapshot.free_port);
    context.restore();
    context.retire();
    context.note_pause();
    if spec.is_asleep() {
        context.sleep();
        let requeue = context.next_retirement();
        return context.decided(requeue);
    }
    if let Some(requeue) = context.wake() {
        let requeue = earliest(Some(requeue), context.next_retirement());
        return context.decided(requeue);
    }
    let canary = context.next.canary.as_ref();
    let has_weight = canary.map(|canary| canary.progress.is_some());
    let requeue = match (context.next.stable.is_some(), has_weight) {
        (false, _) => context.pending(),
        (true, None) => context.stable(),
        (true, Some(false)) => context.preparing(),
        (true, Some(true)) => context.canary(),
    };
    let requeue = earliest(requeue, context.next_retirement());
    context.decided(requeue)
}

/// Ends the trial that is under way, if one is, and begins none. The version in force keeps
/// serving.
pub fn withdraw_trial(
    spec: &ModelDeploymentSpec,
    snapshot: &Snapshot,
    now: Timestamp,
    why: Unfit,
) -> Decision {
    let mut context = DecisionContext::new(spec, snapshot, now, Duration::ZERO);
    context.restore();
    context.retire();
    let trial = (context.next.stable.clone(), context.next.canary.clone());
    if let (Some(stable), Some(canary)) = trial {
        let why = match why {
            Unfit::InvalidSpec => Withdrawal::InvalidSpec,
            Unfit::Deleting => Withdrawal::Deleting,
        };
        context.withdraw(&stable, &canary, why);
    }
    let requeue = context.next_retirement();
    context.decided(requeue)
}

fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
