//! Commands of people. One has its effect when it names the very trial that is under way, and from
//! then on it is spent.

use jiff::Timestamp;

use super::{
    analysis::time_in_step,
    context::{DecisionContext, signed},
};
use crate::{
    api::{
        Approved, CanaryVersion, OnDeadline, Progress, VersionRef, commands::Command,
        conditions::reasons,
    },
    sentences::{SkipObjection, Statement},
};

impl DecisionContext<'_> {
    /// Ends the trial where a person aborted it: all traffic back, version refused. Returns whether
    /// it did.
    pub(super) fn abort(&mut self, stable: &VersionRef, canary: &CanaryVersion) -> bool {
        let asked = Command::Abort(canary.revision.clone());
        if !self.commands.ask(&asked) {
            return false;
        }
        self.by.clone_from(&self.commands.by);
        let said = Statement::Aborted {
            by: self.by.clone(),
            version: self.name(&canary.revision, &canary.version),
            weight: canary.weight,
        };
        self.refuse(stable, canary, reasons::ABORTED, None, vec![said]);
        true
    }

    /// Promotes the version where a person asks for it, whatever is known of it: only its pods must
    /// be able to serve. Returns whether it did.
    pub(super) fn promote_full(&mut self, stable: &VersionRef, canary: &CanaryVersion) -> bool {
        let asked = Command::PromoteFull(canary.revision.clone());
        let health = self.health(&canary.revision);
        let is_ready = health.has_capacity(self.spec.pods_needed());
        if !self.commands.ask(&asked) || !is_ready || self.snapshot.missing().is_some() {
            return false;
        }
        self.by.clone_from(&self.commands.by);
        let said = Statement::PromotedInFull {
            by: self.by.clone(),
            version: self.name(&canary.revision, &canary.version),
            weight: canary.weight,
        };
        self.promote(stable, canary, reasons::PROMOTED, None, vec![said]);
        true
    }

    /// Whether a person wants to leave this step without its evidence.
    pub(super) fn skips(&self, canary: &CanaryVersion) -> bool {
        let skip = Command::Skip(canary.revision.clone(), canary.weight);
        self.commands.ask(&skip)
    }

    /// Says why a skip that is asked for does not happen; nothing where none is.
    pub(super) fn refuse_skip(&mut self, canary: &CanaryVersion, why: SkipObjection) {
        if self.skips(canary) {
            self.add(Statement::NotSkipped(why));
        }
    }

    /// The skip, where one was asked for, has had its effect.
    pub(super) fn spend_skip(&mut self, canary: &CanaryVersion) {
        let skip = Command::Skip(canary.revision.clone(), canary.weight);
        if self.commands.ask(&skip) {
            self.spend(&skip);
        }
    }

    /// Whether a person's approval counts in place of proof at this moment
    /// (`onInsufficientData.then: AwaitApproval`).
    pub(super) fn lacks_proof(&self, progress: &Progress, at: Timestamp) -> bool {
        let policy = &self.spec.rollout.on_insufficient_data;
        policy.then == OnDeadline::AwaitApproval
            && time_in_step(progress, at) >= signed(policy.after.into())
    }

    /// Records a person's consent to leaving this step, where the step waits for one.
    pub(super) fn accept_approval(&mut self, canary: &mut CanaryVersion) {
        let approve = Command::Approve(canary.revision.clone(), canary.weight);
        let Some(progress) = canary.progress.as_mut() else {
            return;
        };
        let without_proof = self.lacks_proof(progress, self.now);
        let needed = without_proof || self.spec.rollout.takes_approval(progress.step as usize);
        if !needed || progress.approved.is_some() || !self.commands.ask(&approve) {
            return;
        }
        let by = self.commands.by.clone();
        progress.approved = Some(Approved {
            at: self.now,
            by: by.clone(),
        });
        self.next.canary = Some(canary.clone());
        self.spend(&approve);
        self.by.clone_from(&by);
        let said = Statement::Approved {
            by,
            version: self.name(&canary.revision, &canary.version),
            weight: canary.weight,
            without_proof,
        };
        self.record(reasons::APPROVED, canary.weight, None, [said]);
    }
}
