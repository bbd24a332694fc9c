//! The state machine: from what is, to what should be next. Pure: no client, no clock, no randomness.
//!
//! ```text
//! Pending ─► Stable ─► Preparing ─► Canary(10) ─► … ─► Canary(100) ─► Promoting ─► Stable
//!                          └──────────────┴──────────────────┴─► RollingBack ─► Stable
//! ```
//! Forward moves wait until the cluster has what the state says; the move back to stable waits for nothing.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    analysis, commands,
    context::{DecisionContext, signed, until},
    first_step,
    pods::{self, Case, Fault},
};
use crate::{
    api::{
        CanaryVersion, DecisionRecord, ModelDeploymentSpec, Phase, RetiringVersion, State, Verdict,
        VersionRef, conditions::reasons,
    },
    evidence::BlindReason,
    observe::Snapshot,
};

/// How often pods that are starting are looked at, besides at each change that the API server reports.
const STARTING_INTERVAL: Duration = Duration::from_secs(5);

/// What [`decide`] says.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Decision {
    /// The state from now on.
    pub next: State,
    /// What was decided just now; each becomes an Event and a log line.
    pub records: Vec<DecisionRecord>,
    /// When to look again even if nothing changes; never, where `None`.
    pub requeue: Option<Duration>,
}

/// Decides what comes next.
///
/// `spec` has passed [`crate::api::validate`]. `interval` is the time between two looks at the metrics.
pub fn decide(
    spec: &ModelDeploymentSpec,
    snapshot: &Snapshot,
    now: Timestamp,
    interval: Duration,
) -> Decision {
    let mut context = DecisionContext::new(spec, snapshot, now, interval);
    context.next.router_port = context.next.router_port.or(snapshot.free_port);
    context.restore();
    context.retire();
    context.note_pause();
    let requeue = match (context.next.stable.clone(), context.next.canary.clone()) {
        (None, None) => context.start_first(),
        (None, Some(first)) => context.await_first(&first),
        (Some(stable), None) => context.settle(&stable),
        (Some(stable), Some(canary)) => context.trial(&stable, canary),
    };
    let requeue = earliest(requeue, context.next_retirement());
    context.decided(requeue)
}

/// Why no version can be on trial.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The spec cannot be used: it does not say what a version must hold.
    InvalidSpec,
    /// The model is being deleted, and somebody's finalizer keeps it for a while.
    Deleting,
}

/// Ends the trial that is under way, if one is, and begins none. What serves, serves on.
pub fn withdraw_trial(
    spec: &ModelDeploymentSpec,
    snapshot: &Snapshot,
    now: Timestamp,
    why: Unfit,
) -> Decision {
    let mut context = DecisionContext::new(spec, snapshot, now, Duration::ZERO);
    context.restore();
    context.retire();
    if let (Some(stable), Some(canary)) = (context.next.stable.clone(), context.next.canary.clone())
    {
        let why = match why {
            Unfit::InvalidSpec => "The spec cannot be used any more",
            Unfit::Deleting => "The model is being deleted",
        };
        let sentence = format!(
            "{why}: version {} is withdrawn, all traffic is on {}.",
            canary.version, stable.version
        );
        context.withdraw(&canary, reasons::SUPERSEDED, None, sentence);
    }
    let requeue = context.next_retirement();
    context.decided(requeue)
}

/// The sentence of a model at rest.
pub fn serving_all(version: &str) -> String {
    format!("Version {version} serves all traffic.")
}

impl DecisionContext<'_> {
    /// Finds the version in force again where the state was lost: it has all traffic, as it had before the trial that was
    /// lost with it. Other versions keep their pods for a while, since routers may still send to them.
    fn restore(&mut self) {
        let Some(in_force) = self.snapshot.in_force.clone() else {
            return;
        };
        if self.next.stable.is_some() {
            return;
        }
        let is_it = |canary: &mut CanaryVersion| canary.revision == in_force.revision;
        self.next.canary.take_if(is_it);
        let canary = self.next.canary.as_ref().map(|canary| &canary.revision);
        let with_pods = self.snapshot.versions.iter();
        let others: Vec<_> = with_pods
            .filter(|(_, health)| health.desired > 0)
            .map(|(revision, _)| revision)
            .filter(|revision| **revision != in_force.revision && Some(*revision) != canary)
            .cloned()
            .collect();
        for revision in others {
            self.retire_version(revision);
        }
        self.next.phase = match &self.next.canary {
            Some(canary) if canary.progress.is_some() => Phase::Canary,
            Some(_) => Phase::Preparing,
            None => Phase::RollingBack,
        };
        let sentence = format!(
            "The status was lost: version {}, the one in force by the history, has all traffic.",
            in_force.version
        );
        // The rollout that was lost may have asked for more pods than the spec does now.
        self.next.replicas_floor = Some(self.health(&in_force.revision).desired);
        self.next.stable = Some(in_force);
        self.next.router_port = self.next.router_port.or(self.snapshot.free_port);
        self.record(reasons::RESTORED, 0, None, sentence);
    }

    /// Lets go of versions whose time is over.
    fn retire(&mut self) {
        let mut retiring = std::mem::take(&mut self.next.retiring);
        retiring.retain(|version| self.retires_at(version) > self.now);
        self.next.retiring = retiring;
        if self.next.retiring.is_empty()
            && matches!(self.next.phase, Phase::Promoting | Phase::RollingBack)
        {
            self.next.phase = Phase::Stable;
        }
    }

    fn next_retirement(&self) -> Option<Duration> {
        let retiring = self.next.retiring.iter();
        let next = retiring.map(|version| self.retires_at(version)).min()?;
        Some(until(self.now, next))
    }

    /// When a version's pods may go: not before every router can know that it has no weight.
    fn retires_at(&self, version: &RetiringVersion) -> Timestamp {
        let routers_know = self.snapshot.here_since + self.snapshot.router.settle;
        version.scale_down_at.max(routers_know)
    }

    /// Tells when `spec.rollout.paused` changes. What it does is told by whatever it holds up.
    fn note_pause(&mut self) {
        let paused = self.spec.rollout.paused;
        if paused == self.next.paused {
            return;
        }
        self.next.paused = paused;
        let weight = self.next.canary.as_ref().map_or(0, |canary| canary.weight);
        if paused {
            let sentence = "Paused (spec.rollout.paused): no weight is raised until it is resumed; a breach still rolls back.";
            self.record(reasons::PAUSED, weight, None, sentence.to_owned());
        } else {
            let sentence = "Resumed (spec.rollout.paused is false).";
            self.record(reasons::RESUMED, weight, None, sentence.to_owned());
        }
    }

    /// Says why the spec's version does not begin, where the API server would refuse its Deployment.
    fn is_denied(&mut self) -> bool {
        let Some(refusal) = &self.snapshot.desired_refused else {
            return false;
        };
        self.next.message = format!(
            "Version {} does not begin. {refusal}",
            self.snapshot.desired.version
        );
        true
    }

    fn start_first(&mut self) -> Option<Duration> {
        if self.is_denied() {
            return None;
        }
        let desired = self.snapshot.desired.clone();
        let sentence = format!(
            "Starting the first version, {}; it gets all traffic once a pod of it is Ready.",
            desired.version
        );
        self.begin(desired, Phase::Pending);
        self.record(reasons::FIRST_VERSION, 0, None, sentence);
        Some(STARTING_INTERVAL)
    }

    /// The first version goes straight to 100 %: there is nothing to compare it with, and nothing to fall back on.
    fn await_first(&mut self, first: &CanaryVersion) -> Option<Duration> {
        if first.revision != self.snapshot.desired.revision {
            self.retire_version(first.revision.clone());
            self.next.canary = None;
            return self.start_first();
        }
        let health = self.snapshot.health(&first.revision);
        if health.has_capacity(1) {
            if let Some(missing) = self.snapshot.missing() {
                let pods = health.sentence(&first.version, self.spec.replicas);
                self.next.message = format!("{pods} {}", missing.sentence());
                return Some(STARTING_INTERVAL);
            }
            self.next.stable = Some(first.version_ref());
            self.next.canary = None;
            self.next.phase = Phase::Stable;
            let part = if health.has_capacity(self.spec.replicas) {
                String::new()
            } else {
                format!(" with {} of {} pods", health.ready, self.spec.replicas)
            };
            let sentence = format!(
                "The first version, {}, is Ready and serves all traffic{part}.",
                first.version
            );
            self.record(reasons::PROMOTED, 0, None, sentence);
            return None;
        }
        self.next.message = match &health.failure {
            Some(failure) => format!(
                "The first version, {}, cannot start: {failure}",
                first.version
            ),
            None => health.sentence(&first.version, self.spec.replicas),
        };
        Some(STARTING_INTERVAL)
    }

    /// Nothing is on trial: start one if the spec asks for another version than the one that serves.
    fn settle(&mut self, stable: &VersionRef) -> Option<Duration> {
        let desired = self.snapshot.desired.clone();
        if desired.revision == stable.revision {
            self.next.message = serving_all(&stable.version);
            return None;
        }
        if let Some(refused) = self.refusal(&desired.revision).cloned() {
            // At rest in between, the spec has been elsewhere: it asks anew, and is told anew.
            let asks_anew = self.snapshot.state.message == serving_all(&stable.version);
            self.next.message = format!(
                "Version {} was rolled back at {}: {} Set spec.rollout.retryToken to another value to try it again. Version {} serves all traffic.",
                refused.version,
                refused.at.strftime("%F %TZ"),
                refused.reason,
                stable.version
            );
            let told = self.next.last_move().is_some_and(|last| {
                last.version == desired.version
                    && [reasons::REFUSED, reasons::ROLLED_BACK, reasons::ABORTED]
                        .contains(&last.action.as_str())
            });
            if asks_anew || !told {
                let sentence = self.next.message.clone();
                self.record_for(&desired.version, reasons::REFUSED, 0, None, sentence);
            }
            return None;
        }
        if self.is_denied() {
            return None;
        }
        let postponed = self.next.postponed.clone();
        if let Some(postponed) = &postponed
            && let Some(left) = self.pause_of(postponed)
        {
            self.next.message = format!(
                "{} Version {} is tried again at {}. Version {} serves all traffic.",
                postponed.reason,
                postponed.version,
                postponed.retry_at.strftime("%F %H:%M:%SZ"),
                stable.version
            );
            return Some(left.unsigned_abs());
        }
        let again = self
            .next
            .refused
            .iter()
            .any(|refused| refused.revision == desired.revision);
        let starting = if let Some(postponed) = postponed {
            let attempt = postponed.attempts.saturating_add(1);
            format!(
                "Trying version {} again (attempt {attempt})",
                desired.version
            )
        } else if again {
            format!(
                "spec.rollout.retryToken has changed: trying version {} again",
                desired.version
            )
        } else {
            format!("Starting version {}", desired.version)
        };
        let sentence = format!(
            "{starting} beside {}, without traffic until {} pods are Ready.",
            stable.version,
            self.spec.pods_needed()
        );
        self.begin(desired, Phase::Preparing);
        self.record(reasons::PREPARING, 0, None, sentence);
        Some(STARTING_INTERVAL)
    }

    fn trial(&mut self, stable: &VersionRef, canary: CanaryVersion) -> Option<Duration> {
        let desired = &self.snapshot.desired;
        if desired.revision == stable.revision {
            let sentence = format!(
                "The spec asks for version {} again: all traffic is back on it; version {} is withdrawn.",
                stable.version, canary.version
            );
            self.withdraw(&canary, reasons::SUPERSEDED, None, sentence);
            return Some(Duration::ZERO);
        }
        if desired.revision != canary.revision {
            let sentence = format!(
                "The spec asks for version {}: version {} is withdrawn, all traffic is on {}.",
                desired.version, canary.version, stable.version
            );
            self.withdraw(&canary, reasons::SUPERSEDED, None, sentence);
            return Some(Duration::ZERO);
        }
        if self.refusal(&canary.revision).is_some() {
            let sentence = format!(
                "spec.rollout.retryToken is again what it was when version {} was rolled back: it is withdrawn, all traffic is on {}.",
                canary.version, stable.version
            );
            self.withdraw(&canary, reasons::SUPERSEDED, None, sentence);
            return Some(Duration::ZERO);
        }
        if commands::abort(self, stable, &canary) {
            return Some(Duration::ZERO);
        }
        if canary.progress.is_none() {
            self.prepare(stable, canary)
        } else {
            analysis::judge(self, stable, canary)
        }
    }

    /// Waits for the new version's pods; gives it the first step's weight once they can carry it.
    fn prepare(&mut self, stable: &VersionRef, mut canary: CanaryVersion) -> Option<Duration> {
        let health = self.health(&canary.revision);
        let fault = Case::of(self.spec, self.snapshot, &canary, self.now).before_weight();
        match (fault, &health.unconfirmed) {
            (Some(fault), Some(why)) => {
                self.next.message = pods::doubted(&fault, why);
                return Some(STARTING_INTERVAL);
            }
            (Some(Fault::Version(reason)), None) => {
                self.roll_back(stable, &canary, None, &reason);
                return Some(Duration::ZERO);
            }
            (Some(Fault::Platform(reason)), None) => {
                self.postpone(stable, &canary, &reason);
                return Some(Duration::ZERO);
            }
            (None, _) => {}
        }
        if health.has_capacity(self.spec.pods_needed()) {
            if commands::promote_full(self, stable, &canary) {
                return Some(Duration::ZERO);
            }
            if self.spec.rollout.paused {
                self.next.message = format!(
                    "Paused: version {} is Ready and has no traffic.",
                    canary.version
                );
                return None;
            }
            if let Some(missing) = self.snapshot.missing() {
                self.next.message = format!(
                    "Version {} is Ready. {}",
                    canary.version,
                    missing.sentence()
                );
                return Some(STARTING_INTERVAL);
            }
            if let Some(reason) = self.no_way_back(stable) {
                self.next.message = format!("Version {} is Ready. {reason}", canary.version);
                return Some(STARTING_INTERVAL);
            }
            if let Some(reason) = self.unmeasurable(BlindReason::lasts) {
                let sentence = format!(
                    "Version {} is Ready and gets no traffic: what it must hold cannot be measured. {reason}",
                    canary.version
                );
                self.record_waiting(reasons::NOT_MEASURABLE, 0, Verdict::Blind, sentence);
                return Some(STARTING_INTERVAL);
            }
            first_step::start(self, &mut canary);
            return Some(self.interval);
        }
        self.next.message = health.sentence(&canary.version, self.spec.replicas);
        if let Some(reason) = self.unmeasurable(|_| true) {
            let unmeasured = format!(" What it must hold cannot be measured yet. {reason}");
            self.next.message.push_str(&unmeasured);
        }
        let deadline = signed(self.spec.rollout.progress_deadline.into());
        let left = deadline - self.witnessed(canary.since);
        let soon = left.is_positive().then(|| left.unsigned_abs());
        Some(soon.map_or(STARTING_INTERVAL, |left| left.min(STARTING_INTERVAL)))
    }

    /// Why objectives cannot be measured as things are, of those reasons that are meant; in words.
    pub(super) fn unmeasurable(&self, is_meant: impl Fn(&BlindReason) -> bool) -> Option<String> {
        let sentences: Vec<String> = self
            .snapshot
            .unmeasurable
            .iter()
            .filter(|told| is_meant(&told.reason))
            .map(ToString::to_string)
            .collect();
        (!sentences.is_empty()).then(|| sentences.join(" "))
    }
}

fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
