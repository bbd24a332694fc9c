#![allow(clippy::unwrap_used)]

use super::bound::BadShareBound;
use super::e_values::{
    Opens, RELATIVE_ALTERNATIVES, SLO_ALTERNATIVES, canary_share, log_ratios_to_past,
    log_relative_ratios, log_slo_ratios, look_cap, nine_digits, stake,
};
use super::*;
use crate::evidence::{GateState, Observation, Tally};

pub(crate) fn look(canary: (u64, u64), stable: (u64, u64)) -> Observation {
    Observation {
        canary: Tally::new(canary.1, canary.0),
        stable: Tally::new(stable.1, stable.0),
    }
}

/// The gate of a rollout 10 → 25 → 50 → 100 with an error and a latency objective, both 1 %.
pub(crate) fn policy() -> GatePolicy {
    GatePolicy::new(0.01, 2, 4)
}

pub(crate) fn at_weight(weight: u8) -> GateState {
    let mut state = GateState::new();
    state.begin_step(weight);
    state
}

/// The state after these looks at a weight of 10 %.
pub(crate) fn after(looks: &[Observation], policy: &GatePolicy) -> GateState {
    let mut state = at_weight(10);
    for look in looks {
        state.observe(look, policy);
    }
    state
}

pub(crate) fn close(actual: f64, expected: f64) {
    assert!(
        (actual - expected).abs() <= 1e-4 * expected.abs(),
        "{actual} is not {expected}"
    );
}

// --- the upper bound ---------------------------------------------------------------------------

#[test]
fn the_clean_requests_each_weight_needs_do_not_depend_on_the_number_of_gates() {
    // (gates, bad so far, for 25 %, for 50 %, for 100 %)
    for (gates, bad, at_25, at_50, at_100) in [
        (1, 0, 87, 175, 351),
        (2, 0, 87, 175, 351),
        (5, 0, 87, 175, 351),
        (2, 1, 153, 309, 620),
        (2, 2, 210, 422, 847),
    ] {
        let policy = GatePolicy::new(0.01, gates, 4);
        let bound = BadShareBound::new(&policy);
        for (weight, requests) in [(25, at_25), (50, at_50), (100, at_100)] {
            let share = policy.share_allowed_at(weight);
            let lacking = bound.clean_requests_until(Tally::new(bad, bad), share);
            assert_eq!(
                lacking,
                Some(requests - bad),
                "{gates} gates, {bad} bad, {weight} %"
            );
            assert!(bound.upper_bound(Tally::new(requests, bad)) <= share);
            assert!(bound.upper_bound(Tally::new(requests - 1, bad)) > share);
        }
    }
}

#[test]
fn no_errors_in_forty_requests_means_below_eight_and_a_half_percent() {
    let bound = BadShareBound::new(&policy());
    close(bound.upper_bound(Tally::new(40, 0)), 0.084_005);
    close(bound.upper_bound(Tally::new(900, 1)), 0.006_892_9);
    close(bound.upper_bound(Tally::new(100_160, 12)), 0.000_260_27);
}

#[test]
fn every_share_above_the_bound_is_excluded_and_none_below() {
    let bound = BadShareBound::new(&policy());
    for tally in [
        (1, 0),
        (3, 0),
        (40, 0),
        (40, 1),
        (40, 20),
        (40, 39),
        (900, 9),
        (10_000, 1),
    ] {
        let tally = Tally::new(tally.0, tally.1);
        let upper = bound.upper_bound(tally);
        for step in 1..1_000 {
            let share = f64::from(step) / 1_000.0;
            if (share - upper).abs() > 1e-9 {
                assert_eq!(
                    bound.excludes(tally, share),
                    share > upper,
                    "{tally:?} {share}"
                );
            }
        }
    }
}

#[test]
fn without_requests_and_with_bad_ones_only_nothing_is_excluded() {
    let bound = BadShareBound::new(&policy());
    close(bound.upper_bound(Tally::default()), 1.0);
    close(bound.upper_bound(Tally::new(1_000_000, 1_000_000)), 1.0);
}

#[test]
fn a_billion_requests_pin_the_share_down() {
    let bound = BadShareBound::new(&policy());
    let upper = bound.upper_bound(Tally::new(1_000_000_000, 5_000_000));
    assert!(upper > 0.005 && upper < 0.005_02, "{upper}");
    let upper = bound.upper_bound(Tally::new(1_000_000_000, 0));
    assert!(upper > 0.0 && upper < 2e-8, "{upper}");
}

#[test]
fn a_share_that_is_kept_by_nobody_is_out_of_reach() {
    let bound = BadShareBound::new(&policy());
    let half_bad = Tally::new(2_000_000_000, 1_000_000_000);
    assert_eq!(bound.clean_requests_until(half_bad, 0.01), None);
}

// --- the evidence ------------------------------------------------------------------------------

#[test]
fn likelihood_ratios_match_hand_worked_numbers() {
    // 6 bad of 30 at a budget of 1 %: m = 15 is p1 = 15 %, 15⁶·(0.85/0.99)²⁴ = 11.39e6·0.02575.
    let ratios = log_slo_ratios(Tally::new(30, 6), 0.01);
    close(ratios[3].exp(), 293_330.4);
    // m = 1.8: 1.8⁶·(0.982/0.99)²⁴
    close(ratios[0].exp(), 27.994_07);

    // 2 canary and 1 stable bad at a share of 10 %: ω = 5 has d = 1.4, (5/1.4)²/1.4.
    let ratios = log_relative_ratios(&look((2, 10), (1, 90)), 0.1);
    close(ratios[1].exp(), 9.110_787);
}

#[test]
fn the_parts_of_the_unit_sum_up_to_it() {
    close(SLO_ALTERNATIVES.iter().map(|(_, part)| part).sum(), 1.0);
    close(
        RELATIVE_ALTERNATIVES.iter().map(|(_, part)| part).sum(),
        1.0,
    );
}

#[test]
fn at_full_weight_a_canary_is_held_to_the_budget_or_to_what_a_bad_stable_had() {
    let canary = Tally::new(1_000, 30);
    let to_budget = log_ratios_to_past(canary, Tally::default(), 0.01);
    // Stable kept its objective: m = 2 is 2 % against 1 %, 2³⁰·(0.98/0.99)⁹⁷⁰.
    close(
        to_budget[0],
        30.0 * 2.0_f64.ln() + 970.0 * (0.98_f64 / 0.99).ln(),
    );
    for good in [(0, 5), (1, 400), (9, 1_000)] {
        let stable = look((0, 0), good).stable;
        close(log_ratios_to_past(canary, stable, 0.01)[0], to_budget[0]);
    }
    // 23 bad of 774: (23 + 2·√24 + 2) / 974 = 3.57 %, and the canary's 3 % are no evidence.
    let to_stable = log_ratios_to_past(canary, Tally::new(774, 23), 0.01);
    let p = (25.0 + 2.0 * 24.0_f64.sqrt()) / 974.0;
    let expected = 30.0 * 2.0_f64.ln() + 970.0 * ((1.0 - 2.0 * p) / (1.0 - p)).ln();
    close(to_stable[0], expected);
    assert!(expected < 0.0);
}

#[test]
fn the_share_of_the_canary_follows_busy_looks_and_distrusts_small_ones() {
    let nothing = Observation::default();
    close(
        canary_share(&look((0, 0), (0, 3)), &nothing, 10),
        20.0 / 203.0,
    );
    close(
        canary_share(&look((0, 3), (0, 0)), &nothing, 10),
        23.0 / 203.0,
    );
    // 12,000 requests, 11 % of them the canary's.
    let busy = look((0, 1_320), (0, 10_680));
    close(canary_share(&busy, &nothing, 10), 1_340.0 / 12_200.0);
    // The usual share is that of the step's earlier looks: (30 + 5)/(150 + 50) instead of 10 %.
    let earlier = look((0, 30), (0, 120));
    close(
        canary_share(&look((0, 0), (0, 100)), &earlier, 10),
        35.0 / 300.0,
    );
}

#[test]
fn stakes_never_exceed_the_unit() {
    let mut staked = 0.0;
    for t in 1..=100_000 {
        // Three more steps than announced.
        let opens = if t % 100 == 1 && t < 700 {
            Opens::Step
        } else {
            Opens::Nothing
        };
        staked += stake(t, opens, 4, staked);
    }
    assert!(staked <= 1.0 && staked > 0.999, "{staked}");
    close(stake(1, Opens::Step, 4, 0.0), 0.5 + 0.1);
    close(stake(2, Opens::Nothing, 4, 0.6), 0.2 / 6.0);
    close(stake(21, Opens::Step, 4, 0.7), 0.1 + 0.2 / 462.0);
    close(stake(61, Opens::LoneStep, 4, 0.9), 0.02 + 0.2 / 3_782.0);
}

/// `ln P(k of n)`.
fn ln_binomial(n: u64, k: u64, p: f64) -> f64 {
    let (n, k) = (n as f64, k as f64);
    libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0)
        + k * p.ln()
        + (n - k) * (-p).ln_1p()
}

#[test]
fn the_objectives_evidence_has_a_mean_of_at_most_one_while_the_objective_is_kept() {
    for p0 in [0.001, 0.01, 0.05, 0.5, 0.9, 0.96] {
        for (n, share_of_budget) in [(1, 1.0), (30, 1.0), (30, 0.5), (400, 1.0), (400, 0.9)] {
            let mut means = [0.0; SLO_ALTERNATIVES.len()];
            for k in 0..=n {
                let log_chance = ln_binomial(n, k, p0 * share_of_budget);
                let ratios = log_slo_ratios(Tally::new(n, k), p0);
                for (mean, ratio) in means.iter_mut().zip(ratios) {
                    *mean += (log_chance + ratio).exp();
                }
            }
            for mean in means {
                assert!(mean <= 1.0 + 1e-9, "p0 {p0}, n {n}: {mean}");
                if share_of_budget >= 1.0 {
                    close(mean, 1.0);
                }
            }
        }
    }
}

#[test]
fn the_comparison_has_a_mean_of_at_most_one_while_both_versions_are_equally_good_or_bad() {
    for (weight, n) in [(10, 3), (10, 30), (25, 300), (50, 100), (50, 1_000)] {
        let routed = f64::from(weight) / 100.0;
        for p in [0.001, 0.01, 0.1, 0.5] {
            for (index, (factor, _)) in RELATIVE_ALTERNATIVES.into_iter().enumerate() {
                let mut mean = 0.0;
                for nc in 0..=n {
                    let requests = look((0, nc), (0, n - nc));
                    let share = canary_share(&requests, &Observation::default(), weight);
                    // The mean over each version's bad requests has a closed form: one request
                    // each, bad or not, to the power of their number.
                    let of_one = |bad: Observation| log_relative_ratios(&bad, share)[index].exp();
                    let canary = 1.0 + p * (of_one(look((1, 1), (0, 0))) - 1.0);
                    let stable = 1.0 + p * (of_one(look((0, 0), (1, 1))) - 1.0);
                    mean += ln_binomial(n, nc, routed).exp()
                        * canary.powf(nc as f64)
                        * stable.powf((n - nc) as f64);
                }
                assert!(
                    mean <= 1.0 + 1e-9,
                    "{weight} %, {n}, {p}, ω {factor}: {mean}"
                );
            }
        }
    }
}

#[test]
fn nine_digits_survive_json_exactly() {
    for value in [
        1.0 / 3.0,
        1e8 / 7.0,
        1.234_567_890_123e-12,
        0.187_5,
        1e9,
        99_999_999.96,
    ] {
        let kept = nine_digits(value);
        let json = serde_json::to_string(&kept).unwrap();
        assert_eq!(
            serde_json::from_str::<f64>(&json).unwrap().to_bits(),
            kept.to_bits()
        );
        assert!(json.len() <= 14, "{json}");
        assert_eq!(nine_digits(kept).to_bits(), kept.to_bits());
    }
    close(nine_digits(1e-13), 0.0);
    close(nine_digits(f64::INFINITY), 1e8);
}

// --- Fail --------------------------------------------------------------------------------------

#[test]
fn two_looks_full_of_errors_do_not_fail_a_fresh_rollout_by_evidence_but_three_do() {
    let all_bad = |gates| look_cap(&GatePolicy::new(0.01, gates, 4), Tally::new(9, 9), 0.01);
    close(all_bad(2), 18.183_96);
    close(all_bad(5), 20.0);
    for (gates, steps) in [(1, 1), (1, 4), (2, 1), (2, 4), (4, 10)] {
        let policy = GatePolicy::new(0.01, gates, steps);
        // 45 % bad: below the hard guard.
        let awful = look((900, 2_000), (0, 18_000));
        let two = after(&[awful; 2], &policy).judge(&policy, Some(25));
        assert_eq!(
            two.verdict,
            GateVerdict::NeedMoreData,
            "{gates} gates: {two:?}"
        );
        assert!(two.suspect);
        let three = after(&[awful; 3], &policy).judge(&policy, Some(25));
        assert_eq!(three.verdict, GateVerdict::Fail, "{gates} gates: {three:?}");
    }
    // By hand: ((0.6·18.18) + 0.0333)·18.18 for each alternative, and what is not staked.
    let two = after(&[look((900, 2_000), (0, 18_000)); 2], &policy()).judge(&policy(), Some(25));
    close(two.e_slo, 199.0 + 0.366_667);
}

#[test]
fn one_look_is_worth_its_bad_share_in_budgets_within_limits() {
    let cap = |bad| look_cap(&policy(), Tally::new(100, bad), 0.01);
    close(cap(8), 8.0);
    close(cap(20), 18.183_96);
    // Three looks at the least of it just don't fail a fresh rollout: ((0.6·c + 0.033)·c + 0.017)·c
    // = 199.
    close(cap(0), cap(6));
    let c = cap(0);
    close(((0.6 * c + 0.2 / 6.0) * c + 0.2 / 12.0) * c, 199.0);
}

#[test]
fn a_burst_of_half_a_minute_does_not_fail_a_step_however_it_lies_and_a_failure_like_it_does() {
    let policy = policy();
    // 8 % of 300 requests a look: the three looks that a burst of 30 s touches, at each second of a
    // scrape.
    let parts = (0..15).map(|second| {
        let share = |seconds: u64| (24 * seconds).div_ceil(15);
        [share(15 - second), share(15), share(second)]
    });
    for parts in parts {
        let mut burst = parts.map(|bad| look((bad, 300), (3, 2_700))).to_vec();
        burst.extend([look((0, 300), (3, 2_700)); 20]);
        let state = after(&burst, &policy);
        assert!(!state.fails(&policy), "{parts:?}");
        assert!(!state.is_suspect());
    }
    let lasting = after(&[look((24, 300), (3, 2_700)); 3], &policy);
    assert!(lasting.fails(&policy));
}

#[test]
fn the_hard_guard_needs_five_bad_half_bad_and_a_good_stable() {
    for (case, p0, weight, trips) in [
        // All bad at 20 requests a second, weight 10, scraped every 15 s.
        (look((30, 30), (0, 270)), 0.01, 10, true),
        (look((5, 10), (0, 90)), 0.01, 10, true),
        (look((5, 5), (0, 0)), 0.01, 10, true), // no stable requests
        (look((4, 4), (0, 90)), 0.01, 10, false),
        (look((5, 11), (0, 90)), 0.01, 10, false),
        (look((50, 100), (90, 900)), 0.01, 10, true), // 10 % of stable's are bad
        (look((50, 100), (91, 900)), 0.01, 10, false),
        (look((5, 10), (2, 20)), 0.01, 10, false), // five of seven may be the canary's by chance
        // Half of the requests over the median is what the objective allows.
        (look((500, 1_000), (0, 900)), 0.5, 10, false),
        (look((8, 16), (0, 144)), 0.05, 10, false),
        (look((9, 18), (0, 162)), 0.05, 10, true),
        // At half of the traffic nine bad requests may all be the canary's by chance (1 in 512).
        (look((9, 9), (0, 9)), 0.01, 50, false),
        (look((10, 10), (0, 10)), 0.01, 50, true),
        // At full weight no other version shares an outage.
        (look((5, 10), (0, 0)), 0.01, 100, true),
    ] {
        let policy = GatePolicy::new(p0, 2, 4);
        let mut state = at_weight(weight);
        state.observe(&case, &policy);
        let guard = state.judge(&policy, Some(100)).guard;
        assert_eq!(
            guard,
            trips.then_some(case),
            "{case:?} of {p0} at {weight} %"
        );
        assert_eq!(
            trips,
            state.fails(&policy),
            "one look fails by the guard only"
        );
    }
}

#[test]
fn a_failure_is_kept_through_later_looks_until_the_next_step() {
    let policy = policy();
    let by_guard = vec![look((30, 30), (0, 270))];
    let by_evidence = vec![look((90, 300), (0, 2_700)); 3];
    for (bad, guarded) in [(by_guard, true), (by_evidence, false)] {
        let mut state = after(&bad, &policy);
        for _ in 0..200 {
            state.observe(&look((0, 3_000), (0, 27_000)), &policy);
        }
        let judgement = state.judge(&policy, Some(25));
        assert_eq!(judgement.verdict, GateVerdict::Fail);
        assert_eq!(judgement.guard.is_some(), guarded);
        assert!(judgement.e_slo < 1.0);
        state.begin_step(25);
        let next = state.judge(&policy, Some(50));
        assert_eq!(next.verdict, GateVerdict::NeedMoreData);
    }
}

#[test]
fn a_canary_as_bad_as_stable_is_held_and_not_rolled_back() {
    let policy = policy();
    let state = after(&[look((9, 300), (81, 2_700)); 40], &policy);
    let judgement = state.judge(&policy, Some(25));
    assert_eq!(judgement.verdict, GateVerdict::NeedMoreData);
    assert!(judgement.suspect && judgement.e_slo > 200.0 && judgement.e_rel < 2.0);
}

#[test]
fn at_full_weight_a_burst_of_four_looks_does_not_fail_and_a_fifth_does() {
    let policy = policy();
    let mut state = after(&[look((0, 3_000), (0, 27_000)); 20], &policy);
    state.begin_step(100);
    let burst = look((240, 3_000), (0, 0));
    for _ in 0..4 {
        state.observe(&burst, &policy);
        assert_eq!(
            state.judge(&policy, None).verdict,
            GateVerdict::NeedMoreData
        );
    }
    let mut over = state.clone();
    state.observe(&burst, &policy);
    assert_eq!(state.judge(&policy, None).verdict, GateVerdict::Fail);
    for _ in 0..40 {
        over.observe(&look((0, 3_000), (0, 0)), &policy);
    }
    assert!(!over.fails(&policy) && !over.is_suspect());
}

#[test]
fn at_full_weight_a_canary_that_is_as_bad_as_stable_was_is_held() {
    let policy = policy();
    for (stable, verdict) in [
        (look((0, 0), (600, 20_000)), GateVerdict::NeedMoreData),
        (look((0, 0), (20, 20_000)), GateVerdict::Fail),
    ] {
        let mut state = at_weight(50);
        state.observe(&stable, &policy);
        state.begin_step(100);
        for _ in 0..100 {
            state.observe(&look((9, 300), (0, 0)), &policy);
        }
        assert_eq!(state.judge(&policy, None).verdict, verdict, "{stable:?}");
    }
}

#[test]
fn slow_first_answers_are_one_look_and_fade() {
    let policy = policy();
    let slow = look((9, 30), (1, 270));
    let mut state = at_weight(10);
    for _ in 0..4 {
        assert!(state.is_new());
        state.warm_up(&slow, &policy);
    }
    assert_eq!(state.rollout().requests(), 0);
    let mut still_slow = state.clone();
    for _ in 0..20 {
        state.observe(&look((0, 30), (1, 270)), &policy);
        assert!(!state.fails(&policy) && !state.is_suspect());
    }
    assert_eq!(state.rollout().canary, Tally::new(600, 0));
    // The first minute and one bad look after it are enough for one that stays slow.
    still_slow.observe(&slow, &policy);
    assert!(still_slow.fails(&policy));
}

#[test]
fn the_hard_guard_is_on_while_a_version_warms_up() {
    for (bad, fails) in [(30, true), (27, true), (26, false)] {
        let mut state = at_weight(10);
        state.warm_up(&look((bad, 30), (0, 270)), &policy());
        assert_eq!(state.fails(&policy()), fails, "{bad} of 30");
    }
}

// --- Pass and NeedMoreData ---------------------------------------------------------------------

#[test]
fn the_canary_passes_with_the_request_that_completes_the_proof() {
    let policy = policy();
    let before = after(&[look((0, 86), (0, 774))], &policy).judge(&policy, Some(25));
    assert_eq!(before.verdict, GateVerdict::NeedMoreData);
    assert_eq!(before.clean_requests_needed, Some(1));
    let with = after(&[look((0, 87), (0, 783))], &policy).judge(&policy, Some(25));
    assert_eq!(with.verdict, GateVerdict::Pass);
    assert_eq!(with.clean_requests_needed, Some(0));
}

#[test]
fn each_step_needs_twenty_requests_of_its_own() {
    let policy = policy();
    let mut state = after(&[look((0, 5_000), (0, 45_000))], &policy);
    state.begin_step(25);
    state.observe(&look((0, 19), (0, 57)), &policy);
    let judgement = state.judge(&policy, Some(50));
    assert_eq!(judgement.verdict, GateVerdict::NeedMoreData);
    assert_eq!(judgement.clean_requests_needed, Some(1));
    state.observe(&look((0, 1), (0, 3)), &policy);
    assert_eq!(state.judge(&policy, Some(50)).verdict, GateVerdict::Pass);
}

#[test]
fn promotion_needs_what_full_weight_needs() {
    let policy = policy();
    for (requests, verdict) in [(350, GateVerdict::NeedMoreData), (351, GateVerdict::Pass)] {
        let mut state = at_weight(100);
        state.observe(&look((0, requests), (0, 0)), &policy);
        assert_eq!(state.judge(&policy, None).verdict, verdict);
    }
}

#[test]
fn a_good_past_does_not_hide_a_bad_step() {
    let policy = policy();
    let mut state = after(&[look((0, 100_000), (0, 900_000))], &policy);
    state.begin_step(25);
    state.observe(&look((9, 100), (0, 300)), &policy);
    state.observe(&look((3, 60), (0, 180)), &policy);
    let judgement = state.judge(&policy, Some(50));
    // The bound over the whole rollout is low and the evidence not yet suspicious…
    assert!(judgement.upper_bound < 0.001 && !judgement.suspect);
    // …but half of the traffic may have 2 % bad requests, and 12 of 160 are 7.5 %.
    assert_eq!(judgement.verdict, GateVerdict::NeedMoreData);
    assert_eq!(judgement.clean_requests_needed, Some(12 * 50 - 160));

    // Suspicion holds the canary even where its share fits: 2.5 % where 25 % of the traffic may
    // have 4.
    let state = after(&[look((100, 4_000), (0, 36_000)); 3], &policy);
    let judgement = state.judge(&policy, Some(25));
    assert!(judgement.suspect && judgement.clean_requests_needed == Some(0));
    assert_eq!(judgement.verdict, GateVerdict::NeedMoreData);
}

#[test]
fn an_empty_look_changes_nothing() {
    let policy = policy();
    let mut state = after(&[look((1, 40), (2, 360))], &policy);
    let before = state.clone();
    state.observe(&Observation::default(), &policy);
    assert_eq!(state, before);
}
