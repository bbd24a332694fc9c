//! The transitions of the state machine: how a trial begins and ends, and how its weight changes.
//! A move back to stable waits for nothing.

use jiff::{SignedDuration, Timestamp};

use super::context::{DecisionContext, signed, until};
use crate::{
    api::{
        CanaryVersion, Duration, Phase, PostponedVersion, Progress, RefusedVersion,
        RetiringVersion, Revision, Verdict, VersionRef, commands::Command, conditions::reasons,
    },
    sentences::{self, Statement, Withdrawal},
};

/// Refused versions kept in status.
const REFUSED_KEPT: usize = 20;

/// Pause before a version is tried again whose trial the platform ended; each further trial doubles
/// it.
const FIRST_RETRY: SignedDuration = SignedDuration::from_mins(1);
/// The longest of these pauses.
const LONGEST_RETRY: SignedDuration = SignedDuration::from_hours(1);

impl DecisionContext<'_> {
    /// Takes the version in force from the history where the state was lost: it has all traffic, as
    /// it had before the trial that was lost with it. Other versions keep their pods for a while,
    /// since routers may still send to them.
    pub(super) fn restore(&mut self) {
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
            self.retire_version(revision, self.spec.scale_down_delay(), None);
        }
        self.next.phase = match &self.next.canary {
            Some(canary) if canary.progress.is_some() => Phase::Canary,
            Some(_) => Phase::Preparing,
            None => Phase::RollingBack,
        };
        let said = Statement::Restored {
            version: self.name(&in_force.revision, &in_force.version),
        };
        // The rollout that was lost may have asked for more pods than the spec does now.
        self.next.replicas_floor = Some(self.health(&in_force.revision).desired);
        self.next.stable = Some(in_force);
        self.next.listener_port = self.next.listener_port.or(self.snapshot.free_port);
        self.record(reasons::RESTORED, 0, None, [said]);
    }

    /// Forgets versions whose pods may go now.
    pub(super) fn retire(&mut self) {
        let mut retiring = std::mem::take(&mut self.next.retiring);
        retiring.retain(|version| self.retires_at(version) > self.now);
        self.next.retiring = retiring;
        if self.next.retiring.is_empty()
            && matches!(self.next.phase, Phase::Promoting | Phase::RollingBack)
        {
            self.next.phase = Phase::Stable;
        }
    }

    /// The time until the next version's pods may go.
    pub(super) fn next_retirement(&self) -> Option<std::time::Duration> {
        let retiring = self.next.retiring.iter();
        let next = retiring.map(|version| self.retires_at(version)).min()?;
        Some(until(self.now, next))
    }

    /// When a version's pods may go: not before every router can know that it has no weight.
    fn retires_at(&self, version: &RetiringVersion) -> Timestamp {
        let routers_know = self.snapshot.here_since + self.snapshot.router.settle;
        version.scale_down_at.max(routers_know)
    }

    /// Keeps a version's pods for so long, to answer the requests that they have.
    /// `stable_until` is when it was stable for the last time, where it was until now.
    pub(super) fn retire_version(
        &mut self,
        revision: Revision,
        delay: Duration,
        stable_until: Option<Timestamp>,
    ) {
        let scale_down_at = self.now + signed(delay.into());
        self.next.retiring.push(RetiringVersion {
            revision,
            scale_down_at,
            stable_until,
        });
    }

    /// Records a change of `spec.rollout.paused`.
    pub(super) fn note_pause(&mut self) {
        let paused = self.spec.rollout.paused;
        if paused == self.next.paused {
            return;
        }
        self.next.paused = paused;
        let weight = self.next.canary.as_ref().map_or(0, |canary| canary.weight);
        if paused {
            self.record(reasons::PAUSED, weight, None, [Statement::Paused]);
        } else {
            self.record(reasons::RESUMED, weight, None, [Statement::Resumed]);
        }
    }

    /// Puts a version on trial, without weight.
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
            rollback: false,
            progress: None,
        });
    }

    /// Moves all traffic back to stable, and refuses the version from now on.
    pub(super) fn roll_back(
        &mut self,
        stable: &VersionRef,
        canary: &CanaryVersion,
        verdict: Option<Verdict>,
        why: Vec<Statement>,
    ) {
        self.refuse(stable, canary, reasons::ROLLED_BACK, verdict, why);
    }

    /// The same with another action: who ended the trial.
    pub(super) fn refuse(
        &mut self,
        stable: &VersionRef,
        canary: &CanaryVersion,
        action: &str,
        verdict: Option<Verdict>,
        mut why: Vec<Statement>,
    ) {
        self.next.postponed = None;
        self.next
            .refused
            .retain(|refused| refused.revision != canary.revision);
        self.next.refused.push(RefusedVersion {
            revision: canary.revision.clone(),
            version: canary.version.clone(),
            at: self.now,
            reason: sentences::text(&why),
            retry_token: self.spec.rollout.retry_token.clone(),
        });
        let excess = self.next.refused.len().saturating_sub(REFUSED_KEPT);
        self.next.refused.drain(..excess);
        why.push(Statement::AllTrafficBack {
            version: self.name(&stable.revision, &stable.version),
        });
        self.end_without_weight(canary, action, verdict, why);
    }

    /// Moves all traffic back to stable through no fault of the version: it is tried again, each
    /// time after a longer pause.
    pub(super) fn postpone(&mut self, stable: &VersionRef, canary: &CanaryVersion, why: Statement) {
        let before = self.next.postponed.take();
        let attempts = before.map_or(0, |before| before.attempts).saturating_add(1);
        let pause = FIRST_RETRY * (1 << (attempts - 1).min(10));
        let retry_at = self.now + pause.min(LONGEST_RETRY);
        self.next.postponed = Some(PostponedVersion {
            revision: canary.revision.clone(),
            version: canary.version.clone(),
            attempts,
            retry_at,
            reason: why.to_string(),
            retry_token: self.spec.rollout.retry_token.clone(),
        });
        let postponed = Statement::Postponed {
            stable: self.name(&stable.revision, &stable.version),
            version: self.name(&canary.revision, &canary.version),
            retry_at,
        };
        let said = vec![why, postponed];
        self.end_without_weight(canary, reasons::PLATFORM_TROUBLE, None, said);
    }

    /// How long the spec's version still waits to be tried again. A pause that is longer than any
    /// was begun by a clock that was ahead: it is over.
    pub(super) fn retry_pause(&self, postponed: &PostponedVersion) -> Option<SignedDuration> {
        let left = postponed.retry_at.duration_since(self.now);
        (left.is_positive() && left <= LONGEST_RETRY).then_some(left)
    }

    /// Moves all traffic back to stable since the spec asks for something else.
    pub(super) fn withdraw(
        &mut self,
        stable: &VersionRef,
        canary: &CanaryVersion,
        why: Withdrawal,
    ) {
        let said = Statement::Withdrawn {
            why,
            canary: self.name(&canary.revision, &canary.version),
            stable: self.name(&stable.revision, &stable.version),
        };
        self.end_without_weight(canary, reasons::SUPERSEDED, None, vec![said]);
    }

    fn end_without_weight(
        &mut self,
        canary: &CanaryVersion,
        action: &str,
        verdict: Option<Verdict>,
        said: Vec<Statement>,
    ) {
        self.record(action, 0, verdict, said);
        self.retire_version(canary.revision.clone(), self.spec.longest_request(), None);
        self.end_trial(&canary.revision, Phase::RollingBack);
    }

    /// The canary is the stable version from now on, however (`action`) it came to be; the old one
    /// stays warm for the scale-down delay.
    pub(super) fn promote(
        &mut self,
        old: &VersionRef,
        canary: &CanaryVersion,
        action: &str,
        verdict: Option<Verdict>,
        said: Vec<Statement>,
    ) {
        self.record(action, 100, verdict, said);
        self.next.postponed = None;
        self.next
            .refused
            .retain(|refused| refused.revision != canary.revision);
        let (delay, until) = (self.spec.scale_down_delay(), Some(self.now));
        self.retire_version(old.revision.clone(), delay, until);
        self.next.stable = Some(canary.version_ref());
        self.end_trial(&canary.revision, Phase::Promoting);
    }

    /// However a trial ends, the commands for it are spent: they do not apply to the next one.
    fn end_trial(&mut self, revision: &Revision, phase: Phase) {
        for command in self.commands.asked.clone() {
            if command.revision() == revision {
                self.spend(&command);
            }
        }
        self.next.canary = None;
        self.next.phase = phase;
    }

    /// A command has had its effect, and means nothing from now on.
    pub(super) fn spend(&mut self, command: &Command) {
        let spent = command.to_string();
        if !self.next.handled_commands.contains(&spent) {
            self.next.handled_commands.push(spent);
        }
    }

    /// Takes the weight of a canary away whose weight is below every declared step.
    pub(super) fn start_over(&mut self, mut canary: CanaryVersion) {
        let said = Statement::StartsOver {
            weight: canary.weight,
            version: self.name(&canary.revision, &canary.version),
        };
        canary.weight = 0;
        self.next.phase = Phase::Preparing;
        self.next.canary = Some(canary);
        self.record(reasons::STEPS_CHANGED, 0, None, [said]);
    }

    /// Begins a step, or begins it again: its clock and its counts.
    pub(super) fn begin_step(&mut self, progress: &mut Progress, weight: u8) {
        for gate in &mut self.gates {
            gate.evidence.begin_step(weight);
        }
        progress.step_since = self.now;
        progress.metrics_outage_ms = 0;
        progress.metrics_outage_since = None;
        progress.paused_since = None;
        progress.approved = None;
    }
}
