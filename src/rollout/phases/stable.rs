//! One version serves all traffic and none is on trial: Stable, Promoting or RollingBack.

use std::time::Duration;

use jiff::Timestamp;

use super::super::context::{DecisionContext, STARTING_INTERVAL};
use crate::{
    api::{DecisionRecord, Phase, RefusedVersion, Revision, VersionRef, conditions::reasons},
    sentences::{Attempt, Statement},
};

/// Decisions after which it is known that a version is refused.
const REFUSALS: [&str; 3] = [reasons::REFUSED, reasons::ROLLED_BACK, reasons::ABORTED];

impl DecisionContext<'_> {
    /// Puts the spec's version on trial, unless it is the one that serves, was refused, or waits to
    /// be tried again.
    pub(in crate::rollout) fn stable(&mut self) -> Option<Duration> {
        let stable = self.next.stable.clone()?;
        let serves = Statement::Serves {
            version: self.name(&stable.revision, &stable.version),
        };
        let desired = self.snapshot.desired.clone();
        if desired.revision == stable.revision {
            self.say([serves]);
            // Should the spec ask for the refused version again, that is a new decision.
            self.next.refusal_closed = self.last_move().is_some_and(is_refusal);
            return None;
        }
        if let Some(refused) = self.refusal(&desired.revision).cloned() {
            self.stay_refused(refused, &stable);
            return None;
        }
        if self.is_denied() {
            return None;
        }
        let postponed = self.next.postponed.clone();
        if let Some(postponed) = &postponed
            && let Some(left) = self.retry_pause(postponed)
        {
            let retried = Statement::RetriedAt {
                version: self.name(&postponed.revision, &postponed.version),
                at: postponed.retry_at,
            };
            self.say([
                Statement::Earlier(postponed.reason.clone()),
                retried,
                serves,
            ]);
            return Some(left.unsigned_abs());
        }
        if let Some(until) = self.goes_back(&desired.revision) {
            self.start_rollback(desired, &stable, until);
            return Some(STARTING_INTERVAL);
        }
        let mut refused = self.next.refused.iter();
        let attempt = match postponed {
            Some(postponed) => Attempt::AfterTrouble(postponed.attempts.saturating_add(1)),
            None if refused.any(|refused| refused.revision == desired.revision) => {
                Attempt::WithNewToken
            }
            None => Attempt::First,
        };
        let said = Statement::Starts {
            version: self.name(&desired.revision, &desired.version),
            stable: self.name(&stable.revision, &stable.version),
            pods: self.spec.pods_needed(),
            attempt,
        };
        self.begin(desired, Phase::Preparing);
        self.record(reasons::PREPARING, 0, None, [said]);
        Some(STARTING_INTERVAL)
    }

    /// Until when the spec's version was stable, where it goes straight back to all traffic.
    fn goes_back(&self, revision: &Revision) -> Option<Timestamp> {
        let before = self.snapshot.stable_before?;
        let mut refused = self.next.refused.iter();
        let was_refused = refused.any(|refused| refused.revision == *revision);
        let window = &self.spec.rollout.rollback_window;
        let takes = window.takes(before.back, before.until, self.now);
        (takes && !was_refused).then_some(before.until)
    }

    /// Starts the pods of a version that gets all traffic once they are Ready.
    fn start_rollback(&mut self, desired: VersionRef, stable: &VersionRef, until: Timestamp) {
        let said = Statement::GoesBack {
            version: self.name(&desired.revision, &desired.version),
            stable: self.name(&stable.revision, &stable.version),
            pods: self.spec.pods_needed(),
            until,
        };
        self.begin(desired, Phase::Preparing);
        if let Some(canary) = self.next.canary.as_mut() {
            canary.rollback = true;
        }
        self.record(reasons::FAST_ROLLBACK_STARTED, 0, None, [said]);
    }

    /// Says that the spec's version is refused; records it once each time that the spec asks for
    /// it.
    fn stay_refused(&mut self, refused: RefusedVersion, stable: &VersionRef) {
        let version = self.snapshot.desired.version.clone();
        let is_of_it = |last: &DecisionRecord| last.version == version && is_refusal(last);
        let is_recorded = self.last_move().is_some_and(is_of_it) && !self.next.refusal_closed;
        let said = Statement::StaysRefused {
            version: self.name(&refused.revision, &refused.version),
            refused,
            stable: self.name(&stable.revision, &stable.version),
        };
        if is_recorded {
            self.say([said]);
        } else {
            self.record_for(&version, reasons::REFUSED, 0, None, [said]);
        }
    }
}

fn is_refusal(record: &DecisionRecord) -> bool {
    REFUSALS.contains(&record.action.as_str())
}
