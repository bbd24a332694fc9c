//! Whether two versions predict their classes about as often.
//!
//! Given that a prediction is of class `j`, it is the canary's with probability `ρ`, the canary's
//! share of all predictions, for every class alike if both versions predict alike. The test bets that
//! each class has a probability of its own, spread around the declared weight `w` like
//! Beta(50·w, 50·(1−w)); `c` and `s` count the step's predictions of the canary and of stable:
//!
//! ```text
//! ln E = Σ_j lnB(50w + c_j, 50(1−w) + s_j) − lnB(50w, 50(1−w)) − c_j ln ρ − s_j ln(1−ρ)
//! ```
//!
//! The share really routed is not exactly the weight, so `ρ` is taken where it makes the counts
//! likeliest, `Σc/(Σc+Σs)`: the bet is measured against the best that "alike" can say (universal
//! inference: Wasserman, Ramdas and Balakrishnan 2020), and its chance ever to reach `x` stays at most
//! `1/x`. Weights change between steps, and what callers ask changes with the hour, so only predictions
//! of one step are compared; what the steps win multiplies. A share of 1/steps is staked at each step's
//! first look, so that a drift that begins late is found as well (Shin, Ramdas and Rinaldo 2022).
//!
//! Enough data proves the smallest difference, and a new model is meant to differ. So the gate fails
//! only where the difference matters as well: a population stability index (PSI) of at least `max`, or a
//! Jensen-Shannon divergence of at least `max`/10 bit (0.02 bit by default). A bare "PSI > 0.1" is a
//! false alarm in 40 % of samples of 100 requests over 10 classes.
//!
//! The premise is that predictions are independent. Batches of similar rows are not: a model that is
//! asked for 1,000 alike rows at a time should not be judged by this.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bound::ln_beta;
use super::evidence::nine_digits;
use super::sentence::{count, one_in, percent};
use super::{GatePolicy, GateVerdict, SUSPECT};

/// How many predictions each class's share is taken to have been seen in before.
const PRIOR: f64 = 50.0;
/// Most classes that are told apart; the rest is counted as one. Bounds the size of status.
const MOST_CLASSES: usize = 64;
/// The name of the rest.
const OTHERS: &str = "others";
/// How many bit of Jensen-Shannon divergence stand for one unit of PSI.
const BIT_PER_PSI: f64 = 0.1;
/// Added to each class's count, so that a class which one version never predicts has a finite distance.
const SMOOTHING: f64 = 0.5;

/// The memory of one such gate over one rollout. Its policy's `budget` is the largest PSI.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriftState {
    /// The canary's weight in this step, in percent.
    weight: u8,
    /// Evidence of the earlier steps, and what was staked for this one.
    playing: f64,
    /// The part of the evidence's unit that is not staked yet.
    kept: f64,
    /// Whether this step has had its stake.
    staked: bool,
    /// Whether the gate failed in this step.
    failed: bool,
    /// Predictions since the rollout began.
    predictions: u64,
    /// The step's predictions by class.
    canary: BTreeMap<String, u64>,
    stable: BTreeMap<String, u64>,
}

/// How far two versions' classes are apart, and the class that differs most.
#[derive(Clone, Debug, PartialEq)]
pub struct Distance {
    /// Population stability index.
    pub psi: f64,
    /// Jensen-Shannon divergence in bit.
    pub js: f64,
    /// The class that adds most to the PSI.
    pub class: String,
    /// Its share of the canary's predictions.
    pub canary: f64,
    /// Its share of stable's.
    pub stable: f64,
    /// How large the PSI of two versions that predict alike is on average.
    pub noise: f64,
}

/// What the evidence says.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftJudgement {
    /// What to do.
    pub verdict: GateVerdict,
    /// Evidence that the versions predict differently; 1 means none.
    pub evidence: f64,
    /// Whether a difference that matters is likely, though not proven.
    pub suspect: bool,
    /// How far apart they are in this step; `None` where one of them has predicted nothing.
    pub compared: Option<Distance>,
    /// The largest PSI allowed.
    pub max: f64,
    /// Predictions in this step, of the canary and of stable.
    pub predictions: (u64, u64),
    /// The canary's predictions that a step needs.
    pub needed: u64,
    /// Whether the canary has all traffic, so that there is nothing to compare with.
    pub alone: bool,
}

impl Default for DriftState {
    fn default() -> Self {
        Self::new()
    }
}

impl DriftState {
    /// The memory of a rollout that has not begun.
    pub fn new() -> Self {
        Self {
            weight: 0,
            playing: 0.0,
            kept: 1.0,
            staked: false,
            failed: false,
            predictions: 0,
            canary: BTreeMap::new(),
            stable: BTreeMap::new(),
        }
    }

    /// Whether no prediction was ever counted.
    pub fn is_empty(&self) -> bool {
        self.predictions == 0
    }

    /// Begins a step with `weight` percent of the traffic on the canary. Evidence carries over; a
    /// failure does not, since whoever goes on after one has overruled it.
    pub fn begin_step(&mut self, weight: u8) {
        self.playing = self.won();
        self.weight = weight;
        self.staked = false;
        self.failed = false;
        self.canary.clear();
        self.stable.clear();
    }

    /// Takes in the predictions that one scrape brought.
    pub fn observe(
        &mut self,
        canary: &BTreeMap<String, u64>,
        stable: &BTreeMap<String, u64>,
        policy: &GatePolicy,
    ) {
        if canary.is_empty() && stable.is_empty() {
            return;
        }
        if !self.staked {
            self.staked = true;
            let stake = (1.0 / f64::from(policy.steps.max(1))).min(self.kept);
            self.kept = nine_digits(self.kept - stake);
            self.playing = nine_digits(self.playing + stake);
        }
        let new = total(canary).saturating_add(total(stable));
        self.predictions = self.predictions.saturating_add(new);
        // The same classes on both sides, however many there are.
        let mut known: BTreeSet<String> = self
            .canary
            .keys()
            .chain(self.stable.keys())
            .cloned()
            .collect();
        for class in canary.keys().chain(stable.keys()) {
            if known.len() < MOST_CLASSES {
                known.insert(class.clone());
            }
        }
        for (counts, new) in [(&mut self.canary, canary), (&mut self.stable, stable)] {
            for (class, more) in new {
                let class = if known.contains(class) { class } else { OTHERS };
                let count = counts.entry(class.to_owned()).or_default();
                *count = count.saturating_add(*more);
            }
        }
        let distance = self.distance();
        let matters = distance.is_some_and(|distance| distance.reaches(policy.budget));
        self.failed |= matters && self.evidence() >= policy.fail_threshold();
    }

    /// What the evidence so far says.
    pub fn judge(&self, policy: &GatePolicy) -> DriftJudgement {
        let max = policy.budget;
        let evidence = self.evidence();
        let compared = self.distance();
        let predictions = (total(&self.canary), total(&self.stable));
        let matters = compared
            .as_ref()
            .is_some_and(|distance| distance.reaches(max));
        let suspect = matters && evidence >= SUSPECT;
        // Beyond what chance explains, as far as can be said without proof.
        let likely = compared
            .as_ref()
            .is_some_and(|distance| distance.beyond_noise(max));
        let alone = self.weight >= 100;
        let verdict = if self.failed {
            GateVerdict::Fail
        } else if alone
            || (compared.is_some() && predictions.0 >= policy.min_requests && !suspect && !likely)
        {
            GateVerdict::Pass
        } else {
            GateVerdict::NeedMoreData
        };
        DriftJudgement {
            verdict,
            evidence,
            suspect,
            compared,
            max,
            predictions,
            needed: policy.min_requests,
            alone,
        }
    }

    /// `E`: what the steps have won, and what has not been staked.
    fn evidence(&self) -> f64 {
        self.won() + self.kept
    }

    fn won(&self) -> f64 {
        // e^600 is finite, and far above where evidence is cut off.
        nine_digits(self.playing * self.log_ratio().min(600.0).exp())
    }

    /// `ln E` of this step.
    fn log_ratio(&self) -> f64 {
        let (canary, stable) = (total(&self.canary) as f64, total(&self.stable) as f64);
        if self.weight == 0 || self.weight >= 100 || canary == 0.0 || stable == 0.0 {
            return 0.0;
        }
        let weight = f64::from(self.weight) / 100.0;
        let (a, b) = (PRIOR * weight, PRIOR * (1.0 - weight));
        let (log_share, log_rest) = (
            (canary / (canary + stable)).ln(),
            (stable / (canary + stable)).ln(),
        );
        self.classes()
            .map(|(_, c, s)| ln_beta(a + c, b + s) - ln_beta(a, b) - c * log_share - s * log_rest)
            .sum()
    }

    /// How far the step's predictions are apart, once both versions have some.
    fn distance(&self) -> Option<Distance> {
        let (canary, stable) = (total(&self.canary), total(&self.stable));
        if canary == 0 || stable == 0 {
            return None;
        }
        let classes = self.classes().count() as f64;
        let share = |count: f64, all: u64| (count + SMOOTHING) / (all as f64 + SMOOTHING * classes);
        let mut distance = Distance {
            psi: 0.0,
            js: 0.0,
            class: String::new(),
            canary: 0.0,
            stable: 0.0,
            noise: (classes - 1.0) * (1.0 / canary as f64 + 1.0 / stable as f64),
        };
        let mut most = f64::NEG_INFINITY;
        for (class, c, s) in self.classes() {
            let (p, q) = (share(c, canary), share(s, stable));
            let psi = (p - q) * (p / q).ln();
            let middle = f64::midpoint(p, q);
            distance.psi += psi;
            distance.js += f64::midpoint(p * (p / middle).log2(), q * (q / middle).log2());
            if psi > most {
                most = psi;
                class.clone_into(&mut distance.class);
                (distance.canary, distance.stable) = (c / canary as f64, s / stable as f64);
            }
        }
        Some(distance)
    }

    /// Every class with its predictions of the canary and of stable.
    fn classes(&self) -> impl Iterator<Item = (&String, f64, f64)> {
        let names: BTreeSet<&String> = self.canary.keys().chain(self.stable.keys()).collect();
        let count = |counts: &BTreeMap<String, u64>, class: &String| {
            counts.get(class).copied().unwrap_or_default() as f64
        };
        names.into_iter().map(move |class| {
            (
                class,
                count(&self.canary, class),
                count(&self.stable, class),
            )
        })
    }
}

fn total(counts: &BTreeMap<String, u64>) -> u64 {
    counts
        .values()
        .fold(0, |sum, count| sum.saturating_add(*count))
}

impl Distance {
    /// Whether the difference matters, if it is one.
    fn reaches(&self, max: f64) -> bool {
        self.psi >= max || self.js >= max * BIT_PER_PSI
    }

    /// Whether it would matter without what chance adds on average. Close to 0 the divergence in bit is `PSI / (8 ln 2)`,
    /// and so is its noise.
    fn beyond_noise(&self, max: f64) -> bool {
        let noise = self.noise / (8.0 * std::f64::consts::LN_2);
        self.psi - self.noise >= max || self.js - noise >= max * BIT_PER_PSI
    }
}

impl DriftJudgement {
    /// The limit in words.
    pub fn limit(&self) -> String {
        format!(
            "PSI below {} and Jensen-Shannon divergence below {} bit",
            short(self.max),
            short(self.max * BIT_PER_PSI)
        )
    }

    /// The judgement in words.
    pub fn sentence(&self) -> String {
        let (canary, stable) = self.predictions;
        if self.alone && self.verdict == GateVerdict::Pass {
            return "At 100 % there are no predictions of stable to compare with.".to_owned();
        }
        let Some(distance) = &self.compared else {
            return format!(
                "{} canary predictions and {} of stable: nothing to compare yet.",
                count(canary),
                count(stable)
            );
        };
        let apart = format!(
            "PSI {} of {}, Jensen-Shannon divergence {} of {} bit",
            short(distance.psi),
            short(self.max),
            short(distance.js),
            short(self.max * BIT_PER_PSI),
        );
        let most = format!(
            "class \"{}\" is {} of the canary's {} predictions and {} of stable's {}",
            distance.class,
            percent(distance.canary),
            count(canary),
            percent(distance.stable),
            count(stable)
        );
        match self.verdict {
            GateVerdict::Fail => format!(
                "The predictions drifted: {most} ({apart}). The chance that two versions which predict alike \
                 look this different is under {}.",
                one_in(self.evidence)
            ),
            GateVerdict::Pass => format!("The predictions are alike ({apart}): {most}."),
            GateVerdict::NeedMoreData if self.suspect => format!(
                "The predictions may have drifted: {most} ({apart}); by chance under {}, which is not proof; holding.",
                one_in(self.evidence)
            ),
            GateVerdict::NeedMoreData if canary >= self.needed => {
                format!(
                    "The predictions look different, which is not proven: {most} ({apart}); holding."
                )
            }
            GateVerdict::NeedMoreData => format!(
                "Too few predictions to tell, {} at least: {most} ({apart}).",
                count(self.needed)
            ),
        }
    }
}

/// Two significant digits.
fn short(value: f64) -> String {
    if value <= 0.0 {
        return "0".to_owned();
    }
    let scale = 10_f64.powi(1 - value.log10().floor() as i32);
    let value = (value * scale).round() / scale;
    format!("{}", (value * 1e9).round() / 1e9)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn policy() -> GatePolicy {
        GatePolicy::new(0.2, 1, 4)
    }

    fn counts(counts: &[u64]) -> BTreeMap<String, u64> {
        (0..)
            .zip(counts)
            .map(|(class, n): (u32, _)| (class.to_string(), *n))
            .collect()
    }

    /// Draws of classes by a small generator of one's own: the same on every machine.
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

        fn draw(&mut self, shares: &[f64], predictions: u64) -> Vec<u64> {
            let mut drawn = vec![0; shares.len()];
            for _ in 0..predictions {
                let mut at = self.next();
                let class = shares.iter().position(|share| {
                    at -= share;
                    at < 0.0
                });
                drawn[class.unwrap_or(shares.len() - 1)] += 1;
            }
            drawn
        }
    }

    /// Plays steps of 10, 25, 50 and 100 %, 20 scrapes each; tells whether the gate ever failed.
    fn fails(seed: u64, canary: &[f64], stable: &[f64], per_scrape: u64) -> bool {
        let mut dice = Dice(seed.wrapping_mul(0x2545_F491_4F6C_DD1D));
        let mut state = DriftState::new();
        for weight in [10_u8, 25, 50, 100] {
            state.begin_step(weight);
            for _ in 0..20 {
                let to_canary = (0..per_scrape)
                    .filter(|_| dice.next() * 100.0 < f64::from(weight))
                    .count() as u64;
                let of_canary = counts(&dice.draw(canary, to_canary));
                let of_stable = counts(&dice.draw(stable, per_scrape - to_canary));
                state.observe(&of_canary, &of_stable, &policy());
                if state.judge(&policy()).verdict == GateVerdict::Fail {
                    return true;
                }
            }
        }
        false
    }

    #[test]
    fn versions_that_predict_alike_are_failed_in_less_than_one_rollout_of_a_hundred() {
        let ten = [0.1; 10];
        let two = [0.97, 0.03];
        for (shares, per_scrape) in [(&ten[..], 10), (&ten, 100), (&two, 10), (&two, 100)] {
            let failed = (0..500)
                .filter(|seed| fails(*seed, shares, shares, per_scrape))
                .count();
            assert!(failed <= 5, "{failed} of 500");
        }
    }

    #[test]
    fn a_bare_psi_would_alarm() {
        // What the proof is for: at 100 predictions of 10 classes, PSI alone exceeds 0.1 in most samples.
        let ten = [0.1; 10];
        let mut dice = Dice(1);
        let alarms = (0..200)
            .filter(|_| {
                let mut state = DriftState::new();
                state.begin_step(50);
                let (canary, stable) = (dice.draw(&ten, 100), dice.draw(&ten, 1000));
                state.observe(&counts(&canary), &counts(&stable), &policy());
                state.distance().unwrap().psi > 0.1
            })
            .count();
        assert!(alarms > 40, "{alarms} of 200");
    }

    #[test]
    fn a_version_that_predicts_otherwise_is_failed() {
        for (canary, stable) in [
            (&[0.5, 0.5][..], &[0.7, 0.3][..]),
            (&[0.2, 0.2, 0.2, 0.4], &[0.4, 0.2, 0.2, 0.2]),
            (&[1.0, 0.0], &[0.9, 0.1]),
        ] {
            let failed = (0..50)
                .filter(|seed| fails(*seed, canary, stable, 100))
                .count();
            assert_eq!(failed, 50, "{canary:?}");
        }
    }

    #[test]
    fn a_proven_difference_that_is_small_does_not_matter() {
        let mut state = DriftState::new();
        state.begin_step(50);
        state.observe(
            &counts(&[520_000, 480_000]),
            &counts(&[500_000, 500_000]),
            &policy(),
        );
        let judged = state.judge(&policy());
        assert!(judged.evidence >= 100.0);
        assert_eq!(judged.verdict, GateVerdict::Pass);
    }

    #[test]
    fn the_sentence_names_the_class_that_drifted() {
        let mut state = DriftState::new();
        state.begin_step(10);
        let canary = [("fraud".to_owned(), 130), ("none".to_owned(), 290)].into();
        let stable = [("fraud".to_owned(), 456), ("none".to_owned(), 3344)].into();
        state.observe(&canary, &stable, &policy());
        assert_eq!(
            state.judge(&policy()).sentence(),
            "The predictions drifted: class \"fraud\" is 31 % of the canary's 420 predictions and 12 % of stable's 3,800 \
             (PSI 0.23 of 0.2, Jensen-Shannon divergence 0.04 of 0.02 bit). The chance that two versions which predict \
             alike look this different is under 1 in 1,000,000."
        );
    }

    #[test]
    fn without_predictions_of_both_nothing_is_said() {
        let mut state = DriftState::new();
        state.begin_step(10);
        assert_eq!(state.judge(&policy()).verdict, GateVerdict::NeedMoreData);
        state.observe(&counts(&[100]), &counts(&[]), &policy());
        assert_eq!(state.judge(&policy()).verdict, GateVerdict::NeedMoreData);
        state.observe(&counts(&[]), &counts(&[1000]), &policy());
        assert_eq!(state.judge(&policy()).verdict, GateVerdict::Pass);
    }

    #[test]
    fn a_thousand_classes_stay_bounded() {
        let mut state = DriftState::new();
        state.begin_step(50);
        for scrape in 0..10 {
            let many: BTreeMap<String, u64> = (0..1000)
                .map(|i| (format!("{}", i * 7 + scrape), 1))
                .collect();
            state.observe(&many, &many, &policy());
        }
        assert!(state.canary.len() <= MOST_CLASSES + 1);
        assert_eq!(total(&state.canary), 10_000);
        let judged = state.judge(&policy());
        assert_eq!(judged.verdict, GateVerdict::Pass);
    }

    #[test]
    fn it_survives_status_in_the_middle_of_a_rollout() {
        let mut state = DriftState::new();
        for weight in [10, 50] {
            state.begin_step(weight);
            state.observe(&counts(&[30, 70]), &counts(&[33, 66]), &policy());
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<DriftState>(&json).unwrap(), state);
        }
    }
}
