//! A new version's pods are starting; it has no weight.

use std::time::Duration;

use super::super::{
    context::{DecisionContext, STARTING_INTERVAL, signed},
    first_step::first_step,
    memory::begun,
    pods::{Fault, PodsOnTrial, unconfirmed},
};
use crate::{
    api::{CanaryVersion, GateRecord, Phase, Progress, Verdict, VersionRef, conditions::reasons},
    evidence::BlindReason,
    sentences::Statement,
};

impl DecisionContext<'_> {
    /// Waits for the new version's pods, and gives it the first step's weight once they can carry
    /// it.
    pub(in crate::rollout) fn preparing(&mut self) -> Option<Duration> {
        let (stable, canary) = (self.next.stable.clone()?, self.next.canary.clone()?);
        if self.ends_trial(&stable, &canary) {
            return Some(Duration::ZERO);
        }
        let fault = PodsOnTrial::of(self.spec, self.snapshot, &canary, self.now).before_weight();
        let health = self.health(&canary.revision);
        match (fault, &health.unconfirmed) {
            (Some(fault), Some(why)) => {
                self.say(unconfirmed(fault, why));
                return Some(STARTING_INTERVAL);
            }
            (Some(Fault::Version(reason)), None) => {
                self.roll_back(&stable, &canary, None, vec![reason]);
                return Some(Duration::ZERO);
            }
            (Some(Fault::Platform(reason)), None) => {
                self.postpone(&stable, &canary, reason);
                return Some(Duration::ZERO);
            }
            (None, _) => {}
        }
        if health.has_capacity(self.spec.pods_needed()) {
            self.start_if_possible(&stable, canary)
        } else {
            Some(self.await_pods(&canary))
        }
    }

    /// Gives a version whose pods are Ready its first weight, unless something is in the way.
    fn start_if_possible(
        &mut self,
        stable: &VersionRef,
        canary: CanaryVersion,
    ) -> Option<Duration> {
        if self.promote_full(stable, &canary) {
            return Some(Duration::ZERO);
        }
        if canary.rollback {
            self.go_back(stable, &canary);
            return Some(STARTING_INTERVAL);
        }
        let version = self.name(&canary.revision, &canary.version);
        if self.spec.rollout.paused {
            self.say([Statement::PausedBeforeWeight { version }]);
            return None;
        }
        if let Some(unwritten) = self.unwritten() {
            self.say([Statement::IsReady { version }, unwritten]);
            return Some(STARTING_INTERVAL);
        }
        if let Some([pods, no_way_back]) = self.no_way_back(stable) {
            self.say([Statement::IsReady { version }, pods, no_way_back]);
            return Some(STARTING_INTERVAL);
        }
        let lasting = self.unmeasurable(BlindReason::lasts);
        if !lasting.is_empty() {
            let mut said = vec![Statement::NotMeasurable { version }];
            said.extend(lasting);
            self.record_waiting(reasons::NOT_MEASURABLE, 0, Verdict::NoMetrics, said);
            return Some(STARTING_INTERVAL);
        }
        self.start(canary);
        Some(self.interval)
    }

    /// Gives a version all traffic that was promoted before. It waits for nothing but its pods and
    /// objects: a person asked for it, and what stable answers may be the reason.
    fn go_back(&mut self, stable: &VersionRef, canary: &CanaryVersion) {
        let version = self.name(&canary.revision, &canary.version);
        if let Some(unwritten) = self.unwritten() {
            self.say([Statement::IsReady { version }, unwritten]);
            return;
        }
        let said = Statement::WentBack {
            version,
            stable: self.name(&stable.revision, &stable.version),
            delay: self.spec.scale_down_delay(),
        };
        self.promote(stable, canary, reasons::FAST_ROLLBACK, None, vec![said]);
    }

    /// Says what the pods of a version wait for. Returns when they are looked at again.
    fn await_pods(&mut self, canary: &CanaryVersion) -> Duration {
        let pods = self.pods(&canary.version_ref());
        self.say([pods]);
        let unmeasurable = self.unmeasurable(|_| true);
        if !unmeasurable.is_empty() {
            self.add(Statement::NotMeasuredYet);
            for reason in unmeasurable {
                self.add(reason);
            }
        }
        let deadline = signed(self.spec.rollout.progress_deadline.into());
        let left = deadline - self.witnessed(canary.since);
        let soon = left.is_positive().then(|| left.unsigned_abs());
        soon.map_or(STARTING_INTERVAL, |left| left.min(STARTING_INTERVAL))
    }

    /// Why objectives cannot be measured as things are, of those reasons that are meant; the status
    /// keeps them.
    fn unmeasurable(&mut self, is_meant: impl Fn(&BlindReason) -> bool) -> Vec<Statement> {
        let found = self.snapshot.unmeasurable.iter();
        self.next.unmeasured = found
            .filter(|it| is_meant(&it.reason))
            .map(|it| self.unmeasured(&it.objective, &it.reason))
            .collect();
        let unmeasured = self.next.unmeasured.iter().cloned();
        unmeasured.map(Statement::Unmeasured).collect()
    }

    /// Gives the canary its first weight.
    fn start(&mut self, mut canary: CanaryVersion) {
        let rate = self.snapshot.stable_rate.as_ref();
        let (index, why) = first_step(self.spec, rate);
        let Some(first) = self.spec.rollout.steps.get(index) else {
            return;
        };
        let mut progress = Progress {
            step: u32::try_from(index).unwrap_or(u32::MAX),
            step_since: self.now,
            metrics_outage_ms: 0,
            metrics_outage_since: None,
            paused_since: None,
            approved: None,
            unready_since: None,
            gates: Vec::new(),
        };
        let gates = self.spec.gates();
        self.gates = gates.iter().map(|gate| begun(gate, self.now)).collect();
        progress.gates = gates.iter().map(GateRecord::of).collect();
        self.begin_step(&mut progress, first.weight);
        let mut said = vec![Statement::FirstWeight {
            version: self.name(&canary.revision, &canary.version),
            weight: first.weight,
            why,
        }];
        canary.progress = Some(progress);
        canary.weight = first.weight;
        self.next.canary = Some(canary);
        self.next.phase = Phase::Canary;
        let unmeasurable = self.unmeasurable(|reason| !reason.is_outage());
        if !unmeasurable.is_empty() {
            said.push(Statement::NotAllMeasuredYet);
            said.extend(unmeasurable);
        }
        self.record(reasons::CANARY_STARTED, first.weight, None, said);
    }
}
