//! What a gate remembers between scrapes, and how it judges.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bound::BadShareBound;
use super::evidence::{
    GUARD_SHARE, LOOK_CAP, Opens, RELATIVE_ALTERNATIVES, SLO_ALTERNATIVES, WARM_UP_GUARD_SHARE,
    canary_share, evidence, log_ratios_to_past, log_relative_ratios, log_slo_ratios, look_cap,
    nine_digits, settle, stake, trips_guard,
};
use super::{GatePolicy, GateVerdict, Judgement, Look, SUSPECT};

/// The memory of one gate over one rollout. It is kept in the resource's status, so an operator that
/// starts anew goes on exactly where the one before it stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateState {
    /// The canary's weight in this step, in percent.
    weight: u8,
    /// Looks since the rollout began, empty ones not counted.
    looks: u32,
    /// Looks since the step began, empty ones not counted.
    step_looks: u32,
    /// The part of the evidence's unit that has been staked so far, 0 to 1.
    staked: f64,
    /// Evidence for each alternative "the bad share is m times the budget".
    slo: [f64; SLO_ALTERNATIVES.len()],
    /// Evidence for each alternative "a canary request is ω times as likely bad as a stable one"; at full weight: as
    /// stable's were before, or as the objective allows.
    relative: [f64; RELATIVE_ALTERNATIVES.len()],
    /// The strongest evidence for failing since the step began; 1 means none.
    strongest: f64,
    /// The look that tripped the hard guard in this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    guard: Option<Look>,
    /// What the canary answered while it was warming up, all scrapes together; gone with the first look after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warm_up: Option<Look>,
    /// Requests since the step began.
    step: Look,
    /// Requests since the rollout began.
    rollout: Look,
}

impl Default for GateState {
    fn default() -> Self {
        Self::new()
    }
}

impl GateState {
    /// The memory of a rollout that has not begun. A new rollout, and one that is tried again, start
    /// with it.
    pub fn new() -> Self {
        Self {
            weight: 0,
            looks: 0,
            step_looks: 0,
            staked: 0.0,
            slo: [0.0; SLO_ALTERNATIVES.len()],
            relative: [0.0; RELATIVE_ALTERNATIVES.len()],
            strongest: 1.0,
            guard: None,
            warm_up: None,
            step: Look::default(),
            rollout: Look::default(),
        }
    }

    /// Requests since the step began.
    pub fn step(&self) -> &Look {
        &self.step
    }

    /// Requests since the rollout began.
    pub fn rollout(&self) -> &Look {
        &self.rollout
    }

    /// Begins a step with `weight` percent of the traffic on the canary. Evidence carries over; a
    /// failure does not, since whoever goes on after one has overruled it.
    pub fn begin_step(&mut self, weight: u8) {
        self.weight = weight;
        self.step_looks = 0;
        self.strongest = 1.0;
        self.guard = None;
        self.warm_up = None;
        self.step = Look::default();
    }

    /// Whether no look has been taken in yet, other than those of the warm-up.
    pub fn is_new(&self) -> bool {
        self.looks == 0
    }

    /// Whether all that has been taken in so far is the warm-up.
    pub fn warms_up(&self) -> bool {
        self.is_new() && self.warm_up.is_some()
    }

    /// Takes in what one scrape brought while the canary is still warming up: caches fill, code is compiled, and its
    /// first answers take longer than any after them.
    ///
    /// They are kept and weighed as one look, the first one, however many they are: one look can't fail a version, what
    /// it says fades with the good looks that follow, and one more bad look confirms it. For the bound they don't
    /// count. The hard guard needs 90 % of bad ones instead of 50.
    pub fn warm_up(&mut self, look: &Look, policy: &GatePolicy) {
        let look = look.consistent();
        self.guard(&look, policy, WARM_UP_GUARD_SHARE);
        self.warm_up.get_or_insert_default().add(&look);
    }

    /// Takes in what one scrape brought. A look without any requests changes nothing.
    pub fn observe(&mut self, look: &Look, policy: &GatePolicy) {
        let look = look.consistent();
        if look.requests() == 0 {
            return;
        }
        if let Some(early) = self.warm_up.take().filter(|early| early.requests() > 0) {
            self.weigh(&early, policy, LOOK_CAP);
        }
        self.guard(&look, policy, GUARD_SHARE);
        self.weigh(&look, policy, look_cap(policy));
        self.step.add(&look);
        self.rollout.add(&look);
    }

    /// Settles the bets on one look, which multiplies no stake by more than `cap`.
    fn weigh(&mut self, look: &Look, policy: &GatePolicy, cap: f64) {
        let opens = Opens::look(self.step_looks, self.runs_alone());
        self.looks = self.looks.saturating_add(1);
        self.step_looks = self.step_looks.saturating_add(1);

        let p0 = policy.p0();
        let stake = stake(self.looks, opens, policy.steps, self.staked);
        let relative = if self.runs_alone() {
            log_ratios_to_past(look.canary, self.rollout.stable, p0)
        } else {
            log_relative_ratios(look, canary_share(look, &self.step, self.weight))
        };
        settle(&mut self.slo, stake, &log_slo_ratios(look.canary, p0), cap);
        settle(&mut self.relative, stake, &relative, cap);
        self.staked = nine_digits(self.staked + stake);
        let evidence = self.e_slo().min(self.e_rel());
        self.strongest = self.strongest.max(nine_digits(evidence));
    }

    /// Keeps the first look of the step that is so bad that it needs no further evidence.
    fn guard(&mut self, look: &Look, policy: &GatePolicy, bad_share: f64) {
        let share = canary_share(look, &self.step, self.weight);
        let compared = (!self.runs_alone()).then_some(share);
        if self.guard.is_none() && trips_guard(look, policy.p0(), compared, bad_share) {
            self.guard = Some(*look);
        }
    }

    /// What the evidence so far says. `next_weight` is the weight, in percent, that the canary would
    /// get on Pass; `None` if it would be promoted, which needs the same as a weight of 100.
    ///
    /// The upper bound counts the whole rollout's requests: at 0.2 requests a second that saves a
    /// quarter of the hours. So that a good past does not hide a canary which gets worse with its
    /// weight, the bad share of the step alone must fit the next weight, too.
    ///
    /// To be called after each look (or several looks that arrived together): a crossing is kept
    /// until the next step begins.
    pub fn judge(&self, policy: &GatePolicy, next_weight: Option<u8>) -> Judgement {
        let bound = BadShareBound::new(policy);
        let bound_needed = policy.share_allowed_at(next_weight.unwrap_or(100));
        let clean_requests_needed = bound
            .clean_requests_until(self.rollout.canary, bound_needed)
            .map(|lacking| lacking.max(self.step_requests_needed(policy, bound_needed)));
        let verdict = self.verdict(policy, next_weight);
        Judgement {
            verdict,
            e_slo: self.e_slo(),
            e_rel: self.e_rel(),
            strongest: self.strongest,
            fail_threshold: policy.fail_threshold(),
            guard: self.guard,
            upper_bound: bound.upper_bound(self.rollout.canary),
            bound_needed,
            clean_requests_needed,
            suspect: self.is_suspect(),
            budget: policy.p0(),
            next_weight,
            step: self.step,
            rollout: self.rollout,
        }
    }

    /// The verdict of [`judge`](Self::judge) alone, at a tenth of its cost: no number has to be searched for.
    pub fn verdict(&self, policy: &GatePolicy, next_weight: Option<u8>) -> GateVerdict {
        let needed = policy.share_allowed_at(next_weight.unwrap_or(100));
        if self.fails(policy) {
            GateVerdict::Fail
        } else if !self.is_suspect()
            && self.step_requests_needed(policy, needed) == 0
            && BadShareBound::new(policy).excludes(self.rollout.canary, needed)
        {
            GateVerdict::Pass
        } else {
            GateVerdict::NeedMoreData
        }
    }

    /// Whether the canary may not advance, though it need not fail: `E_slo` ≥ [`SUSPECT`].
    pub fn is_suspect(&self) -> bool {
        self.e_slo() >= SUSPECT
    }

    /// Requests that this step still needs, so that there are enough and their bad share fits the next weight.
    fn step_requests_needed(&self, policy: &GatePolicy, share: f64) -> u64 {
        ((self.step.canary.bad as f64 / share).ceil() as u64)
            .max(policy.min_requests)
            .saturating_sub(self.step.canary.requests)
    }

    /// Whether the verdict is Fail.
    pub(super) fn fails(&self, policy: &GatePolicy) -> bool {
        self.guard.is_some() || self.strongest >= policy.fail_threshold()
    }

    fn e_slo(&self) -> f64 {
        evidence(&self.slo, &SLO_ALTERNATIVES, self.staked)
    }

    fn e_rel(&self) -> f64 {
        evidence(&self.relative, &RELATIVE_ALTERNATIVES, self.staked)
    }

    /// At full weight no stable traffic runs beside the canary.
    fn runs_alone(&self) -> bool {
        self.weight >= 100
    }
}
