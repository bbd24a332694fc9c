//! Whole rollouts, simulated: how often a good canary is rolled back, and how fast a bad one.

use super::policy::{GatePolicy, GateVerdict};
use crate::evidence::{GateState, Observation, Tally};

/// SplitMix64 (Steele, Lea and Flood 2014): the same requests on every machine.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// How many of `n` come true with probability `p`: jumps from one to the next.
    pub(super) fn binomial(&mut self, n: u64, p: f64) -> u64 {
        if p <= 0.0 {
            return 0;
        }
        if p >= 1.0 {
            return n;
        }
        let (mut hits, mut place) = (0, 0.0);
        loop {
            place += 1.0 + ((1.0 - self.uniform()).ln() / (-p).ln_1p()).floor();
            if place > n as f64 {
                return hits;
            }
            hits += 1;
        }
    }

    /// A look at `requests`, `weight` percent of them routed to the canary.
    fn look(&mut self, requests: u64, weight: u8, canary_bad: f64, stable_bad: f64) -> Observation {
        let canary = self.binomial(requests, f64::from(weight) / 100.0);
        let stable = requests - canary;
        Observation {
            canary: Tally::new(canary, self.binomial(canary, canary_bad)),
            stable: Tally::new(stable, self.binomial(stable, stable_bad)),
        }
    }
}

/// Share of rollouts, with 20 looks of 15 s at each weight, that one gate of `gates` fails.
fn failed_share(
    rollouts: u32,
    weights: &[u8],
    gates: u32,
    canary_bad: f64,
    stable_bad: f64,
) -> f64 {
    let policy = GatePolicy::new(0.01, gates, 4);
    let mut random = Random(7);
    let mut failed = 0;
    for rollout in 0..rollouts {
        // 0.2, 2 and 20 requests a second.
        let requests = [3, 30, 300][rollout as usize % 3];
        let mut state = GateState::new();
        'rollout: for weight in weights {
            state.begin_step(*weight);
            for _ in 0..20 {
                let look = random.look(requests, *weight, canary_bad, stable_bad);
                state.observe(&look, &policy);
                if state.fails(&policy) {
                    failed += 1;
                    break 'rollout;
                }
            }
        }
    }
    f64::from(failed) / f64::from(rollouts)
}

const STEPS: [u8; 4] = [10, 25, 50, 100];

#[test]
fn a_canary_that_just_keeps_its_objective_fails_in_at_most_one_percent_of_rollouts() {
    // The hardest case: stable makes no mistake at all, so the comparison gives no protection.
    let share = failed_share(10_000, &STEPS, 1, 0.01, 0.0);
    assert!(share <= 0.01, "{share}");
    // A test of the test: the gate does act in this simulation.
    assert!(failed_share(100, &STEPS, 1, 0.2, 0.0) > 0.6);
}

#[test]
fn a_canary_no_worse_than_a_bad_stable_fails_in_at_most_one_percent_of_rollouts() {
    // Far over the budget, so the objective gives no protection (below full weight); at 30 % a look
    // may also trip the hard guard by chance.
    for bad in [0.05, 0.3] {
        let share = failed_share(5_000, &[10, 25, 50, 50], 1, bad, bad);
        assert!(share <= 0.01, "{bad}: {share}");
    }
}

#[test]
fn the_upper_bound_covers_the_true_share_at_every_look() {
    let policy = GatePolicy::new(0.01, 1, 4);
    let bound = super::bound::BadShareBound::new(&policy);
    let mut random = Random(11);
    let rollouts = 2_000;
    for share in [0.002, 0.01, 0.04] {
        let mut missed = 0;
        for _ in 0..rollouts {
            let mut seen = Tally::default();
            let ever = (0..100).any(|_| {
                seen.add(Tally::new(30, random.binomial(30, share)));
                bound.excludes(seen, share)
            });
            missed += u32::from(ever);
        }
        let missed = f64::from(missed) / f64::from(rollouts);
        assert!(missed <= policy.beta, "{share}: {missed}");
    }
}

/// The looks until Fail, for the fastest 95 of 100 rollouts; objective 1 %, two gates, weight 10,
/// 300 requests a look (20 a second, scraped every 15 s).
fn looks_until_fail(canary_bad: f64) -> usize {
    let policy = GatePolicy::new(0.01, 2, 4);
    let mut random = Random(3);
    let mut looks: Vec<usize> = (0..1_000)
        .map(|_| {
            let mut state = GateState::new();
            state.begin_step(10);
            (1..=200)
                .find(|_| {
                    let look = random.look(300, 10, canary_bad, 0.001);
                    state.observe(&look, &policy);
                    state.judge(&policy, Some(25)).verdict == GateVerdict::Fail
                })
                .unwrap_or(usize::MAX)
        })
        .collect();
    looks.sort_unstable();
    looks[949]
}

#[test]
fn a_canary_that_fails_every_request_is_caught_by_the_first_look() {
    assert_eq!(looks_until_fail(1.0), 1);
}

#[test]
fn a_canary_with_a_fifth_of_its_requests_bad_is_caught_within_a_minute() {
    let looks = looks_until_fail(0.2);
    assert!(looks <= 4, "{looks} looks of 15 s");
}
