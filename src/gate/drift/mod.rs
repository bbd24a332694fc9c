//! Whether two versions predict their classes about as often.
//!
//! Given that a prediction is of class `j`, it is the canary's with probability `ρ`, the canary's
//! share of all predictions, for every class alike if both versions predict alike. The test bets
//! that each class has a probability of its own, spread around the declared weight `w` like
//! Beta(50·w, 50·(1−w)); `c` and `s` count the step's predictions of the canary and of stable:
//!
//! ```text
//! ln E = Σ_j lnB(50w + c_j, 50(1−w) + s_j) − lnB(50w, 50(1−w)) − c_j ln ρ − s_j ln(1−ρ)
//! ```
//!
//! The share really routed is not exactly the weight, so `ρ` is taken where it makes the counts
//! likeliest, `Σc/(Σc+Σs)`: the bet is measured against the best that "alike" can say (universal
//! inference: Wasserman, Ramdas and Balakrishnan 2020), and its chance ever to reach `x` stays at
//! most `1/x`. Weights change between steps, and what callers ask changes with the hour, so only
//! predictions of one step are compared; what the steps win multiplies. A share of 1/steps is
//! staked at each step's first look, so that a drift that begins late is found as well (Shin,
//! Ramdas and Rinaldo 2022).
//!
//! Enough data proves the smallest difference, and a new model is meant to differ. So the gate
//! fails only where the difference matters as well: a population stability index (PSI) of at least
//! `max`, or a Jensen-Shannon divergence of at least `max`/10 bit (0.02 bit by default). A bare
//! "PSI > 0.1" is a false alarm in 40 % of samples of 100 requests over 10 classes.
//!
//! The premise is that predictions are independent. Rows of one batch are not: so `c` and `s` are
//! divided by how many predictions make one independent one, which `spread.rs` estimates from how
//! they vary between scrapes.

mod spread;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::bound::ln_beta;
use super::e_values::nine_digits;
use super::policy::{GatePolicy, GateVerdict, SUSPECT};
use crate::evidence::{DriftState, Spread};

/// How many predictions each class's share is taken to have been seen in before.
const PRIOR: f64 = 50.0;
/// Most classes that are counted each; the rest is counted as one. Bounds the size of status.
const MOST_CLASSES: usize = 64;
/// The name of the rest.
const OTHERS: &str = "others";
/// How many bit of Jensen-Shannon divergence stand for one unit of PSI.
pub(crate) const BIT_PER_PSI: f64 = 0.1;
/// Added to each class's count, so that a class which one version never predicts has a finite
/// distance.
const SMOOTHING: f64 = 0.5;

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
    /// How many predictions count as one, at most; `None` while that is not known.
    pub effect: Option<f64>,
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
            spread: Spread::default(),
        }
    }

    /// Whether no prediction was ever counted.
    pub fn is_empty(&self) -> bool {
        self.predictions == 0
    }

    /// Begins a step with `weight` percent of the traffic on the canary. Evidence carries over; a
    /// failure does not, since continuing after one overrules it.
    pub fn begin_step(&mut self, weight: u8) {
        self.playing = self.won();
        self.weight = weight;
        self.staked = false;
        self.failed = false;
        self.canary.clear();
        self.stable.clear();
        self.spread.clear();
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
        let mut new: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        let named = |class: &'_ String| known.contains(class);
        for (class, more) in canary {
            let class = if named(class) { class } else { OTHERS };
            let count = &mut new.entry(class).or_default().0;
            *count = count.saturating_add(*more);
        }
        for (class, more) in stable {
            let class = if named(class) { class } else { OTHERS };
            let count = &mut new.entry(class).or_default().1;
            *count = count.saturating_add(*more);
        }
        for (class, more) in new {
            let of_canary = self.canary.entry(class.to_owned()).or_default();
            let of_stable = self.stable.entry(class.to_owned()).or_default();
            self.spread.take_in(class, (*of_canary, *of_stable), more);
            *of_canary = of_canary.saturating_add(more.0);
            *of_stable = of_stable.saturating_add(more.1);
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
            effect: self.effect(),
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

    /// How many predictions count as one; `None` while that is not known.
    fn effect(&self) -> Option<f64> {
        self.spread.effect(self.classes())
    }

    /// `ln E` of this step.
    fn log_ratio(&self) -> f64 {
        let (canary, stable) = (total(&self.canary) as f64, total(&self.stable) as f64);
        if self.weight == 0 || self.weight >= 100 || canary == 0.0 || stable == 0.0 {
            return 0.0;
        }
        let Some(effect) = self.effect() else {
            return 0.0; // no bet
        };
        let weight = f64::from(self.weight) / 100.0;
        let (a, b) = (PRIOR * weight, PRIOR * (1.0 - weight));
        let (log_share, log_rest) = (
            (canary / (canary + stable)).ln(),
            (stable / (canary + stable)).ln(),
        );
        self.classes()
            .map(|(_, c, s)| (c / effect, s / effect))
            .map(|(c, s)| ln_beta(a + c, b + s) - ln_beta(a, b) - c * log_share - s * log_rest)
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
            noise: self.effect().unwrap_or(1.0)
                * (classes - 1.0)
                * (1.0 / canary as f64 + 1.0 / stable as f64),
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

    /// Whether it would matter without what chance adds on average. Close to 0 the divergence in
    /// bit is `PSI / (8 ln 2)`, and so is its noise.
    fn beyond_noise(&self, max: f64) -> bool {
        let noise = self.noise / (8.0 * std::f64::consts::LN_2);
        self.psi - self.noise >= max || self.js - noise >= max * BIT_PER_PSI
    }
}
