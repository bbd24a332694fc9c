//! One run of a decision: its inputs, and the state as it takes shape. What is written here is written once: how a trial
//! begins and ends, and how a decision is put on record.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::decide::Decision;
use crate::{
    api::{
        Attended, CanaryVersion, Commands, DecisionRecord, ModelDeploymentSpec, ObjectiveRecord,
        Phase, PostponedVersion, RefusedVersion, RetiringVersion, Revision, State, Verdict,
        VersionRef, commands::Command, conditions::reasons, remember,
    },
    observe::{Snapshot, VersionHealth},
};

/// Refused versions kept in status.
const REFUSED_KEPT: usize = 20;

/// Pause before a version is tried again whose trial the platform ended; each further trial doubles
/// it.
const FIRST_RETRY: SignedDuration = SignedDuration::from_mins(1);
/// The longest of these pauses.
const LONGEST_RETRY: SignedDuration = SignedDuration::from_hours(1);

/// How often it is noted that somebody looks: a process that starts within 30 s of another's end goes on with its patience.
const NOTED_EVERY: Duration = Duration::from_secs(30);

/// One run of [`decide`](super::decide()).
pub(super) struct DecisionContext<'a> {
    pub(super) spec: &'a ModelDeploymentSpec,
    pub(super) snapshot: &'a Snapshot,
    pub(super) now: Timestamp,
    pub(super) interval: Duration,
    pub(super) next: State,
    pub(super) records: Vec<DecisionRecord>,
    /// What people ask for and has not been heeded yet.
    pub(super) commands: Commands,
    /// The person on whose word the decision acts; goes into every record from then on.
    pub(super) by: Option<String>,
    /// What is known of each objective, once the trial has been looked at; goes into every record of a decision on it.
    pub(super) evidence: Vec<ObjectiveRecord>,
}

impl<'a> DecisionContext<'a> {
    pub(super) fn new(
        spec: &'a ModelDeploymentSpec,
        snapshot: &'a Snapshot,
        now: Timestamp,
        interval: Duration,
    ) -> Self {
        let mut next = snapshot.state.clone();
        // What was heeded stays spent for as long as it stands there; once it is gone it may be said again.
        next.spent.retain(|spent| {
            let asked = &snapshot.commands.asked;
            asked.iter().any(|command| command.to_string() == *spent)
        });
        next.ignored.clone_from(&snapshot.commands.malformed);
        let token = &spec.rollout.retry_token;
        next.postponed = next.postponed.filter(|postponed| {
            postponed.revision == snapshot.desired.revision && postponed.retry_token == *token
        });
        let commands = snapshot.commands.clone().without(&next.spent);
        Self {
            spec,
            snapshot,
            now,
            interval,
            next,
            records: Vec::new(),
            commands,
            by: None,
            evidence: Vec::new(),
        }
    }

    /// The decision. Only now is it known when the next look comes.
    pub(super) fn decided(mut self, requeue: Option<Duration>) -> Decision {
        self.attend();
        self.keep_replicas();
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

    /// Notes that somebody looks, for a process that may start at any time: while pods are waited for, or metrics, patience
    /// runs out with the time that somebody has witnessed.
    fn attend(&mut self) {
        let waits = |canary: &CanaryVersion| {
            let progress = canary.progress.as_ref();
            progress.is_none_or(|at| at.unready_since.is_some() || at.blind_since.is_some())
        };
        let on_trial = self
            .next
            .canary
            .as_ref()
            .filter(|_| self.next.stable.is_some());
        if !on_trial.is_some_and(waits) {
            self.next.attended = None;
            return;
        }
        let since = self.snapshot.attentive_since;
        let is_recent = |noted: &Attended| {
            noted.since == since && self.now.duration_since(noted.until) < signed(NOTED_EVERY)
        };
        if !self.next.attended.as_ref().is_some_and(is_recent) {
            self.next.attended = Some(Attended {
                since,
                until: self.now,
            });
        }
    }

    /// While a rollout is under way, or its old version still has its pods, no version has fewer
    /// than it had: at 100 % an autoscaler sees an idle stable version, which must be able to take
    /// all traffic back.
    fn keep_replicas(&mut self) {
        let on_trial = self.next.stable.is_some() && self.next.canary.is_some();
        let replicas = self.spec.replicas;
        let floor = self
            .next
            .replicas_floor
            .map_or(replicas, |floor| floor.max(replicas));
        let is_under_way = on_trial || !self.next.retiring.is_empty();
        self.next.replicas_floor = is_under_way.then_some(floor);
    }

    /// What the cluster says of a version.
    pub(super) fn health(&self, revision: &Revision) -> VersionHealth {
        self.snapshot.health(revision)
    }

    /// How long something has lasted under our eyes.
    pub(super) fn witnessed(&self, since: Timestamp) -> SignedDuration {
        self.snapshot.witnessed(since, self.now)
    }

    /// Why stable could not take all traffic back right now. While there is a reason, no weight is raised.
    pub(super) fn no_way_back(&self, stable: &VersionRef) -> Option<String> {
        let health = self.health(&stable.revision);
        let pods = health.sentence(&stable.version, self.spec.replicas);
        (!health.has_capacity(self.spec.pods_needed())).then(|| {
            format!("{pods} It must be able to take all traffic back before another gets more.")
        })
    }

    /// Whether the spec's version was rolled back under the token that is in force.
    pub(super) fn refusal(&self, revision: &Revision) -> Option<&RefusedVersion> {
        self.next.refused.iter().find(|refused| {
            refused.revision == *revision && refused.retry_token == self.spec.rollout.retry_token
        })
    }

    /// A version is on trial from now on, without weight.
    pub(super) fn begin(&mut self, version: VersionRef, phase: Phase) {
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
        self.refuse(stable, canary, reasons::ROLLED_BACK, verdict, reason);
    }

    /// The same, said of whoever ended the trial: `action` tells who it was.
    pub(super) fn refuse(
        &mut self,
        stable: &VersionRef,
        canary: &CanaryVersion,
        action: &str,
        verdict: Option<Verdict>,
        reason: &str,
    ) {
        let token = self.spec.rollout.retry_token.clone();
        self.next.postponed = None;
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
        let excess = self.next.refused.len().saturating_sub(REFUSED_KEPT);
        self.next.refused.drain(..excess);
        let sentence = format!(
            "{reason} All traffic is back on version {}.",
            stable.version
        );
        self.withdraw(canary, action, verdict, sentence);
    }

    /// All traffic back on stable through no fault of the version: it is tried again, each time
    /// after a longer pause.
    pub(super) fn postpone(&mut self, stable: &VersionRef, canary: &CanaryVersion, reason: &str) {
        let before = self.next.postponed.take();
        let attempts = before.map_or(0, |before| before.attempts).saturating_add(1);
        let pause = FIRST_RETRY * (1 << (attempts - 1).min(10));
        let retry_at = self.now + pause.min(LONGEST_RETRY);
        self.next.postponed = Some(PostponedVersion {
            revision: canary.revision.clone(),
            version: canary.version.clone(),
            attempts,
            retry_at,
            reason: reason.to_owned(),
            retry_token: self.spec.rollout.retry_token.clone(),
        });
        let sentence = format!(
            "{reason} All traffic is on version {}. Nothing is held against version {}: it is \
             tried again at {}.",
            stable.version,
            canary.version,
            retry_at.strftime("%F %H:%M:%SZ"),
        );
        self.withdraw(canary, reasons::PLATFORM_TROUBLE, None, sentence);
    }

    /// How long the spec's version still waits to be tried again. A pause that is longer than any
    /// was begun by a clock that was ahead: it is over.
    pub(super) fn pause_of(&self, postponed: &PostponedVersion) -> Option<SignedDuration> {
        let left = postponed.retry_at.duration_since(self.now);
        (left.is_positive() && left <= LONGEST_RETRY).then_some(left)
    }

    /// Takes the canary's weight away; its pods stay for the scale-down delay, to answer what they already have.
    pub(super) fn withdraw(
        &mut self,
        canary: &CanaryVersion,
        action: &str,
        verdict: Option<Verdict>,
        sentence: String,
    ) {
        self.record(action, 0, verdict, sentence);
        self.retire_version(canary.revision.clone());
        self.end_trial(&canary.revision, Phase::RollingBack);
    }

    /// The canary is the stable version from now on; the old one stays warm for the scale-down delay.
    pub(super) fn promote(
        &mut self,
        old: &VersionRef,
        canary: &CanaryVersion,
        verdict: Option<Verdict>,
        sentence: String,
    ) {
        self.record(reasons::PROMOTED, 100, verdict, sentence);
        self.next.postponed = None;
        self.retire_version(old.revision.clone());
        self.next.stable = Some(canary.version_ref());
        self.end_trial(&canary.revision, Phase::Promoting);
    }

    /// However a trial ends, what was said about it is spent: it is no word on the next one.
    fn end_trial(&mut self, revision: &Revision, phase: Phase) {
        for command in self.commands.asked.clone() {
            if command.revision() == revision {
                self.spend(&command);
            }
        }
        self.next.canary = None;
        self.next.phase = phase;
    }

    /// What a person said has had its effect, and means nothing from now on.
    pub(super) fn spend(&mut self, command: &Command) {
        let spent = command.to_string();
        if !self.next.spent.contains(&spent) {
            self.next.spent.push(spent);
        }
    }

    pub(super) fn retire_version(&mut self, revision: Revision) {
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
            .unwrap_or_else(|| self.snapshot.desired.version.clone());
        self.record_for(&version, action, weight, verdict, sentence);
    }

    /// The same for a decision to wait, which stays the same at every look: it is told once, and then only kept up to
    /// date in the message.
    pub(super) fn record_waiting(
        &mut self,
        action: &str,
        weight: u8,
        verdict: Verdict,
        sentence: String,
    ) {
        let told = self.next.last_move();
        if told.is_some_and(|last| last.action == action && last.weight == weight) {
            self.next.message = sentence;
        } else {
            self.record(action, weight, Some(verdict), sentence);
        }
    }

    pub(super) fn record_for(
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
            by: self.by.clone(),
            evidence: if verdict.is_some() || self.by.is_some() {
                self.evidence.clone()
            } else {
                Vec::new() // decided on something else
            },
            next_check: None,
        };
        self.next.message = sentence;
        remember(&mut self.next.decisions, record.clone());
        self.records.push(record);
    }
}

/// The time from `now` until `then`; zero if it has passed.
pub(super) fn until(now: Timestamp, then: Timestamp) -> Duration {
    then.duration_since(now)
        .try_into()
        .unwrap_or(Duration::ZERO)
}

/// A duration that can be added to a timestamp.
pub(super) fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
