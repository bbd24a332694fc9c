//! What pods say against a version, whatever its metrics say, and what only the platform is to
//! blame for.
//!
//! A cache may be a minute old, behind a watch that has gone silent, so it only accuses: the
//! version is read from the API server before a trial ends. See [`crate::observe::health`].

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::context::{DecisionContext, named, signed};
use crate::{
    api::{CanaryVersion, ModelDeploymentSpec, Progress, Revision},
    observe::{Snapshot, VersionHealth},
    sentences::{PodTrouble, Statement},
};

/// A canary with weight whose pods were Ready and are silent may be without a Ready one for this
/// long; the routers send its share to stable meanwhile. Pods that have to be started again have
/// `spec.rollout.progressDeadline`.
const UNREADY_PATIENCE: Duration = Duration::from_secs(60);

/// Why a trial ends because of its pods.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fault {
    /// The version's own: it is refused.
    Version(Statement),
    /// The platform's: the version is tried again later.
    Platform(Statement),
}

/// Returns the version whose pods would end its trial if what the snapshot says of them is true.
pub fn failing_version<'a>(
    spec: &ModelDeploymentSpec,
    snapshot: &'a Snapshot,
    now: Timestamp,
) -> Option<&'a Revision> {
    snapshot.state.stable.as_ref()?; // the first version has no trial
    let canary = snapshot.state.canary.as_ref()?;
    let pods = PodsOnTrial::of(spec, snapshot, canary, now);
    let fault = match &canary.progress {
        None => pods.before_weight(),
        Some(progress) => pods.with_weight(progress.unready_since),
    };
    fault.map(|_| &canary.revision)
}

/// A version on trial, and what is known of its pods.
pub(super) struct PodsOnTrial<'a> {
    spec: &'a ModelDeploymentSpec,
    snapshot: &'a Snapshot,
    canary: &'a CanaryVersion,
    health: VersionHealth,
    now: Timestamp,
}

impl<'a> PodsOnTrial<'a> {
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
        let late = |cause| Statement::NotReadyInTime {
            version: self.name(),
            ready: self.health.ready,
            wanted: self.health.desired.max(self.spec.replicas),
            deadline: self.spec.rollout.progress_deadline,
            cause,
        };
        self.out_of_time(self.canary.since, late)
    }

    /// Why a version with weight is given up that has been without a Ready pod since then, if it
    /// is.
    pub(super) fn with_weight(&self, unready_since: Option<Timestamp>) -> Option<Fault> {
        if let Some(failure) = self.failure() {
            return Some(failure);
        }
        let since = unready_since.filter(|_| self.health.ready == 0)?;
        let lost = self.health.lost && self.health.is_silent();
        if lost && self.witnessed(since) >= signed(UNREADY_PATIENCE) {
            return Some(Fault::Version(Statement::SilentFor {
                version: self.name(),
                seconds: UNREADY_PATIENCE.as_secs(),
            }));
        }
        let late = |cause| Statement::NoPodForDeadline {
            version: self.name(),
            deadline: self.spec.rollout.progress_deadline,
            cause,
        };
        self.out_of_time(since, late)
    }

    fn failure(&self) -> Option<Fault> {
        let failure = self.health.failure.clone()?;
        Some(Fault::Version(Statement::CannotRun {
            version: self.name(),
            failure,
        }))
    }

    /// Whose fault it is that pods are not Ready once the deadline has passed. A server that the
    /// platform has started late has as much time of its own, where the platform needs no more than
    /// that itself.
    fn out_of_time(
        &self,
        since: Timestamp,
        late: impl Fn(Option<PodTrouble>) -> Statement,
    ) -> Option<Fault> {
        let deadline = signed(self.spec.rollout.progress_deadline.into());
        let lasted = self.witnessed(since);
        if lasted < deadline {
            return None;
        }
        if !self.health.is_silent() {
            let trouble = self.health.trouble.clone().map(PodTrouble::Problem);
            let refused = || self.snapshot.missing().cloned().map(PodTrouble::Unwritten);
            let cause = trouble.or_else(refused);
            let cause = cause.unwrap_or(PodTrouble::NotStarted);
            return Some(Fault::Platform(late(Some(cause))));
        }
        let ran = self.health.unready_since.map(|since| self.witnessed(since));
        if ran.is_none_or(|ran| ran >= deadline) {
            return Some(Fault::Version(late(None)));
        }
        let is_over = lasted >= deadline.saturating_add(deadline);
        is_over.then(|| Fault::Platform(late(Some(PodTrouble::StartedLate))))
    }

    /// How sentences name the version.
    fn name(&self) -> String {
        named(self.snapshot, &self.canary.revision, &self.canary.version)
    }

    fn witnessed(&self, since: Timestamp) -> SignedDuration {
        self.snapshot.witnessed(since, self.now)
    }
}

/// What the pods of a canary with weight come to.
pub(super) enum PodsVerdict {
    /// They serve.
    Serve,
    /// None serves: stable answers its share, and its weight stays as it is.
    Away(Vec<Statement>),
    /// It is given up.
    End(Fault),
}

impl DecisionContext<'_> {
    /// Judges a canary with weight by its pods.
    pub(super) fn judge_pods(
        &mut self,
        canary: &CanaryVersion,
        progress: &mut Progress,
    ) -> PodsVerdict {
        let pods = PodsOnTrial::of(self.spec, self.snapshot, canary, self.now);
        let serves = pods.health.ready > 0;
        if !serves {
            progress.unready_since.get_or_insert(self.now);
        } else if progress.unready_since.take().is_some() {
            // Stable answered the canary's share: the step's counts do not show its weight.
            self.begin_step(progress, canary.weight);
        }
        let fault = pods.with_weight(progress.unready_since);
        match (fault, &pods.health.unconfirmed) {
            (Some(fault), None) => PodsVerdict::End(fault),
            (Some(fault), Some(why)) => PodsVerdict::Away(unconfirmed(fault, why).into()),
            (None, _) if serves => PodsVerdict::Serve,
            (None, _) => {
                let pods = self.pods(&canary.version_ref());
                PodsVerdict::Away(vec![pods, Statement::StableAnswers])
            }
        }
    }

    /// Adds to the message that a canary with weight lacks pods, and why.
    pub(super) fn mention_missing_pods(&mut self) {
        let Some(canary) = &self.next.canary else {
            return;
        };
        let health = self.health(&canary.revision);
        if health.ready > 0 && !health.has_capacity(self.spec.pods_needed()) {
            let pods = self.pods(&canary.version_ref());
            self.add(pods);
        }
    }
}

/// A fault that the API server has not confirmed.
pub(super) fn unconfirmed(fault: Fault, why: &str) -> [Statement; 2] {
    let (Fault::Version(reason) | Fault::Platform(reason)) = fault;
    let why = why.to_owned();
    [reason, Statement::Unconfirmed { why }]
}
