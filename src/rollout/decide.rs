//! The state machine: from what is, to what should be next. Pure: no client, no clock, no randomness.
//!
//! ```text
//! Pending ─► Stable ─► Preparing ─► Canary(10) ─► … ─► Canary(100) ─► Promoting ─► Stable
//!                          └──────────────┴──────────────────┴─► RollingBack ─► Stable
//! ```
//! Forward moves wait until the cluster has what the state says; the move back to stable waits for nothing.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::trial;
use crate::{
    api::{
        CanaryVersion, DecisionRecord, ModelDeploymentSpec, ObjectiveRecord, Phase, RefusedVersion,
        RetiringVersion, Revision, State, Verdict, VersionRef, conditions::reasons, remember,
    },
    observe::Snapshot,
    status::serving_all,
};

/// Refused versions kept in status.
const REFUSED_KEPT: usize = 20;
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
    let mut turn = Turn::new(spec, snapshot, now, interval);
    turn.next.router_port = turn.next.router_port.or(snapshot.free_port);
    turn.retire();
    let requeue = match (turn.next.stable.clone(), turn.next.canary.clone()) {
        (None, None) => Some(turn.start_first()),
        (None, Some(first)) => turn.await_first(&first),
        (Some(stable), None) => turn.settle(&stable),
        (Some(stable), Some(canary)) => turn.trial(&stable, canary),
    };
    let requeue = earliest(requeue, turn.next_retirement());
    turn.decided(requeue)
}

/// Takes a canary's traffic away because the spec can no longer be used: nobody could say what it must hold.
pub fn retreat(spec: &ModelDeploymentSpec, snapshot: &Snapshot, now: Timestamp) -> Decision {
    let mut turn = Turn::new(spec, snapshot, now, Duration::ZERO);
    if let (Some(stable), Some(canary)) = (turn.next.stable.clone(), turn.next.canary.clone())
        && canary.weight > 0
    {
        let sentence = format!(
            "The spec cannot be used any more: version {} is withdrawn, all traffic is on {}.",
            canary.version, stable.version
        );
        turn.withdraw(&canary, reasons::SUPERSEDED, None, sentence);
    }
    turn.decided(None)
}

/// One run of [`decide`]: its inputs, and the state as it takes shape.
pub(super) struct Turn<'a> {
    pub(super) spec: &'a ModelDeploymentSpec,
    pub(super) snapshot: &'a Snapshot,
    pub(super) now: Timestamp,
    pub(super) interval: Duration,
    pub(super) next: State,
    pub(super) records: Vec<DecisionRecord>,
    /// What is known of each objective, once the trial has been looked at; goes into every record from then on.
    pub(super) evidence: Vec<ObjectiveRecord>,
}

impl<'a> Turn<'a> {
    fn new(
        spec: &'a ModelDeploymentSpec,
        snapshot: &'a Snapshot,
        now: Timestamp,
        interval: Duration,
    ) -> Self {
        Self {
            spec,
            snapshot,
            now,
            interval,
            next: snapshot.state.clone(),
            records: Vec::new(),
            evidence: Vec::new(),
        }
    }

    /// The turn's result. Only now is it known when the next look comes.
    fn decided(mut self, requeue: Option<Duration>) -> Decision {
        let next_check = requeue.and_then(|after| self.now.checked_add(after).ok());
        let of_this_turn = self.next.decisions.iter_mut().rev();
        for record in of_this_turn.take(self.records.len()) {
            record.next_check = next_check;
        }
        for record in &mut self.records {
            record.next_check = next_check;
        }
        Decision {
            next: self.next,
            records: self.records,
            requeue,
        }
    }

    /// Lets go of versions whose time is over.
    fn retire(&mut self) {
        let now = self.now;
        self.next
            .retiring
            .retain(|version| version.scale_down_at > now);
        if self.next.retiring.is_empty()
            && matches!(self.next.phase, Phase::Promoting | Phase::RollingBack)
        {
            self.next.phase = Phase::Stable;
        }
    }

    fn next_retirement(&self) -> Option<Duration> {
        let next = self
            .next
            .retiring
            .iter()
            .map(|version| version.scale_down_at)
            .min()?;
        Some(until(self.now, next))
    }

    fn start_first(&mut self) -> Duration {
        let desired = self.snapshot.desired.clone();
        let sentence = format!(
            "Starting the first version, {}; it gets all traffic once its pods are Ready.",
            desired.version
        );
        self.begin(desired, Phase::Pending);
        self.record(reasons::FIRST_VERSION, 0, None, sentence);
        STARTING_INTERVAL
    }

    /// The first version goes straight to 100 %: there is nothing to compare it with, and nothing to fall back on.
    fn await_first(&mut self, first: &CanaryVersion) -> Option<Duration> {
        if first.revision != self.snapshot.desired.revision {
            self.retire_version(first.revision.clone());
            return Some(self.start_first());
        }
        let health = self.snapshot.health(&first.revision);
        if health.has_capacity(self.spec.replicas) {
            self.next.stable = Some(first.version_ref());
            self.next.canary = None;
            self.next.phase = Phase::Stable;
            let sentence = format!(
                "The first version, {}, is Ready and serves all traffic.",
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
                refused.version, refused.at, refused.reason, stable.version
            );
            let told = self.next.decisions.last().is_some_and(|last| {
                last.version == desired.version
                    && [reasons::REFUSED, reasons::ROLLED_BACK].contains(&last.action.as_str())
            });
            if asks_anew || !told {
                let sentence = self.next.message.clone();
                self.record_for(&desired.version, reasons::REFUSED, 0, None, sentence);
            }
            return None;
        }
        let sentence = format!(
            "Starting version {} beside {}, without traffic until {} pods are Ready.",
            desired.version, stable.version, self.spec.replicas
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
        if canary.progress.is_none() {
            self.prepare(stable, canary)
        } else {
            trial::judge(self, stable, canary)
        }
    }

    /// Waits for the new version's pods; gives it the first step's weight once they can carry it.
    fn prepare(&mut self, stable: &VersionRef, mut canary: CanaryVersion) -> Option<Duration> {
        let health = self.snapshot.health(&canary.revision);
        let deadline = canary.since + signed(self.spec.rollout.progress_deadline.into());
        if let Some(failure) = health.failure {
            self.roll_back(
                stable,
                &canary,
                None,
                &format!("Version {} cannot run: {failure}", canary.version),
            );
            return Some(Duration::ZERO);
        }
        if health.has_capacity(self.spec.replicas) {
            if self.spec.rollout.paused {
                self.next.message = format!(
                    "Paused: version {} is Ready and has no traffic.",
                    canary.version
                );
                return None;
            }
            trial::start(self, &mut canary);
            return Some(self.interval);
        }
        if self.now >= deadline {
            let reason = format!(
                "{} of {} pods of version {} were Ready within {} (spec.rollout.progressDeadline).",
                health.ready,
                self.spec.replicas,
                canary.version,
                self.spec.rollout.progress_deadline
            );
            self.roll_back(stable, &canary, None, &reason);
            return Some(Duration::ZERO);
        }
        self.next.message = health.sentence(&canary.version, self.spec.replicas);
        Some(STARTING_INTERVAL.min(until(self.now, deadline)))
    }

    /// Whether the spec's version was rolled back under the token that is in force.
    fn refusal(&self, revision: &Revision) -> Option<&RefusedVersion> {
        self.next.refused.iter().find(|refused| {
            refused.revision == *revision && refused.retry_token == self.spec.rollout.retry_token
        })
    }

    fn begin(&mut self, version: VersionRef, phase: Phase) {
        self.next
            .retiring
            .retain(|retiring| retiring.revision != version.revision);
        self.next.phase = phase;
        self.next.canary = Some(CanaryVersion {
            revision: version.revision,
            version: version.version,
            weight: 0,
            since: self.now,
            progress: None,
        });
    }

    /// All traffic back on stable, and the version is remembered as refused. Waits for nothing.
    pub(super) fn roll_back(
        &mut self,
        stable: &VersionRef,
        canary: &CanaryVersion,
        verdict: Option<Verdict>,
        reason: &str,
    ) {
        let token = self.spec.rollout.retry_token.clone();
        self.next
            .refused
            .retain(|refused| refused.revision != canary.revision);
        self.next.refused.push(RefusedVersion {
            revision: canary.revision.clone(),
            version: canary.version.clone(),
            at: self.now,
            reason: reason.to_owned(),
            retry_token: token,
        });
        keep_last(&mut self.next.refused, REFUSED_KEPT);
        let sentence = format!(
            "{reason} All traffic is back on version {}.",
            stable.version
        );
        self.withdraw(canary, reasons::ROLLED_BACK, verdict, sentence);
    }

    /// Takes the canary's weight away; its pods stay for the scale-down delay, to answer what they already have.
    fn withdraw(
        &mut self,
        canary: &CanaryVersion,
        action: &str,
        verdict: Option<Verdict>,
        sentence: String,
    ) {
        self.record(action, 0, verdict, sentence);
        self.retire_version(canary.revision.clone());
        self.next.canary = None;
        self.next.phase = Phase::RollingBack;
    }

    /// The canary is the stable version from now on; the old one stays warm for the scale-down delay.
    pub(super) fn promote(&mut self, old: &VersionRef, canary: &CanaryVersion, sentence: String) {
        self.record(reasons::PROMOTED, 100, Some(Verdict::Pass), sentence);
        self.retire_version(old.revision.clone());
        self.next.stable = Some(canary.version_ref());
        self.next.canary = None;
        self.next.phase = Phase::Promoting;
    }

    fn retire_version(&mut self, revision: Revision) {
        let scale_down_at = self.now + signed(self.spec.rollout.scale_down_delay.into());
        self.next.retiring.push(RetiringVersion {
            revision,
            scale_down_at,
        });
    }

    /// Writes a decision about the canary down.
    pub(super) fn record(
        &mut self,
        action: &str,
        weight: u8,
        verdict: Option<Verdict>,
        sentence: String,
    ) {
        let version = self
            .next
            .canary
            .as_ref()
            .map(|canary| canary.version.clone());
        let version = version
            .or_else(|| {
                self.next
                    .stable
                    .as_ref()
                    .map(|stable| stable.version.clone())
            })
            .unwrap_or_default();
        self.record_for(&version, action, weight, verdict, sentence);
    }

    fn record_for(
        &mut self,
        version: &str,
        action: &str,
        weight: u8,
        verdict: Option<Verdict>,
        sentence: String,
    ) {
        let record = DecisionRecord {
            at: self.now,
            action: action.to_owned(),
            version: version.to_owned(),
            weight,
            verdict,
            sentence: sentence.clone(),
            by: None,
            evidence: self.evidence.clone(),
            next_check: None,
        };
        self.next.message = sentence;
        remember(&mut self.next.decisions, record.clone());
        self.records.push(record);
    }
}

fn keep_last<T>(list: &mut Vec<T>, count: usize) {
    list.drain(..list.len().saturating_sub(count));
}

/// The time from `now` until `then`; zero if it has passed.
fn until(now: Timestamp, then: Timestamp) -> Duration {
    then.duration_since(now)
        .try_into()
        .unwrap_or(Duration::ZERO)
}

/// A duration that can be added to a timestamp.
pub(super) fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
