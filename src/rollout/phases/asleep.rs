//! `spec.replicas` is 0: no version has pods, and no rollout proceeds.

use std::time::Duration;

use super::super::context::{DecisionContext, STARTING_INTERVAL};
use crate::{
    api::{Phase, conditions::reasons},
    sentences::{Statement, Withdrawal},
};

impl DecisionContext<'_> {
    /// Ends the trial that is under way and takes all traffic away. The pods stay until the
    /// requests under way are answered.
    pub(in crate::rollout) fn sleep(&mut self) {
        if self.next.phase != Phase::Asleep {
            self.fall_asleep();
        }
        let desired = &self.snapshot.desired;
        let stable = self.next.stable.as_ref();
        let waits = stable.is_none_or(|stable| stable.revision != desired.revision);
        let waiting = waits.then(|| self.name(&desired.revision, &desired.version));
        self.say([Statement::Asleep { waiting }]);
    }

    fn fall_asleep(&mut self) {
        let (stable, canary) = (self.next.stable.clone(), self.next.canary.clone());
        if let (Some(stable), Some(canary)) = (&stable, &canary) {
            self.withdraw(stable, canary, Withdrawal::Asleep);
        }
        if let Some(stable) = stable {
            // As many as there are, although `spec.replicas` is 0 already.
            let pods = self.health(&stable.revision).desired;
            self.next.replicas_floor = self.next.replicas_floor.max(Some(pods));
            self.retire_version(stable.revision, self.spec.longest_request(), None);
        }
        self.next.phase = Phase::Asleep;
        self.record(
            reasons::ASLEEP,
            0,
            None,
            [Statement::Asleep { waiting: None }],
        );
    }

    /// Brings the version back that was in force, before anything else begins. Returns when to look
    /// again while it is on its way.
    pub(in crate::rollout) fn wake(&mut self) -> Option<Duration> {
        if !self.next.phase.is_without_traffic() {
            return None;
        }
        let was_asleep = self.next.phase == Phase::Asleep;
        let Some(stable) = self.next.stable.clone() else {
            self.next.phase = Phase::Pending;
            self.record(reasons::WAKING, 0, None, [Statement::Waking]);
            return None;
        };
        if was_asleep {
            self.next
                .retiring
                .retain(|retiring| retiring.revision != stable.revision);
            self.next.phase = Phase::Waking;
            self.record(reasons::WAKING, 0, None, [Statement::Waking]);
            return Some(Duration::ZERO);
        }
        let health = self.health(&stable.revision);
        if health.has_capacity(1) || health.failure.is_some() {
            // One that cannot start must not keep the spec's version from its trial.
            self.next.phase = Phase::Stable;
            return None;
        }
        let pods = self.pods(&stable);
        self.say([Statement::Waking, pods]);
        Some(STARTING_INTERVAL)
    }
}
