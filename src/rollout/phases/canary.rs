//! A new version has the weight of its step: one evaluation of its evidence a look, and one move at
//! most.

use std::time::Duration;

use super::super::{
    analysis::{Analysis, outage, time_in_step},
    context::{DecisionContext, signed},
    pods::{Fault, PodsVerdict},
};
use crate::{
    api::{CanaryVersion, OnDeadline, OnFailure, Step, Verdict, VersionRef, conditions::reasons},
    sentences::{Distrust, HoldPolicy, SkipObjection, Statement},
};

impl DecisionContext<'_> {
    /// Evaluates the evidence, and makes the move that it asks for.
    pub(in crate::rollout) fn canary(&mut self) -> Option<Duration> {
        let (stable, mut canary) = (self.next.stable.clone()?, self.next.canary.clone()?);
        if self.ends_trial(&stable, &canary) {
            return Some(Duration::ZERO);
        }
        let mut progress = canary.progress.take()?;
        if !self.realign(&mut canary, &mut progress) {
            self.start_over(canary);
            return Some(Duration::ZERO);
        }
        let next = self.next_step(progress.step as usize);
        let analysis = self.evaluate(&mut progress, next.as_ref());
        let (cannot_serve, trouble, away) = match self.judge_pods(&canary, &mut progress) {
            PodsVerdict::Serve => (None, None, None),
            PodsVerdict::End(Fault::Version(reason)) => (Some(reason), None, None),
            PodsVerdict::End(Fault::Platform(reason)) => (None, Some(reason), None),
            PodsVerdict::Away(reason) => (None, None, Some(reason)),
        };
        let blind = analysis.blind.clone();
        let blind = blind.or_else(|| self.share_is_off(&canary, &progress));
        canary.progress = Some(progress);
        self.next.canary = Some(canary.clone());

        // In order of precedence: facts, a person's command, the evidence, and last what is
        // missing.
        if let Some(reason) = cannot_serve.or_else(|| analysis.hard_failure.clone()) {
            self.roll_back(&stable, &canary, Some(Verdict::Fail), vec![reason]);
            return Some(Duration::ZERO);
        }
        if self.promote_full(&stable, &canary) {
            return Some(Duration::ZERO);
        }
        if let Some(reason) = analysis.fail {
            self.fail(&stable, &canary, reason);
        } else if let Some(reason) = trouble {
            self.postpone(&stable, &canary, reason);
        } else if let Some(reason) = away {
            // Without pods there are no metrics of it either: that is no outage.
            self.hold_without_pods(&canary, reason);
        } else if let Some(reason) = blind {
            self.hold_blind(&stable, canary, reason);
        } else if let Some(reason) = analysis.held {
            self.metrics_recovered(&mut canary);
            self.hold_for_person(&canary, reason, HoldPolicy::Objective);
        } else {
            self.metrics_recovered(&mut canary);
            self.accept_approval(&mut canary);
            self.advance(&stable, canary, next.as_ref(), &analysis);
        }
        self.mention_missing_pods();
        let is_over = self.next.canary.is_none();
        Some(if is_over {
            Duration::ZERO
        } else {
            self.interval
        })
    }

    fn next_step(&self, step: usize) -> Option<Step> {
        self.spec.rollout.steps.get(step + 1).cloned()
    }

    /// The evidence fails: all traffic back, or the weight held for a person to decide, as the spec
    /// has it.
    fn fail(&mut self, stable: &VersionRef, canary: &CanaryVersion, why: Statement) {
        match self.spec.rollout.on_failure {
            OnFailure::Rollback => {
                self.roll_back(stable, canary, Some(Verdict::Fail), vec![why]);
            }
            OnFailure::Hold => self.hold_for_person(canary, why, HoldPolicy::Rollout),
        }
    }

    /// The evidence fails, and a person decides what follows.
    fn hold_for_person(&mut self, canary: &CanaryVersion, why: Statement, policy: HoldPolicy) {
        let weight = canary.weight;
        let said = [why, Statement::HeldForPerson { weight, policy }];
        self.record_waiting(reasons::FAILURE_HELD, weight, Verdict::Fail, said);
        self.refuse_skip(canary, SkipObjection::Fails);
    }

    /// Holds the weight of a canary none of whose pods serves.
    fn hold_without_pods(&mut self, canary: &CanaryVersion, why: Vec<Statement>) {
        let weight = canary.weight;
        self.say([Statement::Holding { weight }]);
        for statement in why {
            self.add(statement);
        }
        self.refuse_skip(canary, SkipObjection::NoPods);
    }

    /// Nothing moves while the metrics cannot be trusted; after the hold, what the policy says.
    fn hold_blind(&mut self, stable: &VersionRef, mut canary: CanaryVersion, why: Distrust) {
        let policy = &self.spec.rollout.on_metrics_outage;
        let Some(progress) = canary.progress.as_mut() else {
            return;
        };
        let is_first = progress.metrics_outage_since.is_none();
        let since = *progress.metrics_outage_since.get_or_insert(self.now);
        self.next.canary = Some(canary.clone());
        let is_over = self.witnessed(since) >= signed(policy.hold.into());
        if is_over && policy.then == OnDeadline::Rollback {
            let hold = policy.hold;
            let said = vec![Statement::BlindTooLong { hold, why }];
            self.roll_back(stable, &canary, Some(Verdict::NoMetrics), said);
            return;
        }
        if let Distrust::Unmeasured(unmeasured) = &why {
            self.next.unmeasured.push(unmeasured.clone());
        }
        let weight = canary.weight;
        let said = [Statement::HeldBlind { weight, why }];
        if is_first {
            self.record(
                reasons::METRICS_OUTAGE,
                weight,
                Some(Verdict::NoMetrics),
                said,
            );
        } else {
            self.say(said);
        }
        self.refuse_skip(&canary, SkipObjection::Blind);
    }

    /// Ends an outage of the metrics, if there was one; its time does not count as time in the
    /// step.
    fn metrics_recovered(&mut self, canary: &mut CanaryVersion) {
        let Some(progress) = canary.progress.as_mut() else {
            return;
        };
        let Some(since) = progress.metrics_outage_since.take() else {
            return;
        };
        let gap = outage(progress, since, self.now);
        progress.metrics_outage_ms = progress
            .metrics_outage_ms
            .saturating_add(i64::try_from(gap.as_millis()).unwrap_or(i64::MAX));
        self.next.canary = Some(canary.clone());
        let seconds = gap.as_secs();
        let said = [Statement::MetricsBack { seconds }];
        self.record(reasons::METRICS_BACK, canary.weight, None, said);
    }

    /// The metrics can be trusted and the version does not fail: on to the next step, if all that
    /// it takes is there.
    fn advance(
        &mut self,
        stable: &VersionRef,
        canary: CanaryVersion,
        next: Option<&Step>,
        analysis: &Analysis,
    ) {
        let rollout = &self.spec.rollout;
        let Some(progress) = &canary.progress else {
            return;
        };
        let lasted = time_in_step(progress, self.now);
        let least = signed(rollout.least_time(progress.step as usize));
        let patience = signed(rollout.on_insufficient_data.after.into());
        let weight = canary.weight;
        let said = analysis.said.clone();
        self.say(said.clone());
        if rollout.paused {
            self.say(after(Statement::PausedAt { weight }, said));
            self.refuse_skip(&canary, SkipObjection::Paused);
        } else if self.skips(&canary) && !analysis.suspect {
            self.by.clone_from(&self.commands.by);
            let by = self.by.clone();
            let said = after(Statement::Skipped { by, weight }, said);
            self.leave(stable, canary, next, None, said);
        } else if analysis.pass && lasted >= least {
            self.leave_once_approved(stable, canary, next, Verdict::Pass, said);
        } else if analysis.pass {
            let until = self.now + (least - lasted);
            self.add(Statement::StepLasts { until });
        } else if lasted >= patience {
            let is_acceptable = lasted >= least && !analysis.suspect;
            self.give_up_waiting(stable, canary, next, said, is_acceptable);
        }
        if analysis.suspect
            && let Some(canary) = self.next.canary.clone()
        {
            self.refuse_skip(&canary, SkipObjection::Suspect);
        }
    }

    /// The step has had its time and proves nothing. `is_acceptable` is whether the policy may let
    /// it pass all the same.
    fn give_up_waiting(
        &mut self,
        stable: &VersionRef,
        canary: CanaryVersion,
        next: Option<&Step>,
        said: Vec<Statement>,
        is_acceptable: bool,
    ) {
        let policy = &self.spec.rollout.on_insufficient_data;
        let verdict = Verdict::NeedMoreData;
        let no_proof = Statement::NoProof {
            after: policy.after,
        };
        let said = after(no_proof, said);
        match policy.then {
            OnDeadline::Rollback => self.roll_back(stable, &canary, Some(verdict), said),
            OnDeadline::Advance if is_acceptable => {
                self.leave_once_approved(stable, canary, next, verdict, said);
            }
            OnDeadline::AwaitApproval if is_acceptable => {
                self.leave_once_approved_without_proof(stable, canary, next, said);
            }
            OnDeadline::Advance | OnDeadline::AwaitApproval | OnDeadline::Hold => {
                let action = reasons::INSUFFICIENT_DATA;
                self.record_waiting(action, canary.weight, verdict, said);
            }
        }
    }

    /// Leaves the step that proves nothing once a person has approved it since that was so. An
    /// approval from before is one of the evidence alone.
    fn leave_once_approved_without_proof(
        &mut self,
        stable: &VersionRef,
        canary: CanaryVersion,
        next: Option<&Step>,
        mut said: Vec<Statement>,
    ) {
        let verdict = Verdict::NeedMoreData;
        let approved = canary.progress.as_ref().and_then(|progress| {
            let approved = progress.approved.as_ref();
            approved.filter(|approved| self.lacks_proof(progress, approved.at))
        });
        if let Some(approved) = approved {
            self.by.clone_from(&approved.by);
            self.leave(stable, canary, next, Some(verdict), said);
        } else {
            said.push(awaits_approval(self, &canary, next));
            self.record_waiting(reasons::AWAITING_APPROVAL, canary.weight, verdict, said);
        }
    }

    /// Leaves the step, unless its pause lasts or it waits for a person first.
    fn leave_once_approved(
        &mut self,
        stable: &VersionRef,
        mut canary: CanaryVersion,
        next: Option<&Step>,
        verdict: Verdict,
        mut said: Vec<Statement>,
    ) {
        let Some(progress) = canary.progress.as_mut() else {
            return;
        };
        if let Some(approved) = &progress.approved {
            self.by.clone_from(&approved.by);
            self.leave(stable, canary, next, Some(verdict), said);
            return;
        }
        let step = progress.step as usize;
        if let Some(pause) = self.spec.rollout.pause(step) {
            // A pause that began later than now was begun by a clock that was ahead.
            let since = progress
                .paused_since
                .map_or(self.now, |at| at.min(self.now));
            progress.paused_since = Some(since);
            let until = pause
                .duration
                .map(|duration| since + signed(duration.into()));
            if until.is_none_or(|until| self.now < until) {
                said.push(Statement::StepPaused {
                    until,
                    version: self.name(&canary.revision, &canary.version),
                    revision: canary.revision.clone(),
                    weight: canary.weight,
                });
                let weight = canary.weight;
                self.next.canary = Some(canary);
                self.record_waiting(reasons::STEP_PAUSED, weight, verdict, said);
                return;
            }
        }
        if self.spec.rollout.needs_approval(step) {
            said.push(awaits_approval(self, &canary, next));
            self.record_waiting(reasons::AWAITING_APPROVAL, canary.weight, verdict, said);
        } else {
            self.leave(stable, canary, next, Some(verdict), said);
        }
    }

    /// Moves to the next step's weight, or promotes the version, as soon as the pods can carry it:
    /// the canary's to serve it, and, while weight is still to be raised, stable's to take all of
    /// it back.
    fn leave(
        &mut self,
        stable: &VersionRef,
        mut canary: CanaryVersion,
        next: Option<&Step>,
        verdict: Option<Verdict>,
        mut said: Vec<Statement>,
    ) {
        let weight = canary.weight;
        let holding = Statement::Holding { weight };
        let health = self.health(&canary.revision);
        if !health.has_capacity(self.spec.pods_needed()) {
            said.push(holding);
            self.say(said);
            return; // what its pods lack is added to the message later
        }
        if let Some(unwritten) = self.unwritten() {
            said.extend([holding, unwritten]);
            self.say(said);
            return;
        }
        let Some(next) = next else {
            let version = self.name(&canary.revision, &canary.version);
            said.push(Statement::Promoted { version });
            self.promote(stable, &canary, reasons::PROMOTED, verdict, said);
            return;
        };
        if let Some([pods, no_way_back]) = self.no_way_back(stable) {
            said.extend([holding, pods, no_way_back]);
            self.say(said);
            return;
        }
        self.spend_skip(&canary);
        let weight = next.weight;
        canary.weight = weight;
        if let Some(progress) = canary.progress.as_mut() {
            progress.step += 1;
            self.begin_step(progress, weight);
        }
        self.next.canary = Some(canary);
        said.push(Statement::MovesTo { weight });
        self.record(reasons::STEP_ADVANCED, weight, verdict, said);
    }
}

/// What the step waits for.
fn awaits_approval(
    context: &DecisionContext<'_>,
    canary: &CanaryVersion,
    next: Option<&Step>,
) -> Statement {
    Statement::AwaitsApproval {
        next: next.map(|next| next.weight),
        version: context.name(&canary.revision, &canary.version),
        revision: canary.revision.clone(),
        weight: canary.weight,
    }
}

/// Statements that follow a first one.
fn after(first: Statement, then: Vec<Statement>) -> Vec<Statement> {
    let mut all = vec![first];
    all.extend(then);
    all
}
