//! Evidence against the canary as money won in a fair game.
//!
//! Each test bets against the claim that the canary is good. A bet multiplies what was staked by a
//! likelihood ratio: how much likelier the look is if the canary is bad in a certain way than if it
//! is just good enough. While the canary *is* good, the ratio's mean is at most 1, so no way of
//! betting wins money in the long run (Wald 1945), and the chance that one unit of money ever
//! becomes `x` is at most `1/x`, over all looks together (Ville 1939). That is why one may look
//! after every scrape and stop at any time; Howard, Ramdas et al. (2021) and Ramdas et al. (2023,
//! "game-theoretic statistics") work this out.
//!
//! How bad a canary is, and from when on, is not known beforehand. So the unit is split over
//! several alternatives `g`, and each alternative stakes its part in pieces `w_t` over the looks
//! (Shin, Ramdas, Rinaldo 2022, "e-detectors"): half at the first look of the rollout, since most
//! bad versions are bad at once; large pieces at the beginnings of the other steps, since that is
//! when things change; and a little at each look. What is not yet staked is kept, which gives
//!
//! ```text
//! S_g ← (S_g + w_t) · min(L_g, cap)        E = Σ q_g·S_g + 1 − Σ w_t        Σ q_g = 1
//! ```
//!
//! The parts `q_g` lean towards the mild alternatives: there each request says little, so a factor
//! of two in the stake is worth minutes, and nothing where a version fails all. They were chosen on
//! whole rollouts by `cargo xtask simulate`: compared with eight equal parts and even stakes, a
//! version at twice its budget is found in a sixth less time, and none later. A bettor who knew
//! beforehand how bad it is and staked all on that at once would need a fifth less again: what
//! remains is information.

use super::policy::GatePolicy;
use crate::evidence::{self, Observation, Tally};

/// Alternatives to the objective: the bad share is this many times the budget; and the part of the
/// unit on each.
pub(super) const SLO_ALTERNATIVES: [(f64, f64); evidence::SLO_ALTERNATIVES] = [
    (1.8, 0.40),
    (3.0, 0.20),
    (6.0, 0.12),
    (15.0, 0.12),
    (40.0, 0.10),
    (90.0, 0.06),
];

/// Alternatives to "no worse than stable": a request to the canary is this many times as likely
/// bad; and the part of the unit on each.
pub(super) const RELATIVE_ALTERNATIVES: [(f64, f64); evidence::RELATIVE_ALTERNATIVES] = [
    (2.0, 0.30),
    (5.0, 0.25),
    (15.0, 0.20),
    (60.0, 0.15),
    (300.0, 0.10),
];

/// One look multiplies a stake by no more than this, so that a single burst is not yet proof.
pub(super) const LOOK_CAP: f64 = 20.0;
/// So many looks of a fresh rollout never fail it by evidence, however bad they are…
const LOOKS_NEVER_ENOUGH: u32 = 2;
/// …and so many don't where they are bad by a few budgets only: scrapes that a burst of half a
/// minute touches.
const MILD_LOOKS_NEVER_ENOUGH: u32 = 3;

/// Part of the unit staked at the first look of the rollout…
const OPENING_STAKE: f64 = 0.5;
/// …and spread over the beginnings of all later steps…
const STEP_STAKES: f64 = 0.3;
/// …and over all looks.
const LOOK_STAKES: f64 = 0.2;
/// At full weight no stable traffic distinguishes a bad version from an outage that would hit
/// either, so a step there begins with less: three looks can't fail it (0.02·20³ = 160 < 200),
/// which a burst of 30 s would else do.
const LONE_STEP_STAKE: f64 = 0.02;

/// Winnings are cut off here: a chance of one in 10⁸ says all there is to say, and a canary that
/// was over its objective together with stable must be able to clear itself in finite time.
const MOST: f64 = 1e8;
/// Below this a stake is lost.
const LEAST: f64 = 1e-12;

/// How many requests at the share seen so far are mixed into each look's own share of requests.
const SHARE_INERTIA: f64 = 200.0;
/// How many requests at the declared weight a step begins with.
const SHARE_PRIOR: f64 = 50.0;
/// How many requests within the budget are added to what stable has shown, before a canary at full
/// weight is held to it.
const PAST_PRIOR: f64 = 200.0;

/// A hard guard look has at least so many bad requests…
const GUARD_BAD: u64 = 5;
/// …and this share of bad ones…
pub(super) const GUARD_SHARE: f64 = 0.5;
/// …or this one while the canary warms up…
pub(super) const WARM_UP_GUARD_SHARE: f64 = 0.9;
/// …while stable has no more than this share…
const GUARD_STABLE_SHARE: f64 = 0.1;
/// …and under the objective it comes by chance in less than one look in a million…
const GUARD_CHANCE: f64 = 1e-6;
/// …and in an outage that both versions share, the bad requests fall so unevenly in less than one
/// look in a thousand.
const GUARD_UNEVEN_CHANCE: f64 = 1e-3;

/// `ln L_slo`, for each of [`SLO_ALTERNATIVES`], of a version's requests in one look:
///
/// ```text
/// L_slo(m) = (p1/p0)^k · ((1−p1)/(1−p0))^(n−k)      p1 = min(0.95, m·p0)
/// ```
///
/// Its mean is 1 at a bad share of `p0` and below 1 under it.
pub(super) fn log_slo_ratios(canary: Tally, p0: f64) -> [f64; SLO_ALTERNATIVES.len()] {
    SLO_ALTERNATIVES.map(|(factor, _)| log_share_ratio(canary, p0, factor))
}

/// Evidence that the bad share is `factor` times `p0`, against at most `p0`. Shares close to or
/// above 95 % take the middle between `p0` and 1 for the limit of `p1`, so that `p1 > p0` always.
fn log_share_ratio(tally: Tally, p0: f64, factor: f64) -> f64 {
    let highest = f64::max(0.95, f64::midpoint(p0, 1.0));
    let p1 = (factor * p0).min(highest);
    tally.bad as f64 * (p1 / p0).ln() + tally.clean() as f64 * ((-p1).ln_1p() - (-p0).ln_1p())
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
pub(super) fn canary_share(look: &Observation, earlier: &Observation, weight: u8) -> f64 {
    let prior = SHARE_PRIOR * f64::from(weight.min(100)) / 100.0;
    let usual =
        (earlier.canary.requests as f64 + prior) / (earlier.requests() as f64 + SHARE_PRIOR);
    (look.canary.requests as f64 + SHARE_INERTIA * usual) / (look.requests() as f64 + SHARE_INERTIA)
}

/// `ln L_rel`, for each of [`RELATIVE_ALTERNATIVES`], of one look:
///
/// ```text
/// L_rel(ω) = (ω/d)^kc · (1/d)^ks      d = ωρ + 1 − ρ
/// ```
///
/// Given that a request was bad, the chance that it was the canary's is `ρ` if both versions are
/// equally good, and `ωρ/d` if the canary's requests are `ω` times as likely bad (Lindon and Malek,
/// `NeurIPS` 2022). How many requests were bad in all cancels out, so a burst that hits both
/// versions is no evidence. The mean is at most 1 where each request goes to the canary with
/// probability `s`, independently of how it ends, which is what weighted routing does.
pub(super) fn log_relative_ratios(
    look: &Observation,
    share: f64,
) -> [f64; RELATIVE_ALTERNATIVES.len()] {
    RELATIVE_ALTERNATIVES.map(|(factor, _)| {
        let log_d = ((factor - 1.0) * share).ln_1p();
        look.canary.bad as f64 * (factor.ln() - log_d) - look.stable.bad as f64 * log_d
    })
}

/// `ln L_rel` at full weight, where no stable traffic runs beside the canary: the alternatives are
/// multiples of what stable may have had earlier in this rollout, if that was over the budget, and
/// of the budget if not.
///
/// A canary that got here while both versions were over the objective would else be rolled back to
/// a version no better.
pub(super) fn log_ratios_to_past(
    canary: Tally,
    stable: Tally,
    p0: f64,
) -> [f64; RELATIVE_ALTERNATIVES.len()] {
    let held_to = past_share(stable, p0);
    RELATIVE_ALTERNATIVES.map(|(factor, _)| log_share_ratio(canary, held_to, factor))
}

/// What a canary at full weight is held to: `p0`, unless stable's own share was over it.
///
/// ```text
/// (K + 200·p0) / (N + 200) ≤ p0 ?  p0  :  (K + 2·√(K+1) + 200·p0) / (N + 200)
/// ```
///
/// 200 requests within the budget keep few requests from saying much; two standard deviations more
/// allow for the chance in stable's own: 23 bad of 774 become 3.6 %.
fn past_share(stable: Tally, p0: f64) -> f64 {
    let (bad, prior) = (stable.bad as f64, PAST_PRIOR * p0);
    let requests = stable.requests as f64 + PAST_PRIOR;
    if (bad + prior) / requests <= p0 {
        p0
    } else {
        ((bad + 2.0 * (bad + 1.0).sqrt() + prior) / requests).min(1.0 - 1e-6)
    }
}

/// What is staked before a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opens {
    /// It is the first of a step in which stable serves beside the canary.
    Step,
    /// It is the first of a step at full weight.
    LoneStep,
    /// It is a later one.
    Nothing,
}

impl Opens {
    /// What the next look opens, after so many in this step.
    pub(super) fn look(step_looks: u32, runs_alone: bool) -> Self {
        match step_looks {
            0 if runs_alone => Self::LoneStep,
            0 => Self::Step,
            _ => Self::Nothing,
        }
    }
}

/// `w_t`: what to stake before the `look`-th look of the rollout (from 1): half of the unit before
/// the first one, 0.3 spread over the beginnings of later steps, and `0.2/(t(t+1))` before each;
/// never more than the unit has left.
pub(super) fn stake(look: u32, opens: Opens, steps: u32, staked: f64) -> f64 {
    let t = f64::from(look);
    let every_look = LOOK_STAKES / (t * (t + 1.0));
    let step = match opens {
        _ if look == 1 => OPENING_STAKE,
        Opens::Step => STEP_STAKES / f64::from(steps.saturating_sub(1).max(1)),
        Opens::LoneStep => LONE_STEP_STAKE,
        Opens::Nothing => 0.0,
    };
    (step + every_look).min((1.0 - staked).max(0.0))
}

/// What one look can multiply a stake by, where `allowed` is the bad share that the canary may
/// have: how many times as many of its requests were bad.
///
/// The likelihood ratios take requests to fail independently of each other. In a burst they don't:
/// a hiccup of half a minute in which 8 % fail is one event, not 50 failures. If nothing is known
/// of how a look's requests hang together, no fair bet on "on average at most `allowed`" pays more
/// than `share/allowed` (Markov's inequality; Clerico 2024: the bets `1 + λ(share − allowed)`, `λ ≤
/// 1/allowed`, are all that there are). So 20 % against 1 % speak at once, while 8 % have to last a
/// look longer than a burst does: three looks pay 8³ = 512, and the three that a burst of 30 s
/// touches, two looks' worth in all, at most 8·4·4 = 128.
///
/// The cap stays between two others. Above: two looks never fail a fresh rollout, `(0.6·c +
/// 0.033)·c < G/α` (18.2 for two gates, 12.8 for one, 20 from three on). Below: nor do three, which
/// 6.9, 5.4 and 7.9 ensure; less would only delay what lies close to the budget, where a burst
/// cannot be distinguished from chance either.
pub(super) fn look_cap(policy: &GatePolicy, look: Tally, allowed: f64) -> f64 {
    let never_enough = |looks| cap_of(policy, looks).min(LOOK_CAP);
    let (least, most) = (
        never_enough(MILD_LOOKS_NEVER_ENOUGH),
        never_enough(LOOKS_NEVER_ENOUGH),
    );
    (look.bad_share() / allowed).clamp(least, most)
}

/// The cap with which the first `looks` looks of a rollout, all at the cap, just don't reach `G/α`:
/// bisected, since what they win grows with it.
fn cap_of(policy: &GatePolicy, looks: u32) -> f64 {
    let mut bets = [0.0; MILD_LOOKS_NEVER_ENOUGH as usize];
    let mut staked = 0.0;
    for (look, bet) in (1..=looks).zip(&mut bets) {
        *bet = stake(look, Opens::Nothing, policy.steps, staked);
        staked += *bet;
    }
    let bets = &bets[..looks as usize];
    // What is not staked yet counts as well: at most the unit.
    let room = (policy.fail_threshold() - 1.0).max(1.0);
    let won = |cap: f64| bets.iter().fold(0.0, |won, bet| (won + bet) * cap);
    let (mut low, mut high) = (1.0, room / bets[0]);
    for _ in 0..48 {
        let middle = f64::midpoint(low, high);
        if won(middle) < room {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// Stakes `stake` more on each alternative and settles one look.
pub(super) fn settle(winnings: &mut [f64], stake: f64, log_ratios: &[f64], cap: f64) {
    for (won, log_ratio) in winnings.iter_mut().zip(log_ratios) {
        *won = nine_digits((*won + stake) * log_ratio.exp().min(cap));
    }
}

/// `E`: what was won, each alternative by its part of the unit, and what has not been staked.
pub(super) fn evidence(winnings: &[f64], alternatives: &[(f64, f64)], staked: f64) -> f64 {
    let parts = alternatives.iter().map(|(_, part)| part);
    let won: f64 = winnings
        .iter()
        .zip(parts)
        .map(|(won, part)| won * part)
        .sum();
    won + 1.0 - staked
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

/// Whether one look is so bad that it needs no further evidence: at least 5 bad requests and
/// `bad_share` (50 %) of all, while at most 10 % of stable's (or none at all) were bad. `share` is
/// the canary's share of requests, `None` where no stable traffic runs beside it.
///
/// Chance must be ruled out as well, by Chernoff's bound `exp(−n·KL(k/n ‖ p))` on the probability
/// of at least `k` of `n`:
/// - The objective alone would bring it in less than one look in a million. With "p50 ≤ 250 ms",
///   half of all requests *are* slow. At a budget of 1 %, 5 of 10 are enough (10⁻⁷); at 5 %, 8 of
///   16 may still be chance and 9 of 18 may not.
/// - In an outage that both versions share, so large a part of the bad requests would fall to the
///   canary in less than one such look in a thousand. With all of them the canary's, 3 are enough
///   for that at a weight of 10 %, 5 at 25 %, 10 at 50 %.
pub(super) fn trips_guard(look: &Observation, p0: f64, share: Option<f64>, bad_share: f64) -> bool {
    let Observation { canary, stable } = look;
    let all_bad = Tally::new(canary.bad.saturating_add(stable.bad), canary.bad);
    canary.bad >= GUARD_BAD
        && canary.bad_share() >= bad_share
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
