//! What must hold for every history of looks.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::bound::BadShareBound;
use super::tests::{after, at_weight, policy};
use super::*;
use crate::evidence::{Observation, Tally};

fn tallies(most: u64) -> impl Strategy<Value = Tally> {
    (0..=most, 0.0..=1.0_f64).prop_map(|(n, share)| {
        // Mostly few bad ones, sometimes all.
        Tally::new(n, (n as f64 * share.powi(6)).round() as u64)
    })
}

fn looks(most: u64) -> impl Strategy<Value = Observation> {
    (tallies(most), tallies(most)).prop_map(|(canary, stable)| Observation { canary, stable })
}

fn policies() -> impl Strategy<Value = GatePolicy> {
    let budget = prop_oneof![Just(0.01), 0.0..=1.0_f64, Just(1e-5)];
    (budget, 1..=5_u32, 1..=10_u32).prop_map(|(p0, gates, steps)| GatePolicy::new(p0, gates, steps))
}

proptest! {
    #[test]
    fn every_number_stays_finite_up_to_a_billion_requests_a_look(
        policy in policies(),
        history in prop::collection::vec(looks(1_000_000_000), 1..40),
        weight in 0..=100_u8,
    ) {
        let mut state = at_weight(weight);
        for look in &history {
            state.observe(look, &policy);
        }
        let judgement = state.judge(&policy, Some(weight));
        let evidence = [judgement.e_slo, judgement.e_rel, judgement.strongest];
        for number in evidence.into_iter().chain([judgement.upper_bound]) {
            prop_assert!(number.is_finite() && number >= 0.0, "{judgement:?}");
        }
        prop_assert!(judgement.upper_bound >= state.rollout().canary.bad_share() - 1e-12);
        let json = serde_json::to_string(&state).unwrap();
        // JSON has no NaN and no infinity: serde_json would write null.
        prop_assert!(!json.contains("null"), "{json}");
    }

    #[test]
    fn a_restart_at_any_moment_changes_nothing(
        policy in policies(),
        history in prop::collection::vec(looks(3_000), 1..60),
        restart in any::<prop::sample::Index>(),
        warm_up in 0..6_usize,
    ) {
        let (mut whole, mut restarted) = (at_weight(10), at_weight(10));
        let restart = restart.index(history.len());
        for (index, look) in history.iter().enumerate() {
            if index == restart {
                let json = serde_json::to_string(&restarted).unwrap();
                restarted = serde_json::from_str(&json).unwrap();
            }
            for state in [&mut whole, &mut restarted] {
                if index < warm_up {
                    state.warm_up(look, &policy);
                } else {
                    state.observe(look, &policy);
                }
            }
        }
        prop_assert_eq!(&whole, &restarted);
        prop_assert_eq!(whole.judge(&policy, Some(25)), restarted.judge(&policy, Some(25)));
    }

    #[test]
    fn more_bad_requests_never_turn_fail_into_pass(
        policy in policies(),
        history in prop::collection::vec(looks(300), 1..30),
        worse in any::<prop::sample::Index>(),
        turned_bad in 0..50_u64,
        added_bad in 0..50_u64,
    ) {
        let worse = worse.index(history.len());
        let (mut state, mut with_more) = (at_weight(10), at_weight(10));
        for (index, look) in history.iter().enumerate() {
            let mut more = *look;
            if index == worse {
                more.canary = Tally::new(
                    look.canary.requests + added_bad,
                    look.canary.bad + added_bad + turned_bad,
                );
            }
            state.observe(look, &policy);
            with_more.observe(&more, &policy);
            if state.judge(&policy, Some(25)).verdict == GateVerdict::Fail {
                let judgement = with_more.judge(&policy, Some(25));
                prop_assert_ne!(judgement.verdict, GateVerdict::Pass, "{:?}", judgement);
                break;
            }
        }
    }

    #[test]
    fn requests_that_turn_bad_never_weaken_the_evidence(
        history in prop::collection::vec(looks(300), 1..30),
        worse in any::<prop::sample::Index>(),
        turned_bad in 0..50_u64,
    ) {
        let policy = policy();
        let mut worse_history = history.clone();
        let look = worse.get(&history);
        let place = worse.index(history.len());
        worse_history[place].canary =
            Tally::new(look.canary.requests, look.canary.bad + turned_bad);
        let before = after(&history, &policy).judge(&policy, Some(25));
        let with_more = after(&worse_history, &policy).judge(&policy, Some(25));
        prop_assert!(with_more.e_slo >= before.e_slo * (1.0 - 1e-6));
        prop_assert!(with_more.e_rel >= before.e_rel * (1.0 - 1e-6));
        prop_assert!(with_more.upper_bound >= before.upper_bound * (1.0 - 1e-9));
    }

    #[test]
    fn a_warm_up_alone_never_fails_a_version_by_evidence_nor_lets_it_pass(
        policy in policies(),
        history in prop::collection::vec(looks(3_000), 1..30),
    ) {
        let mut state = at_weight(10);
        for look in &history {
            state.warm_up(look, &policy);
        }
        let judgement = state.judge(&policy, Some(25));
        prop_assert_ne!(judgement.verdict, GateVerdict::Pass);
        prop_assert!(judgement.verdict == GateVerdict::NeedMoreData || judgement.guard.is_some());
        // Nor does it with one good look: what it says is no more than one look's worth.
        state.observe(&Observation { canary: Tally::new(1, 0), stable: Tally::new(9, 0) }, &policy);
        let judgement = state.judge(&policy, Some(25));
        prop_assert!(judgement.verdict != GateVerdict::Fail || judgement.guard.is_some());
    }

    #[test]
    fn the_bound_parts_the_shares_in_two(
        tally in tallies(1_000_000),
        shares in prop::collection::vec(0.0..1.0_f64, 20),
        beta in 1e-4..0.5_f64,
    ) {
        let bound = BadShareBound::new(&GatePolicy { beta, ..policy() });
        let upper = bound.upper_bound(tally);
        prop_assert!(upper >= tally.bad_share());
        for share in shares {
            if (share - upper).abs() > 1e-9 && share > 0.0 {
                let excludes = bound.excludes(tally, share);
                prop_assert_eq!(excludes, share > upper, "{:?} {}", tally, share);
            }
        }
    }

    #[test]
    fn the_cheap_verdict_is_the_verdict(
        policy in policies(),
        history in prop::collection::vec(looks(3_000), 1..30),
        next in prop_oneof![Just(None), (1..=100_u8).prop_map(Some)],
    ) {
        let state = after(&history, &policy);
        let judgement = state.judge(&policy, next);
        prop_assert_eq!(state.verdict(&policy, next), judgement.verdict);
        prop_assert_eq!(state.is_suspect(), judgement.suspect);
        let passes = judgement.clean_requests_needed == Some(0) && !judgement.suspect;
        prop_assert_eq!(judgement.verdict == GateVerdict::Pass, passes && !state.fails(&policy));
    }

    #[test]
    fn a_verdict_agrees_with_its_numbers(
        policy in policies(),
        history in prop::collection::vec(looks(3_000), 1..30),
        next in prop_oneof![Just(None), (1..=100_u8).prop_map(Some)],
    ) {
        let judgement = after(&history, &policy).judge(&policy, next);
        match judgement.verdict {
            GateVerdict::Fail => prop_assert!(
                judgement.guard.is_some() || judgement.strongest >= judgement.fail_threshold
            ),
            GateVerdict::Pass => {
                let weight = f64::from(next.unwrap_or(100));
                prop_assert!(judgement.step.canary.requests >= 20);
                prop_assert!(judgement.e_slo < 20.0);
                prop_assert!(judgement.step.canary.bad_share() <= judgement.bound_needed + 1e-12);
                prop_assert!(
                    judgement.bound_needed >= 1.0
                        || weight / 100.0 * judgement.upper_bound <= judgement.budget * (1.0 + 1e-9)
                );
            }
            GateVerdict::NeedMoreData => prop_assert!(
                judgement.suspect || judgement.clean_requests_needed != Some(0)
            ),
        }
    }
}
