//! What pods say against a version, whatever its metrics say.
//!
//! A cache may be a minute old, behind a watch that has gone silent, so it only accuses: the API server's own word is read
//! before a trial ends. See [`crate::observe::health`].

use std::time::Duration;

use jiff::Timestamp;

use super::{
    moves,
    turn::{Turn, signed},
};
use crate::{
    api::{CanaryVersion, ModelDeploymentSpec, Progress, Revision},
    observe::Snapshot,
};

/// A canary with weight may be without a ready pod for this long; the router sends its share to stable meanwhile.
const UNREADY_PATIENCE: Duration = Duration::from_secs(60);

/// The version whose pods would end its trial if what the snapshot says of them were so.
pub fn accused<'a>(
    spec: &ModelDeploymentSpec,
    snapshot: &'a Snapshot,
    now: Timestamp,
) -> Option<&'a Revision> {
    snapshot.state.stable.as_ref()?; // the first version has no trial
    let canary = snapshot.state.canary.as_ref()?;
    let health = snapshot.health(&canary.revision);
    let out_of_patience = match &canary.progress {
        None => {
            let deadline = signed(spec.rollout.progress_deadline.into());
            !health.has_capacity(spec.replicas) && snapshot.witnessed(canary.since, now) >= deadline
        }
        Some(progress) => {
            let since = progress.unready_since;
            health.ready == 0
                && since.is_some_and(|since| is_unready_for_too_long(snapshot, since, now))
        }
    };
    (health.failure.is_some() || out_of_patience).then_some(&canary.revision)
}

/// What the pods of a canary with weight come to.
pub(super) enum Pods {
    /// Nothing that speaks against it.
    Serve,
    /// It cannot serve, and why.
    Fail(String),
    /// It seems that it cannot serve, and why nobody knows.
    Doubted(String),
}

/// Judges a canary with weight by its pods.
pub(super) fn judge(turn: &Turn<'_>, canary: &CanaryVersion, progress: &mut Progress) -> Pods {
    let health = turn.health(&canary.revision);
    let failing = if let Some(failure) = &health.failure {
        Some(format!("Version {} cannot run: {failure}", canary.version))
    } else if health.ready > 0 {
        if progress.unready_since.take().is_some() {
            // Stable answered the canary's share meanwhile: the step's counts say nothing about its weight.
            moves::restart_step(progress, canary.weight, turn);
        }
        None
    } else {
        let since = *progress.unready_since.get_or_insert(turn.now);
        is_unready_for_too_long(turn.snapshot, since, turn.now).then(|| {
            format!(
                "Version {} has had no Ready pod for {} s.",
                canary.version,
                UNREADY_PATIENCE.as_secs()
            )
        })
    };
    match (failing, health.unconfirmed) {
        (None, _) => Pods::Serve,
        (Some(failing), None) => Pods::Fail(failing),
        (Some(failing), Some(why)) => Pods::Doubted(doubted(&failing, &why)),
    }
}

/// An accusation that the API server has not confirmed.
pub(super) fn doubted(failing: &str, why: &str) -> String {
    format!("{failing} That is what a cache says, and it is not confirmed: {why}.")
}

fn is_unready_for_too_long(snapshot: &Snapshot, since: Timestamp, now: Timestamp) -> bool {
    snapshot.witnessed(since, now) >= signed(UNREADY_PATIENCE)
}
