//! How many predictions make one independent one.
//!
//! Rows of one batch are alike, and a batch goes to one version as a whole: of 500 predictions of
//! one class that the canary gave, all may be one caller's. What shows it is how unevenly a class
//! falls to the canary from scrape to scrape: with `n_t` predictions of the class in scrape `t`,
//! the share `r_t` of them the canary's and `ρ` that of all scrapes,
//!
//! ```text
//! X² = Σ_class (N−1)/N · Σ_t n_t·(r_t − ρ)² / (ρ·(1−ρ))        df = Σ_class (T − 1)
//! ```
//!
//! has a mean of `df` if predictions are independent, and of `m·df` if they come `m` at a time: the
//! *design effect* (Kish 1965; for tests on counts, Rao and Scott 1981). Its own `ρ` for each class
//! keeps a lasting difference between the versions, which is what drift looks for, out of it. `X²`
//! of few scrapes is uncertain, so its upper confidence limit of 95 % is taken, by the quantile of
//! χ² after Wilson and Hilferty (1931).
//!
//! An estimate is no theorem: while rows are independent the limit is too high, which costs time,
//! and the guarantee holds; with batches it holds as far as the estimate does, and the tests play
//! that. What hangs together for longer than a scrape (a caller that always meets the same version)
//! is not seen by it.

use crate::evidence::Spread;

/// Degrees of freedom from which the effect is known: six scrapes of two classes.
const ENOUGH: f64 = 10.0;
/// The normal distribution's 5 % quantile.
const Z05: f64 = -1.645;

impl Spread {
    /// Whether nothing was taken in.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Begins a step.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes in what one scrape brought of a class, beside what was counted of it `before`: the
    /// canary's and stable's.
    pub(crate) fn take_in(&mut self, class: &str, before: (u64, u64), new: (u64, u64)) {
        let count = |(canary, stable): (u64, u64)| (canary as f64, canary as f64 + stable as f64);
        let ((canary, all), (new_canary, new_all)) = (count(before), count(new));
        if new_all <= 0.0 {
            return;
        }
        let known = self.0.entry(class.to_owned()).or_default();
        known.scrapes = known.scrapes.saturating_add(1);
        if all > 0.0 {
            // Welford's sum of squares, without the difference of two large numbers.
            let share = new_canary / new_all;
            let (mean, next) = (canary / all, (canary + new_canary) / (all + new_all));
            let squares = known.squares + new_all * (share - mean) * (share - next);
            // Nine digits come back from JSON as they were.
            known.squares = format!("{squares:.8e}").parse().unwrap_or(squares);
        }
    }

    /// How many predictions count as one, at most; `None` while that is not known. `counts` are
    /// each class's of the canary and of stable.
    pub(crate) fn effect<'a>(
        &self,
        counts: impl Iterator<Item = (&'a String, f64, f64)>,
    ) -> Option<f64> {
        let (mut squares, mut freedom) = (0.0, 0.0);
        for (class, canary, stable) in counts {
            let Some(known) = self.0.get(class) else {
                continue;
            };
            let all = canary + stable;
            if canary > 0.0 && stable > 0.0 && known.scrapes > 1 {
                let variance = canary / all * (stable / all);
                squares += (all - 1.0) / all * known.squares / variance;
                freedom += f64::from(known.scrapes - 1);
            }
        }
        if freedom < ENOUGH {
            return None;
        }
        let part = 2.0 / (9.0 * freedom);
        let least = freedom * (1.0 - part + Z05 * part.sqrt()).powi(3);
        Some((squares / least).max(1.0))
    }
}
