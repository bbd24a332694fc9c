//! What a gate remembers between scrapes, and how it judges.

use super::bound::BadShareBound;
use super::e_values::{
    GUARD_SHARE, LOOK_CAP, RELATIVE_ALTERNATIVES, SLO_ALTERNATIVES, WARM_UP_GUARD_SHARE, evidence,
    log_ratios_to_past, log_relative_ratios, log_slo_ratios, look_cap, settle,
};
use super::judgement::Judgement;
use super::ledger::{Allowed, Weighed};
use super::policy::{GatePolicy, GateVerdict, SUSPECT};
use crate::evidence::{GateState, Ledger, Observation};

impl Default for GateState {
    fn default() -> Self {
        Self::new()
    }
}

impl GateState {
    /// The memory of a rollout that has not begun. A new rollout, and one that is tried again,
    /// start with it.
    pub fn new() -> Self {
        Self {
            ledger: Ledger::new(),
            slo: [0.0; SLO_ALTERNATIVES.len()],
            relative: [0.0; RELATIVE_ALTERNATIVES.len()],
            warm_up: None,
        }
    }

    /// Requests since the step began.
    pub fn step(&self) -> &Observation {
        &self.ledger.step
    }

    /// Requests since the rollout began.
    pub fn rollout(&self) -> &Observation {
        &self.ledger.rollout
    }

    /// Begins a step with `weight` percent of the traffic on the canary. Evidence carries over; a
    /// failure does not, since continuing after one overrules it.
    pub fn begin_step(&mut self, weight: u8) {
        self.ledger.begin_step(weight);
        self.warm_up = None;
    }

    /// Whether no look has been taken in yet, other than those of the warm-up.
    pub fn is_new(&self) -> bool {
        self.ledger.looks == 0
    }

    /// Whether all that has been taken in so far is the warm-up.
    pub fn warms_up(&self) -> bool {
        self.is_new() && self.warm_up.is_some()
    }

    /// Takes in what one scrape brought while the canary is still warming up: caches fill, code is
    /// compiled, and its first answers take longer than any after them.
    ///
    /// They are kept and weighed as one look, the first one, however many they are: one look can't
    /// fail a version, what it says fades with the good looks that follow, and one more bad look
    /// confirms it. For the bound they don't count. The hard guard needs 90 % of bad ones instead
    /// of 50.
    pub fn warm_up(&mut self, look: &Observation, policy: &GatePolicy) {
        let look = look.consistent();
        self.ledger.guard(&look, policy.p0(), WARM_UP_GUARD_SHARE);
        self.warm_up.get_or_insert_default().add(&look);
    }

    /// Takes in what one scrape brought. A look without any requests changes nothing.
    pub fn observe(&mut self, look: &Observation, policy: &GatePolicy) {
        let look = look.consistent();
        if look.requests() == 0 {
            return;
        }
        if let Some(early) = self.warm_up.take().filter(|early| early.requests() > 0) {
            self.weigh(&early, policy, LOOK_CAP);
        }
        self.ledger.guard(&look, policy.p0(), GUARD_SHARE);
        let cap = look_cap(policy, look.canary, policy.p0());
        self.weigh(&look, policy, cap);
        self.ledger.count(&look);
    }

    /// Settles the bets on one look, which multiplies no stake on a bad share by more than `cap`.
    fn weigh(&mut self, look: &Observation, policy: &GatePolicy, cap: f64) {
        let p0 = policy.p0();
        let stake = self.ledger.stake(policy);
        let relative = if self.ledger.runs_alone() {
            log_ratios_to_past(look.canary, self.ledger.rollout.stable, p0)
        } else {
            log_relative_ratios(look, self.ledger.canary_share(look))
        };
        settle(&mut self.slo, stake, &log_slo_ratios(look.canary, p0), cap);
        settle(&mut self.relative, stake, &relative, LOOK_CAP);
        self.ledger.settled(self.e_slo().min(self.e_rel()));
    }

    /// What the evidence so far says. `next_weight` is the weight, in percent, that the canary
    /// would get on Pass; `None` if it would be promoted, which needs the same as a weight of 100.
    ///
    /// The upper bound counts the whole rollout's requests: at 0.2 requests a second that saves a
    /// quarter of the hours. So that a good past does not hide a canary which gets worse with its
    /// weight, the bad share of the step alone must fit the next weight, too.
    ///
    /// To be called after each look (or several looks that arrived together): a crossing is kept
    /// until the next step begins.
    pub fn judge(&self, policy: &GatePolicy, next_weight: Option<u8>) -> Judgement {
        let bound = BadShareBound::new(policy);
        let allowed = allowed(policy, next_weight);
        let upper_bound = bound.upper_bound(self.ledger.rollout.canary);
        let weighed = Weighed {
            evidence: (self.e_slo(), self.e_rel()),
            suspect: self.is_suspect(),
            bound,
            upper_bound: (upper_bound, allowed.in_rollout),
            allowed,
        };
        self.ledger.judgement(policy, next_weight, weighed)
    }

    /// The verdict of [`judge`](Self::judge) alone, at a tenth of its cost: no number has to be
    /// searched for.
    pub fn verdict(&self, policy: &GatePolicy, next_weight: Option<u8>) -> GateVerdict {
        let bound = BadShareBound::new(policy);
        let allowed = allowed(policy, next_weight);
        self.ledger
            .verdict(policy, self.is_suspect(), bound, allowed)
    }

    /// Whether the canary may not advance, though it need not fail: `E_slo` ≥ [`SUSPECT`].
    pub fn is_suspect(&self) -> bool {
        self.e_slo() >= SUSPECT
    }

    /// Whether the verdict is Fail.
    #[cfg(test)]
    pub(super) fn fails(&self, policy: &GatePolicy) -> bool {
        self.ledger.fails(policy)
    }

    fn e_slo(&self) -> f64 {
        evidence(&self.slo, &SLO_ALTERNATIVES, self.ledger.staked)
    }

    fn e_rel(&self) -> f64 {
        evidence(&self.relative, &RELATIVE_ALTERNATIVES, self.ledger.staked)
    }
}

/// The bad share that lets the canary get a weight, in the rollout as in the step.
fn allowed(policy: &GatePolicy, next_weight: Option<u8>) -> Allowed {
    let share = policy.share_allowed_at(next_weight.unwrap_or(100));
    Allowed {
        in_rollout: share,
        in_step: share,
    }
}
