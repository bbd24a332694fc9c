//! What pods say against a version, whatever its metrics say, and what only the platform is to
//! blame for.
//!
//! A cache may be a minute old, behind a watch that has gone silent, so it only accuses: the API
//! server's own word is read before a trial ends. See [`crate::observe::health`].

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{
    commands,
    context::{DecisionContext, signed},
    transitions,
};
use crate::{
    api::{CanaryVersion, ModelDeploymentSpec, Progress, Revision},
    observe::{Snapshot, VersionHealth},
};

/// A canary with weight whose pods were Ready and are silent may be without a Ready one for this
/// long; the routers send its share to stable meanwhile. Pods that have to be started again have
/// `spec.rollout.progressDeadline`.
const UNREADY_PATIENCE: Duration = Duration::from_secs(60);

/// Why a trial ends for its pods' sake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The version's own: it is refused.
    Version(String),
    /// The platform's: the version is tried again later.
    Platform(String),
}

/// The version whose pods would end its trial if what the snapshot says of them were so.
pub fn failing_version<'a>(
    spec: &ModelDeploymentSpec,
    snapshot: &'a Snapshot,
    now: Timestamp,
) -> Option<&'a Revision> {
    snapshot.state.stable.as_ref()?; // the first version has no trial
    let canary = snapshot.state.canary.as_ref()?;
    let case = Case::of(spec, snapshot, canary, now);
    let fault = match &canary.progress {
        None => case.before_weight(),
        Some(progress) => case.with_weight(progress.unready_since),
    };
    fault.map(|_| &canary.revision)
}

/// A version on trial, and what is known of its pods.
pub(super) struct Case<'a> {
    spec: &'a ModelDeploymentSpec,
    snapshot: &'a Snapshot,
    canary: &'a CanaryVersion,
    health: VersionHealth,
    now: Timestamp,
}

impl<'a> Case<'a> {
    pub(super) fn of(
        spec: &'a ModelDeploymentSpec,
        snapshot: &'a Snapshot,
        canary: &'a CanaryVersion,
        now: Timestamp,
    ) -> Self {
        let health = snapshot.health(&canary.revision);
        Self {
            spec,
            snapshot,
            canary,
            health,
            now,
        }
    }

    /// Why a version without weight is given up, if it is.
    pub(super) fn before_weight(&self) -> Option<Fault> {
        if let Some(failure) = self.failure() {
            return Some(failure);
        }
        if self.health.has_capacity(self.spec.pods_needed()) || self.spec.rollout.paused {
            return None;
        }
        let reason = format!(
            "{} of {} pods of version {} were Ready within {} (spec.rollout.progressDeadline)",
            self.health.ready,
            self.health.desired.max(self.spec.replicas),
            self.canary.version,
            self.spec.rollout.progress_deadline
        );
        self.out_of_time(self.canary.since, &reason)
    }

    /// Why a version with weight is given up that has been without a Ready pod since then, if it
    /// is.
    pub(super) fn with_weight(&self, unready_since: Option<Timestamp>) -> Option<Fault> {
        if let Some(failure) = self.failure() {
            return Some(failure);
        }
        let since = unready_since.filter(|_| self.health.ready == 0)?;
        let reason = |lasted: &str| {
            let version = &self.canary.version;
            format!("Version {version} has had no Ready pod for {lasted}")
        };
        let lost = self.health.lost && self.health.is_silent();
        if lost && self.witnessed(since) >= signed(UNREADY_PATIENCE) {
            let seconds = UNREADY_PATIENCE.as_secs();
            return Some(Fault::Version(reason(&format!("{seconds} s."))));
        }
        let deadline = self.spec.rollout.progress_deadline;
        let reason = reason(&format!("{deadline} (spec.rollout.progressDeadline)"));
        self.out_of_time(since, &reason)
    }

    fn failure(&self) -> Option<Fault> {
        let failure = self.health.failure.as_ref()?;
        let version = &self.canary.version;
        let reason = format!("Version {version} cannot run: {failure}");
        Some(Fault::Version(reason))
    }

    /// Whose fault it is that pods are not Ready once the deadline has passed. A server that the
    /// platform has started late has as much time of its own, where the platform needs no more than
    /// that itself.
    fn out_of_time(&self, since: Timestamp, reason: &str) -> Option<Fault> {
        let deadline = signed(self.spec.rollout.progress_deadline.into());
        let lasted = self.witnessed(since);
        if lasted < deadline {
            return None;
        }
        if !self.health.is_silent() {
            let refused = self.snapshot.missing().map(ToString::to_string);
            let trouble = self.health.trouble.clone().or(refused);
            let trouble = trouble.unwrap_or_else(|| "they have not been started".to_owned());
            let trouble = trouble.trim_end_matches('.');
            return Some(Fault::Platform(format!("{reason}: {trouble}.")));
        }
        let ran = self.health.unready_since.map(|since| self.witnessed(since));
        if ran.is_none_or(|ran| ran >= deadline) {
            return Some(Fault::Version(format!("{reason}.")));
        }
        let is_over = lasted >= deadline.saturating_add(deadline);
        is_over.then(|| Fault::Platform(format!("{reason}: they were started too late.")))
    }

    fn witnessed(&self, since: Timestamp) -> SignedDuration {
        self.snapshot.witnessed(since, self.now)
    }
}

/// What the pods of a canary with weight come to.
pub(super) enum Pods {
    /// Nothing that speaks against it.
    Serve,
    /// None serves: stable answers its share, and its weight stays as it is. The reason in words.
    Away(String),
    /// It is given up.
    End(Fault),
}

/// Judges a canary with weight by its pods.
pub(super) fn judge(
    context: &DecisionContext<'_>,
    canary: &CanaryVersion,
    progress: &mut Progress,
) -> Pods {
    let case = Case::of(context.spec, context.snapshot, canary, context.now);
    if case.health.ready > 0 {
        if progress.unready_since.take().is_some() {
            // Stable answered the canary's share meanwhile: the step's counts say nothing about its weight.
            transitions::restart_step(progress, canary.weight, context);
        }
    } else {
        progress.unready_since.get_or_insert(context.now);
    }
    let fault = case.with_weight(progress.unready_since);
    match (fault, &case.health.unconfirmed) {
        (Some(fault), None) => Pods::End(fault),
        (Some(fault), Some(why)) => Pods::Away(doubted(&fault, why)),
        (None, _) if case.health.ready > 0 => Pods::Serve,
        (None, _) => {
            let pods = case.health.sentence(&canary.version, context.spec.replicas);
            Pods::Away(format!("{pods} Stable answers its share meanwhile."))
        }
    }
}

/// Holds the weight of a canary none of whose pods serves.
pub(super) fn hold(context: &mut DecisionContext<'_>, canary: &CanaryVersion, why: &str) {
    context.next.message = format!("Holding at {} %. {why}", canary.weight);
    commands::refuse_skip(context, canary, "none of its pods is Ready");
}

/// Adds to the message that a canary with weight lacks pods, and why.
pub(super) fn mention_missing(context: &mut DecisionContext<'_>) {
    let Some(canary) = &context.next.canary else {
        return;
    };
    let health = context.health(&canary.revision);
    if health.ready > 0 && !health.has_capacity(context.spec.pods_needed()) {
        let pods = health.sentence(&canary.version, context.spec.replicas);
        let message = &mut context.next.message;
        message.push(' ');
        message.push_str(&pods);
    }
}

/// An accusation that the API server has not confirmed.
pub(super) fn doubted(fault: &Fault, why: &str) -> String {
    let (Fault::Version(reason) | Fault::Platform(reason)) = fault;
    format!("{reason} That is what a cache says, and it is not confirmed: {why}.")
}
