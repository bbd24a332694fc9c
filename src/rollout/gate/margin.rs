//! "The canary's bad share is at most stable's and a margin": a test of two versions that run side by side.
//!
//! ```text
//! claim   pc ≤ ps + δ                  at every look, whatever ps is then
//! bet     θs = (ks + 50·δ)/(ns + 50)   stable's share so far      θc = θs + m·δ, at most 0.95
//! L(m)    = (θc/c)^kc ((1−θc)/(1−c))^(nc−kc) · (θs/s)^ks ((1−θs)/(1−s))^(ns−ks)
//! (c, s)  = the pair with c = s + δ that is closest to (θc, θs): least nc·KL(θc‖c) + ns·KL(θs‖s)
//! ```
//!
//! This is the E-variable of Turner, Ly and Grünwald (2024, "Generic E-variables for exact sequential
//! k-sample tests that allow for optional stopping") for two Bernoulli streams, with the convex null
//! of a risk difference as in Turner and Grünwald (2023, "Exact anytime-valid confidence intervals
//! for contingency tables and beyond"). Why its mean is at most 1 while the claim holds: with
//! `a = (θc−c)/(c(1−c))` and `b = (θs−s)/(s(1−s))`, `ln E[L] = nc·ln(1 + a(pc−c)) + ns·ln(1 + b(ps−s))
//! ≤ nc·a·(pc−c) + ns·b·(ps−s)`; the closest pair has `nc·a + ns·b = 0`, so this is
//! `nc·a·(pc − ps − δ) ≤ 0`. Neither the weight nor the share of traffic enters, so a burst that hits
//! both versions is no evidence, and unlike `L_rel` this holds for a margin above zero.
//!
//! At weight 100 no stable traffic runs beside the canary. What stable's share was is known from
//! before: it is held to the upper confidence bound of the whole rollout, `s`, so `c = s + δ`.
//!
//! For Pass, `next weight · (upper bound on pc − lower bound on ps) ≤ δ`: what callers in all would
//! lose. Each bound takes half of `β/G`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bound::BadShareBound;
use super::evidence::{
    GUARD_SHARE, Opens, SLO_ALTERNATIVES, canary_share, evidence, look_cap, nine_digits, settle,
    stake, trips_guard,
};
use super::sentence::{about, count, one_in, percent, percent_up, plural};
use super::{GatePolicy, GateVerdict, Look, SUSPECT, Tally};

/// How many requests at a share of δ stable is taken to have answered before.
const STABLE_PRIOR: f64 = 50.0;
/// The highest share that is bet on.
const HIGHEST_SHARE: f64 = 0.95;

/// The memory of one such gate over one rollout. Its policy's `budget` is the margin δ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MarginState {
    /// The canary's weight in this step, in percent.
    weight: u8,
    /// Looks since the rollout began, empty ones not counted.
    looks: u32,
    /// Looks since the step began, empty ones not counted.
    step_looks: u32,
    /// The part of the evidence's unit that has been staked so far, 0 to 1.
    staked: f64,
    /// Evidence for each alternative "the canary is worse by m margins".
    worse: [f64; SLO_ALTERNATIVES.len()],
    /// The strongest evidence for failing since the step began; 1 means none.
    strongest: f64,
    /// The look that tripped the hard guard in this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    guard: Option<Look>,
    /// Requests since the step began.
    step: Look,
    /// Requests since the rollout began.
    rollout: Look,
}

/// What the evidence says of the margin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MarginJudgement {
    /// What to do.
    pub verdict: GateVerdict,
    /// Evidence that the canary is worse than stable by more than the margin; 1 means none.
    pub e_worse: f64,
    /// The strongest such evidence since the step began.
    pub strongest: f64,
    /// The one look that tripped the hard guard in this step.
    pub guard: Option<Look>,
    /// Upper confidence bound on how much the canary's bad share is above stable's.
    pub upper_bound: f64,
    /// The bound that the next weight needs: `margin · 100 / next weight`.
    pub bound_needed: f64,
    /// How many more requests of the canary, all of them clean, would let it pass, suspicion aside.
    /// `None` if more than a billion are.
    pub clean_requests_needed: Option<u64>,
    /// `e_worse` ≥ [`SUSPECT`].
    pub suspect: bool,
    /// The margin δ.
    pub margin: f64,
    /// The weight that the canary asks for, in percent; `None` where it asks to be promoted.
    pub next_weight: Option<u8>,
    /// Requests since the step began.
    pub step: Look,
    /// Requests since the rollout began.
    pub rollout: Look,
}

impl Default for MarginState {
    fn default() -> Self {
        Self::new()
    }
}

impl MarginState {
    /// The memory of a rollout that has not begun.
    pub fn new() -> Self {
        Self {
            weight: 0,
            looks: 0,
            step_looks: 0,
            staked: 0.0,
            worse: [0.0; SLO_ALTERNATIVES.len()],
            strongest: 1.0,
            guard: None,
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
        self.step = Look::default();
    }

    /// Takes in what one scrape brought. A look without any requests changes nothing.
    pub fn observe(&mut self, look: &Look, policy: &GatePolicy) {
        let look = look.consistent();
        if look.requests() == 0 {
            return;
        }
        let opens = Opens::look(self.step_looks, self.runs_alone());
        self.looks = self.looks.saturating_add(1);
        self.step_looks = self.step_looks.saturating_add(1);

        let stake = stake(self.looks, opens, policy.steps, self.staked);
        let ratios = self.log_ratios(&look, policy);
        settle(&mut self.worse, stake, &ratios, look_cap(policy));
        self.staked = nine_digits(self.staked + stake);
        self.strongest = self.strongest.max(nine_digits(self.e_worse()));

        let share = (!self.runs_alone()).then(|| canary_share(&look, &self.step, self.weight));
        let allowed = (self.stable_share(policy) + policy.p0()).min(HIGHEST_SHARE);
        if self.guard.is_none() && trips_guard(&look, allowed, share, GUARD_SHARE) {
            self.guard = Some(look);
        }
        self.step.add(&look);
        self.rollout.add(&look);
    }

    /// What the evidence so far says. `next_weight` is the weight, in percent, that the canary would
    /// get on Pass; `None` if it would be promoted.
    pub fn judge(&self, policy: &GatePolicy, next_weight: Option<u8>) -> MarginJudgement {
        let (canary, stable) = (self.rollout.canary, self.rollout.stable);
        let bound = Self::bound(policy);
        let least_of_stable = bound.lower_bound(stable);
        let bound_needed = policy.share_allowed_at(next_weight.unwrap_or(100));
        let allowed = (bound_needed + least_of_stable).min(1.0);
        // The step alone must not contradict what the whole rollout proves. At full weight stable's past stands for it.
        let beside = if self.runs_alone() {
            stable
        } else {
            self.step.stable
        };
        let step_allowed = (bound_needed + beside.bad_share()).min(1.0);
        let step_requests = ((self.step.canary.bad as f64 / step_allowed).ceil() as u64)
            .max(policy.min_requests)
            .saturating_sub(self.step.canary.requests);
        let clean_requests_needed = bound
            .clean_requests_until(canary, allowed)
            .map(|lacking| lacking.max(step_requests));
        let e_worse = self.e_worse();
        let suspect = e_worse >= SUSPECT;
        let verdict = if self.guard.is_some() || self.strongest >= policy.fail_threshold() {
            GateVerdict::Fail
        } else if clean_requests_needed == Some(0) && !suspect {
            GateVerdict::Pass
        } else {
            GateVerdict::NeedMoreData
        };
        MarginJudgement {
            verdict,
            e_worse,
            strongest: self.strongest,
            guard: self.guard,
            upper_bound: bound.upper_bound(canary) - least_of_stable,
            bound_needed,
            clean_requests_needed,
            suspect,
            margin: policy.p0(),
            next_weight,
            step: self.step,
            rollout: self.rollout,
        }
    }

    /// Two bounds share what one has elsewhere.
    fn bound(policy: &GatePolicy) -> BadShareBound {
        BadShareBound::new(&GatePolicy {
            beta: policy.beta / 2.0,
            ..*policy
        })
    }

    fn e_worse(&self) -> f64 {
        evidence(&self.worse, &SLO_ALTERNATIVES, self.staked)
    }

    /// At full weight no stable traffic runs beside the canary.
    fn runs_alone(&self) -> bool {
        self.weight >= 100
    }

    /// Stable's bad share by what it answered before this look.
    fn stable_share(&self, policy: &GatePolicy) -> f64 {
        let Tally { requests, bad } = self.rollout.stable;
        (bad as f64 + STABLE_PRIOR * policy.p0()) / (requests as f64 + STABLE_PRIOR)
    }

    /// `ln L(m)` of one look, for each of [`SLO_ALTERNATIVES`].
    fn log_ratios(&self, look: &Look, policy: &GatePolicy) -> [f64; SLO_ALTERNATIVES.len()] {
        let margin = policy.p0();
        let of_stable = if self.runs_alone() {
            Self::bound(policy).upper_bound(self.rollout.stable)
        } else {
            self.stable_share(policy)
        };
        // A bet needs room above the claim.
        let of_stable = of_stable.min(HIGHEST_SHARE - margin).max(1e-9);
        SLO_ALTERNATIVES.map(|(factor, _)| {
            let of_canary = (of_stable + factor * margin).min(HIGHEST_SHARE);
            if of_canary <= of_stable + margin {
                return 0.0; // no room: no bet
            }
            let claimed = if self.runs_alone() {
                of_stable
            } else {
                closest_claim(look, of_canary, of_stable, margin)
            };
            let canary = log_ratio(look.canary, of_canary, claimed + margin);
            if self.runs_alone() {
                canary
            } else {
                canary + log_ratio(look.stable, of_stable, claimed)
            }
        })
    }
}

/// `ln` of the likelihood ratio of two bad shares.
fn log_ratio(tally: Tally, bet: f64, claim: f64) -> f64 {
    tally.bad as f64 * (bet / claim).ln()
        + tally.clean() as f64 * ((-bet).ln_1p() - (-claim).ln_1p())
}

/// Stable's share `s` in the pair `(s + margin, s)` that is closest to the bet: where
/// `nc·(s+δ−θc)/((s+δ)(1−s−δ)) + ns·(s−θs)/(s(1−s))` changes its sign. Found between θs and θc − δ.
fn closest_claim(look: &Look, of_canary: f64, of_stable: f64, margin: f64) -> f64 {
    let (canary, stable) = (look.canary.requests as f64, look.stable.requests as f64);
    let slope = |share: f64| {
        let c = share + margin;
        canary * (c - of_canary) / (c * (1.0 - c))
            + stable * (share - of_stable) / (share * (1.0 - share))
    };
    let (mut low, mut high) = (of_stable, of_canary - margin);
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            break;
        }
        if slope(middle) < 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

impl MarginJudgement {
    /// The judgement in words. `canary_rate` is the canary's requests a second, to tell how long the
    /// requests still lacking will take; `None` leaves that out.
    pub fn sentence(&self, canary_rate: Option<f64>) -> String {
        match (self.verdict, self.guard) {
            (GateVerdict::Fail, Some(look)) => format!(
                "{} in one scrape. A version no worse than stable has less than one such scrape in a million.",
                shares(&look)
            ),
            (GateVerdict::Fail, None) => format!(
                "{}: worse by more than {}. The chance that a version within that margin looks this bad is under {}.",
                shares(&self.step),
                points(self.margin),
                one_in(self.strongest)
            ),
            (GateVerdict::NeedMoreData, _) if self.suspect => format!(
                "{}. Suspect: the chance that a version at most {} worse than stable looks this bad is under {}, \
                 which is too little to roll back; holding.",
                shares(&self.rollout),
                points(self.margin),
                one_in(self.e_worse)
            ),
            (verdict, _) => {
                let lacking = if verdict == GateVerdict::Pass {
                    String::new()
                } else {
                    self.lacking(canary_rate)
                };
                let next = match self.next_weight {
                    Some(weight) => format!("moving to {weight} %"),
                    None => "promoting it".to_owned(),
                };
                format!(
                    "{}: worse by {}; {next} needs below {}{lacking}.",
                    shares(&self.rollout),
                    self.at_most(),
                    points(self.bound_needed)
                )
            }
        }
    }

    /// The limit in words.
    pub fn limit(&self) -> String {
        format!("stable's share and {}", points(self.margin))
    }

    fn at_most(&self) -> String {
        if self.upper_bound >= 1.0 {
            "an unknown share".to_owned()
        } else {
            let bound = percent_up(self.upper_bound.max(0.0));
            format!("less than {} points", bound.trim_end_matches(" %"))
        }
    }

    /// ", about 65 more clean requests (≈ 54 min at this traffic)"
    fn lacking(&self, canary_rate: Option<f64>) -> String {
        let Some(lacking) = self.clean_requests_needed else {
            return ", more than a billion more clean requests".to_owned();
        };
        let time = canary_rate
            .filter(|rate| *rate > 0.0)
            .and_then(|rate| std::time::Duration::try_from_secs_f64(lacking as f64 / rate).ok())
            .map(|time| format!(" (≈ {} at this traffic)", about(time)))
            .unwrap_or_default();
        format!(
            ", about {} more clean {}{time}",
            count(lacking),
            plural(lacking)
        )
    }
}

/// "31 of 150 canary requests failed (21 %), stable 2 of 1,350 (0.15 %)"
fn shares(look: &Look) -> String {
    let Look { canary, stable } = look;
    let beside = if stable.requests == 0 {
        "stable had no requests".to_owned()
    } else {
        format!(
            "stable {} of {} ({})",
            count(stable.bad),
            count(stable.requests),
            percent(stable.bad_share())
        )
    };
    format!(
        "{} of {} canary {} failed ({}), {beside}",
        count(canary.bad),
        count(canary.requests),
        plural(canary.requests),
        percent(canary.bad_share())
    )
}

/// "0.5 percentage points"
fn points(share: f64) -> String {
    let percent = percent(share);
    format!("{} percentage points", percent.trim_end_matches(" %"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn policy(margin: f64) -> GatePolicy {
        GatePolicy::new(margin, 2, 4)
    }

    fn look(canary: (u64, u64), stable: (u64, u64)) -> Look {
        Look {
            canary: Tally::new(canary.0, canary.1),
            stable: Tally::new(stable.0, stable.1),
        }
    }

    /// Counts of a Bernoulli stream by a small generator of one's own: the same on every machine.
    struct Dice(u64);

    impl Dice {
        fn next(&mut self) -> f64 {
            // SplitMix64 (Steele, Lea and Flood 2014).
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        }

        fn tally(&mut self, requests: u64, share: f64) -> Tally {
            let bad = (0..requests).filter(|_| self.next() < share).count();
            Tally::new(requests, bad as u64)
        }
    }

    /// Whether a rollout of 4 steps of 20 scrapes, 300 requests each, is ever failed.
    fn fails(seed: u64, shares: impl Fn(u32) -> (f64, f64)) -> bool {
        let policy = policy(0.005);
        let mut dice = Dice(seed.wrapping_mul(0x2545_F491_4F6C_DD1D));
        let mut state = MarginState::new();
        for (step, weight) in [10_u8, 25, 50, 100].into_iter().enumerate() {
            state.begin_step(weight);
            for scrape in 0..20 {
                let (of_canary, of_stable) = shares(step as u32 * 20 + scrape);
                let to_canary = 300 * u64::from(weight) / 100;
                let look = Look {
                    canary: dice.tally(to_canary, of_canary),
                    stable: dice.tally(300 - to_canary, of_stable),
                };
                state.observe(&look, &policy);
                if state.judge(&policy, None).verdict == GateVerdict::Fail {
                    return true;
                }
            }
        }
        false
    }

    #[test]
    fn the_mean_of_the_ratio_is_at_most_one_while_the_claim_holds() {
        // Exactly, over all outcomes of a look of 6 and 9 requests.
        let state = MarginState {
            weight: 40,
            rollout: look((0, 0), (100, 3)),
            ..MarginState::new()
        };
        let chance = |n: u64, k: u64, p: f64| {
            let choose = (0..k).fold(1.0, |c, i| c * (n - i) as f64 / (i + 1) as f64);
            choose * p.powi(k as i32) * (1.0 - p).powi((n - k) as i32)
        };
        for margin in [0.005, 0.05, 0.3] {
            for of_stable in [0.0, 0.01, 0.2, 0.6] {
                let of_canary = f64::min(of_stable + margin, 1.0);
                let mut means = [0.0; SLO_ALTERNATIVES.len()];
                for kc in 0..=6 {
                    for ks in 0..=9 {
                        let weight = chance(6, kc, of_canary) * chance(9, ks, of_stable);
                        let ratios = state.log_ratios(&look((6, kc), (9, ks)), &policy(margin));
                        for (mean, ratio) in means.iter_mut().zip(ratios) {
                            *mean += weight * ratio.exp();
                        }
                    }
                }
                for mean in means {
                    assert!(mean <= 1.0 + 1e-6, "{margin} {of_stable}: {means:?}");
                }
            }
        }
    }

    #[test]
    fn a_version_within_the_margin_is_failed_in_less_than_one_rollout_of_a_hundred() {
        // At the edge of the claim, with stable's share at rest, high, and in bursts.
        for of_stable in [
            (|_| 0.001) as fn(u32) -> f64,
            |_| 0.03,
            |scrape| if scrape % 7 == 0 { 0.08 } else { 0.002 },
        ] {
            let failed = (0..400)
                .filter(|seed| fails(*seed, |t| (of_stable(t) + 0.005, of_stable(t))))
                .count();
            // The guarantee is 0.5 % a gate here; 400 rollouts of exactly that give 6 or fewer in 99.5 %.
            assert!(failed <= 6, "{failed} of 400");
        }
    }

    #[test]
    fn a_version_clearly_worse_is_failed() {
        let failed = (0..50)
            .filter(|seed| fails(*seed, |_| (0.05, 0.001)))
            .count();
        assert_eq!(failed, 50);
    }

    #[test]
    fn clean_requests_pass_and_the_sentence_tells_how_many_are_lacking() {
        let policy = policy(0.005);
        let mut state = MarginState::new();
        state.begin_step(10);
        state.observe(&look((40, 0), (360, 0)), &policy);
        let judged = state.judge(&policy, Some(25));
        assert_eq!(judged.verdict, GateVerdict::NeedMoreData);
        let lacking = judged.clean_requests_needed.unwrap();
        assert!(judged.sentence(None).contains(
            "0 of 40 canary requests failed (0 %), stable 0 of 360 (0 %): worse by less than"
        ));
        state.observe(&look((lacking, 0), (9 * lacking, 0)), &policy);
        let judged = state.judge(&policy, Some(25));
        assert_eq!(judged.verdict, GateVerdict::Pass, "{judged:?}");
        assert!(judged.upper_bound <= judged.bound_needed);
    }

    #[test]
    fn one_scrape_of_failures_is_enough() {
        let policy = policy(0.005);
        let mut state = MarginState::new();
        state.begin_step(10);
        state.observe(&look((30, 30), (270, 0)), &policy);
        let judged = state.judge(&policy, Some(25));
        assert_eq!(judged.verdict, GateVerdict::Fail);
        assert_eq!(
            judged.sentence(None),
            "30 of 30 canary requests failed (100 %), stable 0 of 270 (0 %) in one scrape. \
             A version no worse than stable has less than one such scrape in a million."
        );
    }

    #[test]
    fn numbers_stay_finite() {
        let policy = policy(0.005);
        let mut state = MarginState::new();
        for weight in [1, 50, 100] {
            state.begin_step(weight);
            for look in [
                look((1_000_000_000, 0), (1_000_000_000, 1_000_000_000)),
                look((1_000_000_000, 1_000_000_000), (0, 0)),
                look((0, 0), (1, 1)),
            ] {
                state.observe(&look, &policy);
                let judged = state.judge(&policy, None);
                assert!(judged.e_worse.is_finite() && judged.upper_bound.is_finite());
                let json = serde_json::to_string(&state).unwrap();
                assert_eq!(serde_json::from_str::<MarginState>(&json).unwrap(), state);
            }
        }
    }
}
