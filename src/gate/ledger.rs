//! What every gate of counted requests keeps: the step, the looks, what was staked on them, and
//! what they counted.

use super::bound::BadShareBound;
use super::e_values::{Opens, canary_share, nine_digits, stake, trips_guard};
use super::judgement::Judgement;
use super::policy::{GatePolicy, GateVerdict};
use crate::evidence::{Ledger, Observation};

/// The bad shares that let the canary get a weight.
#[derive(Clone, Copy)]
pub(super) struct Allowed {
    /// What its own may be in the whole rollout, by its upper confidence bound…
    pub(super) in_rollout: f64,
    /// …and in the step alone.
    pub(super) in_step: f64,
}

/// What a gate makes of its books, each in its own way.
#[derive(Clone, Copy)]
pub(super) struct Weighed {
    /// Evidence against the limit, and against equality with stable.
    pub(super) evidence: (f64, f64),
    /// Whether the canary may not advance, though it need not fail.
    pub(super) suspect: bool,
    /// How sure the bound on the canary's bad share is.
    pub(super) bound: BadShareBound,
    /// The bound itself, and what it has to be, both as they are shown.
    pub(super) upper_bound: (f64, f64),
    /// What the canary's bad share may be.
    pub(super) allowed: Allowed,
}

impl Ledger {
    /// The books of a rollout that has not begun.
    pub(super) fn new() -> Self {
        Self {
            weight: 0,
            looks: 0,
            step_looks: 0,
            staked: 0.0,
            strongest: 1.0,
            guard: None,
            step: Observation::default(),
            rollout: Observation::default(),
        }
    }

    /// Begins a step with `weight` percent of the traffic on the canary. Evidence carries over; a
    /// failure does not, since continuing after one overrules it.
    pub(super) fn begin_step(&mut self, weight: u8) {
        self.weight = weight;
        self.step_looks = 0;
        self.strongest = 1.0;
        self.guard = None;
        self.step = Observation::default();
    }

    /// At full weight no stable traffic runs beside the canary.
    pub(super) fn runs_alone(&self) -> bool {
        self.weight >= 100
    }

    /// The share of a look's requests that the canary is taken to have.
    pub(super) fn canary_share(&self, look: &Observation) -> f64 {
        canary_share(look, &self.step, self.weight)
    }

    /// Opens the next look: what is staked on it.
    pub(super) fn stake(&mut self, policy: &GatePolicy) -> f64 {
        let opens = Opens::look(self.step_looks, self.runs_alone());
        self.looks = self.looks.saturating_add(1);
        self.step_looks = self.step_looks.saturating_add(1);
        let stake = stake(self.looks, opens, policy.steps, self.staked);
        self.staked = nine_digits(self.staked + stake);
        stake
    }

    /// Writes down the evidence for failing that there is after a look.
    pub(super) fn settled(&mut self, evidence: f64) {
        self.strongest = self.strongest.max(nine_digits(evidence));
    }

    /// Keeps the first look of the step that is so bad that it needs no further evidence. `allowed`
    /// is the bad share that the canary may have, `bad_share` the least with which a look can be so
    /// bad.
    pub(super) fn guard(&mut self, look: &Observation, allowed: f64, bad_share: f64) {
        let share = (!self.runs_alone()).then(|| self.canary_share(look));
        if self.guard.is_none() && trips_guard(look, allowed, share, bad_share) {
            self.guard = Some(*look);
        }
    }

    /// Counts a look's requests.
    pub(super) fn count(&mut self, look: &Observation) {
        self.step.add(look);
        self.rollout.add(look);
    }

    /// Whether the verdict is Fail.
    pub(super) fn fails(&self, policy: &GatePolicy) -> bool {
        self.guard.is_some() || self.strongest >= policy.fail_threshold()
    }

    /// Requests that this step still needs, so that there are enough and their bad share is at most
    /// `share`.
    pub(super) fn step_requests_needed(&self, policy: &GatePolicy, share: f64) -> u64 {
        ((self.step.canary.bad as f64 / share).ceil() as u64)
            .max(policy.min_requests)
            .saturating_sub(self.step.canary.requests)
    }

    /// Fail before Pass before holding; a suspect canary does not pass.
    pub(super) fn verdict(
        &self,
        policy: &GatePolicy,
        is_suspect: bool,
        bound: BadShareBound,
        allowed: Allowed,
    ) -> GateVerdict {
        if self.fails(policy) {
            GateVerdict::Fail
        } else if !is_suspect
            && self.step_requests_needed(policy, allowed.in_step) == 0
            && bound.excludes(self.rollout.canary, allowed.in_rollout)
        {
            GateVerdict::Pass
        } else {
            GateVerdict::NeedMoreData
        }
    }

    /// The verdict with all that it rests on, and with how many more requests, all of them clean,
    /// it would be Pass.
    pub(super) fn judgement(
        &self,
        policy: &GatePolicy,
        next_weight: Option<u8>,
        weighed: Weighed,
    ) -> Judgement {
        let Weighed {
            evidence: (e_slo, e_rel),
            suspect,
            bound,
            upper_bound: (upper_bound, bound_needed),
            allowed,
        } = weighed;
        Judgement {
            verdict: self.verdict(policy, suspect, bound, allowed),
            e_slo,
            e_rel,
            strongest: self.strongest,
            fail_threshold: policy.fail_threshold(),
            guard: self.guard,
            upper_bound,
            bound_needed,
            clean_requests_needed: bound
                .clean_requests_until(self.rollout.canary, allowed.in_rollout)
                .map(|lacking| lacking.max(self.step_requests_needed(policy, allowed.in_step))),
            suspect,
            budget: policy.p0(),
            next_weight,
            step: self.step,
            rollout: self.rollout,
        }
    }
}
