//! No version serves yet: the first one goes straight to 100 %. There is nothing to compare it
//! with, and nothing to fall back on.

use std::time::Duration;

use super::super::context::{DecisionContext, STARTING_INTERVAL};
use crate::{
    api::{CanaryVersion, Phase, conditions::reasons},
    sentences::Statement,
};

impl DecisionContext<'_> {
    /// Starts the first version, and gives it all traffic once a pod of it is Ready.
    pub(in crate::rollout) fn pending(&mut self) -> Option<Duration> {
        let Some(first) = self.next.canary.clone() else {
            return self.start_first();
        };
        if first.revision != self.snapshot.desired.revision {
            self.retire_version(first.revision, self.spec.longest_request(), None);
            self.next.canary = None;
            return self.start_first();
        }
        if self.health(&first.revision).has_capacity(1) {
            return self.serve_first(&first);
        }
        let health = self.health(&first.revision);
        let said = match health.failure {
            Some(failure) => Statement::FirstCannotStart {
                version: self.name(&first.revision, &first.version),
                failure,
            },
            None => self.pods(&first.version_ref()),
        };
        self.say([said]);
        Some(STARTING_INTERVAL)
    }

    fn start_first(&mut self) -> Option<Duration> {
        if self.is_denied() {
            return None;
        }
        let desired = self.snapshot.desired.clone();
        let said = Statement::FirstStarts {
            version: self.name(&desired.revision, &desired.version),
        };
        self.begin(desired, Phase::Pending);
        self.record(reasons::FIRST_VERSION, 0, None, [said]);
        Some(STARTING_INTERVAL)
    }

    fn serve_first(&mut self, first: &CanaryVersion) -> Option<Duration> {
        if let Some(unwritten) = self.unwritten() {
            let pods = self.pods(&first.version_ref());
            self.say([pods, unwritten]);
            return Some(STARTING_INTERVAL);
        }
        let health = self.health(&first.revision);
        let wanted = self.spec.replicas;
        let pods = (!health.has_capacity(wanted)).then_some((health.ready, wanted));
        self.next.stable = Some(first.version_ref());
        self.next.canary = None;
        self.next.phase = Phase::Stable;
        let said = Statement::FirstServes {
            version: self.name(&first.revision, &first.version),
            pods,
        };
        self.record(reasons::PROMOTED, 0, None, [said]);
        None
    }

    /// Says why the spec's version does not begin, where the API server would refuse its
    /// Deployment.
    pub(super) fn is_denied(&mut self) -> bool {
        let Some(refusal) = self.snapshot.desired_refused.clone() else {
            return false;
        };
        let desired = &self.snapshot.desired;
        let version = self.name(&desired.revision, &desired.version);
        self.say([Statement::Denied { version, refusal }]);
        true
    }
}
