//! Evidence against the canary as money won in a fair game.
//!
//! Each test bets against the claim that the canary is good. A bet multiplies what was staked by a
//! likelihood ratio: how much likelier the look is if the canary is bad in a certain way than if it
//! is just good enough. While the canary *is* good, the ratio's mean is at most 1, so no way of betting
//! wins money in the long run (Wald 1945), and the chance that one unit of money ever becomes `x` is
//! at most `1/x`, over all looks together (Ville 1939). That is why one may look after every scrape
//! and stop at any time; Howard, Ramdas et al. (2021) and Ramdas et al. (2023, "game-theoretic
//! statistics") work this out.
//!
//! How bad a canary is, and from when on, is not known beforehand. So the unit is split evenly over
//! several alternatives, and each alternative stakes it in parts `w_t` over the looks (Shin, Ramdas,
//! Rinaldo 2022, "e-detectors"): a large part at the start of each step, since that is when things
//! change, and a little at each look. What is not yet staked is kept, which gives
//!
//! ```text
//! S_g ← (S_g + w_t) · min(L_g, cap)        E = mean_g S_g + 1 − Σ w_t
//! ```

use super::{GatePolicy, Look, Tally};

/// Alternatives to the objective: the bad share is this many times the budget.
pub(super) const SLO_FACTORS: [f64; 8] = [1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 90.0];

/// Alternatives to "no worse than stable": a request to the canary is this many times as likely bad.
pub(super) const RELATIVE_FACTORS: [f64; 9] = [1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 300.0];

/// One look multiplies a stake by no more than this, so that a single burst is not yet proof.
const LOOK_CAP: f64 = 20.0;

/// Share of the unit staked at the beginnings of steps; the rest is spread over all looks.
const STEP_STAKES: f64 = 0.75;

/// Winnings are cut off here: a chance of one in 10⁸ says all there is to say, and a canary that was
/// over its objective together with stable must be able to clear itself in finite time.
const MOST: f64 = 1e8;
/// Below this a stake is lost.
const LEAST: f64 = 1e-12;

/// How many requests at the share seen so far are mixed into each look's own share of requests.
const SHARE_INERTIA: f64 = 200.0;
/// How many requests at the declared weight a step begins with.
const SHARE_PRIOR: f64 = 50.0;

/// A hard guard look has at least so many bad requests…
const GUARD_BAD: u64 = 5;
/// …and this share of bad ones…
const GUARD_SHARE: f64 = 0.5;
/// …while stable has no more than this share…
const GUARD_STABLE_SHARE: f64 = 0.1;
/// …and under the objective it comes by chance in less than one look in a million…
const GUARD_CHANCE: f64 = 1e-6;
/// …and in an outage that both versions share, the bad requests fall so unevenly in less than one
/// look in a thousand.
const GUARD_UNEVEN_CHANCE: f64 = 1e-3;

/// `ln L_slo`, for each of [`SLO_FACTORS`], of a version's requests in one look:
///
/// ```text
/// L_slo(m) = (p1/p0)^k · ((1−p1)/(1−p0))^(n−k)      p1 = min(0.95, m·p0)
/// ```
///
/// Its mean is 1 at a bad share of `p0` and below 1 under it. Budgets close to or above 95 % take the
/// middle between budget and 1 for the limit of `p1`, so that `p1 > p0` always.
pub(super) fn log_slo_ratios(canary: Tally, p0: f64) -> [f64; 8] {
    let highest = f64::max(0.95, f64::midpoint(p0, 1.0));
    SLO_FACTORS.map(|factor| {
        let p1 = (factor * p0).min(highest);
        canary.bad as f64 * (p1 / p0).ln() + canary.clean() as f64 * ((-p1).ln_1p() - (-p0).ln_1p())
    })
}

/// The share of requests that the canary is taken to have in `look`, for comparing it with stable.
///
/// `s` is its share in the step's earlier looks, begun with 50 requests at the declared weight; the
/// look's own share has an inertia of 200 requests:
///
/// ```text
/// s = (Nc + 50·weight) / (Nc + Ns + 50)         ρ = (nc + 200·s) / (nc + ns + 200)
/// ```
///
/// So a busy look speaks for itself, and a look of three requests does not claim that a third, or
/// all, of the traffic went to the canary.
pub(super) fn canary_share(look: &Look, earlier: &Look, weight: u8) -> f64 {
    let prior = SHARE_PRIOR * f64::from(weight.min(100)) / 100.0;
    let usual =
        (earlier.canary.requests as f64 + prior) / (earlier.requests() as f64 + SHARE_PRIOR);
    (look.canary.requests as f64 + SHARE_INERTIA * usual) / (look.requests() as f64 + SHARE_INERTIA)
}

/// `ln L_rel`, for each of [`RELATIVE_FACTORS`], of one look:
///
/// ```text
/// L_rel(ω) = (ω/d)^kc · (1/d)^ks      d = ωρ + 1 − ρ
/// ```
///
/// Given that a request was bad, the chance that it was the canary's is `ρ` if both versions are
/// equally good, and `ωρ/d` if the canary's requests are `ω` times as likely bad (Lindon and Malek,
/// `NeurIPS` 2022). How many requests were bad in all cancels out, so a burst that hits both versions
/// is no evidence. The mean is at most 1 where each request goes to the canary with probability `s`,
/// independently of how it ends, which is what weighted routing does.
pub(super) fn log_relative_ratios(look: &Look, share: f64) -> [f64; 9] {
    RELATIVE_FACTORS.map(|factor| {
        let log_d = ((factor - 1.0) * share).ln_1p();
        look.canary.bad as f64 * (factor.ln() - log_d) - look.stable.bad as f64 * log_d
    })
}

/// `w_t`: what to stake before the `look`-th look of the rollout (from 1), which opens a step or not:
/// `(¾/steps)[first look of a step] + ¼/(t(t+1))`, and never more than the unit has left.
pub(super) fn stake(look: u32, opens_step: bool, steps: u32, staked: f64) -> f64 {
    let t = f64::from(look);
    let every_look = (1.0 - STEP_STAKES) / (t * (t + 1.0));
    let step = if opens_step {
        STEP_STAKES / f64::from(steps.max(1))
    } else {
        0.0
    };
    (step + every_look).min((1.0 - staked).max(0.0))
}

/// What one look can multiply a stake by: 20, or less where 20 would let the first two looks of a
/// rollout fail a gate by themselves.
///
/// They turn the stakes into at most `(w1·cap + w2)·cap`, which must stay below `G/α`. For two gates
/// and four steps that is `(0.3125·20 + 0.042)·20 = 126 < 200`; one gate with one step needs a cap of
/// 10.6.
pub(super) fn look_cap(policy: &GatePolicy) -> f64 {
    let first = stake(1, true, policy.steps, 0.0);
    let second = stake(2, false, policy.steps, first);
    let room = (policy.fail_threshold() - 1.0).max(1.0);
    let cap = ((second * second + 4.0 * first * room).sqrt() - second) / (2.0 * first);
    cap.min(LOOK_CAP)
}

/// Stakes `stake` more on each alternative and settles one look.
pub(super) fn settle(winnings: &mut [f64], stake: f64, log_ratios: &[f64], cap: f64) {
    for (won, log_ratio) in winnings.iter_mut().zip(log_ratios) {
        *won = nine_digits((*won + stake) * log_ratio.exp().min(cap));
    }
}

/// `E`: the mean of what was won, and what has not been staked.
pub(super) fn evidence(winnings: &[f64], staked: f64) -> f64 {
    let mean = winnings.iter().sum::<f64>() / winnings.len() as f64;
    mean + 1.0 - staked
}

/// `value` with nine significant digits, at most [`MOST`], and 0 below [`LEAST`].
///
/// Such a number is short, and every JSON reader gives back exactly the same one: `serde_json` is
/// exact only for up to 15 digits and exponents up to 22. So a restart changes nothing, not even a
/// last digit. One rounding changes the evidence by less than one part in 10⁹.
pub(super) fn nine_digits(value: f64) -> f64 {
    let value = value.min(MOST);
    if value < LEAST {
        return 0.0;
    }
    // From 10⁰ (value = 10⁸) to 10²⁰ (value = 10⁻¹²): all of them exact.
    let scale = 10_f64.powi(8 - value.log10().floor() as i32);
    (value * scale).round() / scale
}

/// Whether one look is so bad that it needs no further evidence: at least 5 bad requests and 50 % of
/// all, while at most 10 % of stable's (or none at all) were bad. `share` is the canary's share of
/// requests, `None` where no stable traffic runs beside it.
///
/// Chance must be ruled out as well, by Chernoff's bound `exp(−n·KL(k/n ‖ p))` on the probability of
/// at least `k` of `n`:
/// - The objective alone would bring it in less than one look in a million. With "p50 ≤ 250 ms", half
///   of all requests *are* slow. At a budget of 1 %, 5 of 10 are enough (10⁻⁷); at 5 %, 8 of 16 may
///   still be chance and 9 of 18 may not.
/// - In an outage that both versions share, so large a part of the bad requests would fall to the
///   canary in less than one such look in a thousand. With all of them the canary's, 3 are enough for
///   that at a weight of 10 %, 5 at 25 %, 10 at 50 %.
pub(super) fn trips_guard(look: &Look, p0: f64, share: Option<f64>) -> bool {
    let Look { canary, stable } = look;
    let all_bad = Tally::new(canary.bad.saturating_add(stable.bad), canary.bad);
    canary.bad >= GUARD_BAD
        && canary.bad_share() >= GUARD_SHARE
        && stable.bad_share() <= GUARD_STABLE_SHARE
        && rules_out_chance(*canary, p0, GUARD_CHANCE)
        && share.is_none_or(|share| rules_out_chance(all_bad, share, GUARD_UNEVEN_CHANCE))
}

/// Whether so many bad requests come with a probability below `chance` if each is bad with
/// probability `p`.
fn rules_out_chance(tally: Tally, p: f64, chance: f64) -> bool {
    let share = tally.bad_share();
    share > p && tally.requests as f64 * divergence(share, p) >= -chance.ln()
}

/// Kullback-Leibler divergence of two bad shares, in nats; `share` in (0, 1].
fn divergence(share: f64, p0: f64) -> f64 {
    let clean = 1.0 - share;
    let of_clean = if clean > 0.0 {
        clean * (clean / (1.0 - p0)).ln()
    } else {
        0.0
    };
    share * (share / p0).ln() + of_clean
}
