//! From scores to the next token.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::num::NonZero;

/// How the next token is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token; 1 draws as the model says; more draws more evenly.
    pub temperature: f32,
    /// Draws only from the likeliest tokens whose probabilities add up to this share; 1 from all.
    pub top_p: f32,
    /// Draws only from so many of the likeliest tokens; none from all.
    pub top_k: Option<NonZero<usize>>,
    /// Subtracted from a token's score for each time that it was generated.
    pub frequency_penalty: f32,
    /// Subtracted from a token's score once it was generated.
    pub presence_penalty: f32,
    /// The same seed gives the same text.
    pub seed: u64,
}

impl Default for Sampling {
    /// The likeliest text.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: None,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: 0,
        }
    }
}

/// Draws the tokens of one text.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    state: u64,
    counts: HashMap<u32, u32>,
    candidates: Vec<(f32, u32)>,
}

/// Candidates less likely than this are looked at only if the others do not add up to `top_p`:
/// sorting all 49,152 takes milliseconds, the few hundred that are left microseconds.
const LIKELY: f32 = 1e-4;

impl Sampler {
    /// A sampler at the beginning of a text.
    pub fn new(sampling: Sampling) -> Self {
        Self {
            state: sampling.seed,
            sampling,
            counts: HashMap::new(),
            candidates: Vec::new(),
        }
    }

    /// The next token. `scores` has one number for each token, and is used up; None where one is
    /// not finite.
    pub fn next(&mut self, scores: &mut [f32]) -> Option<u32> {
        if !scores.iter().all(|score| score.is_finite()) {
            return None;
        }
        for (token, count) in &self.counts {
            if let Some(score) = scores.get_mut(*token as usize) {
                *score -= self.sampling.presence_penalty
                    + self.sampling.frequency_penalty * *count as f32;
            }
        }
        let token = if self.sampling.temperature == 0.0 {
            largest(scores)
        } else {
            self.draw(scores)
        };
        if self.sampling.presence_penalty != 0.0 || self.sampling.frequency_penalty != 0.0 {
            *self.counts.entry(token).or_default() += 1;
        }
        Some(token)
    }

    fn draw(&mut self, scores: &mut [f32]) -> u32 {
        let most = scores
            .iter()
            .fold(f32::NEG_INFINITY, |most, score| most.max(*score));
        let mut total = 0.0;
        for score in scores.iter_mut() {
            *score = ((*score - most) / self.sampling.temperature).exp();
            total += *score;
        }
        if let Some(most) = self.sampling.top_k
            && most.get() < scores.len()
        {
            total = self.keep_likeliest(most.get(), scores);
        }
        let wanted = self.sampling.top_p * total;
        let share = self.uniform();
        if self.sampling.top_p >= 1.0 {
            return pick(scores.iter().copied().zip(0..), share * total);
        }
        for threshold in [LIKELY * total, 0.0] {
            self.candidates.clear();
            let candidates = scores.iter().copied().zip(0..);
            self.candidates
                .extend(candidates.filter(|(weight, _)| *weight >= threshold));
            self.candidates
                .sort_unstable_by(|left, right| by_likelihood(*left, *right));
            let mut sum = 0.0;
            let enough = self.candidates.iter().position(|(weight, _)| {
                sum += weight;
                sum >= wanted
            });
            if let Some(last) = enough {
                self.candidates.truncate(last + 1);
                return pick(self.candidates.iter().copied(), share * sum);
            }
        }
        // The sum of all, in another order, can be a rounding below the total.
        let sum = self
            .candidates
            .iter()
            .map(|(weight, _)| weight)
            .sum::<f32>();
        pick(self.candidates.iter().copied(), share * sum)
    }

    /// Makes the weights of all but so many of the likeliest tokens zero; the sum of the others.
    fn keep_likeliest(&mut self, most: usize, weights: &mut [f32]) -> f32 {
        self.candidates.clear();
        self.candidates.extend(weights.iter().copied().zip(0..));
        self.candidates
            .select_nth_unstable_by(most - 1, |left, right| by_likelihood(*left, *right));
        self.candidates.truncate(most);
        weights.fill(0.0);
        let mut total = 0.0;
        for (weight, token) in &self.candidates {
            weights[*token as usize] = *weight;
            total += weight;
        }
        total
    }

    /// From 0 up to 1, without 1. SplitMix64 of Steele, Lea and Flood (OOPSLA 2014).
    fn uniform(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1_u32 << 24) as f32
    }
}

/// The likeliest first; of the same weight the first.
fn by_likelihood(left: (f32, u32), right: (f32, u32)) -> Ordering {
    let by_weight = right.0.partial_cmp(&left.0).unwrap_or(Ordering::Equal);
    by_weight.then(left.1.cmp(&right.1))
}

/// The token at which the weights that came before and its own exceed `target`.
fn pick(candidates: impl Iterator<Item = (f32, u32)>, target: f32) -> u32 {
    let mut sum = 0.0;
    let mut last = 0;
    for (weight, token) in candidates {
        if weight > 0.0 {
            last = token;
        }
        sum += weight;
        if sum > target {
            return token;
        }
    }
    last
}

/// The first of the tokens with the highest score.
fn largest(scores: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (score, token) in scores.iter().copied().zip(0..) {
        if score > best.0 {
            best = (score, token);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn drawn(sampling: Sampling, scores: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling);
        (0..count)
            .map(|_| sampler.next(&mut scores.to_vec()).unwrap())
            .collect()
    }

    fn warm(top_p: f32, seed: u64) -> Sampling {
        Sampling {
            temperature: 1.0,
            top_p,
            seed,
            ..Sampling::default()
        }
    }

    #[test]
    fn nought_takes_the_likeliest() {
        assert_eq!(
            drawn(Sampling::default(), &[0.1, 3.0, 3.0, -1.0], 3),
            [1, 1, 1]
        );
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let scores = [0.5_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln()];
        let tokens = drawn(warm(1.0, 7), &scores, 10_000);
        for (token, expected) in [(0, 5_000), (1, 3_000), (2, 2_000)] {
            let found = tokens.iter().filter(|drawn| **drawn == token).count();
            assert!(found.abs_diff(expected) < 200, "{token}: {found}"); // 4 standard deviations
        }
    }

    #[test]
    fn top_p_leaves_the_tail_out_and_keeps_the_proportions() {
        let scores = [0.2_f32.ln(), 0.5_f32.ln(), 0.3_f32.ln()];
        let tokens = drawn(warm(0.6, 7), &scores, 8_000);
        assert!(!tokens.contains(&0));
        let likeliest = tokens.iter().filter(|token| **token == 1).count();
        assert!(likeliest.abs_diff(5_000) < 180, "{likeliest}");
        assert!(
            drawn(warm(0.4, 7), &scores, 100)
                .iter()
                .all(|token| *token == 1)
        );
    }

    #[test]
    fn top_k_keeps_so_many_and_their_proportions() {
        let scores = [0.2_f32.ln(), 0.5_f32.ln(), 0.3_f32.ln()];
        for (most, top_p, expected) in [(2, 1.0, 5_000), (2, 0.7, 5_000), (1, 1.0, 8_000)] {
            let sampling = Sampling {
                top_k: NonZero::new(most),
                ..warm(top_p, 7)
            };
            let tokens = drawn(sampling, &scores, 8_000);
            assert!(!tokens.contains(&0));
            let likeliest = tokens.iter().filter(|token| **token == 1).count();
            assert!(likeliest.abs_diff(expected) < 180, "{most}: {likeliest}");
        }
    }

    #[test]
    fn an_even_distribution_is_wider_than_the_likely_ones() {
        let scores = vec![0.0; 50_000]; // each is less likely than the threshold
        let tokens = drawn(warm(0.5, 3), &scores, 40);
        assert!(tokens.iter().all(|token| *token <= 25_000));
        assert!(tokens.iter().any(|token| *token > 10_000));
    }

    #[test]
    fn the_seed_decides() {
        let scores: Vec<f32> = (0..100).map(|token| (token % 7) as f32 / 3.0).collect();
        assert_eq!(
            drawn(warm(0.9, 1), &scores, 50),
            drawn(warm(0.9, 1), &scores, 50)
        );
        assert_ne!(
            drawn(warm(0.9, 1), &scores, 50),
            drawn(warm(0.9, 2), &scores, 50)
        );
    }

    #[test]
    fn scores_that_are_no_numbers_give_no_token() {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(Sampler::new(warm(1.0, 1)).next(&mut [0.0, wrong]), None);
        }
    }

    #[test]
    fn penalties_make_repetition_dearer() {
        let scores = [1.0, 0.9, 0.0];
        let presence = Sampling {
            presence_penalty: 0.5,
            ..Sampling::default()
        };
        assert_eq!(drawn(presence, &scores, 4), [0, 1, 0, 0]);
        let frequency = Sampling {
            frequency_penalty: 0.4,
            ..Sampling::default()
        };
        assert_eq!(drawn(frequency, &scores, 6), [0, 1, 0, 1, 0, 1]);
    }
}
