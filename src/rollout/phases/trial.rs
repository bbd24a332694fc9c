//! What ends any trial before its pods and its evidence are looked at.

use super::super::context::DecisionContext;
use crate::{
    api::{CanaryVersion, VersionRef},
    sentences::Withdrawal,
};

impl DecisionContext<'_> {
    /// Ends the trial where the spec asks for another version, or a person aborted it. Returns
    /// whether it did.
    pub(super) fn ends_trial(&mut self, stable: &VersionRef, canary: &CanaryVersion) -> bool {
        let desired = &self.snapshot.desired;
        let why = if desired.revision == stable.revision {
            Withdrawal::StableAgain
        } else if desired.revision != canary.revision {
            Withdrawal::Newer(self.name(&desired.revision, &desired.version))
        } else if self.refusal(&canary.revision).is_some() {
            Withdrawal::TokenAgain
        } else {
            return self.abort(stable, canary);
        };
        self.withdraw(stable, canary, why);
        true
    }
}
