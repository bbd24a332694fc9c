//! Every kernel against the plain formula in 64-bit floats.
#![allow(clippy::needless_range_loop)] // two tables by one index

use std::ops::Range;

use proptest::prelude::*;
use pulp::{Arch, Simd, WithSimd};

use crate::math::{erf, exp, gelu, logistic, tanh};
use crate::{Aligned, Attention, Grid, Machine, Normalize, Packed, Product, Then};

/// Numbers from −1 to 1 that look random and are the same on each run.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Token-major rows in the grid's layout. Lanes without a token hold `rest`, which must leak
/// nowhere.
fn lay_out(grid: Grid, rows: &[Vec<f32>], rest: f32) -> Aligned {
    let features = rows[0].len();
    let mut buffer = Aligned::zeros(grid.len(features));
    buffer.fill(rest);
    for segment in grid.segments(0..rows.len()) {
        for feature in 0..features {
            for (index, place) in segment.of(features, feature).enumerate() {
                buffer[place] = rows[segment.before + index][feature];
            }
        }
    }
    buffer
}

fn read_out(grid: Grid, buffer: &[f32], tokens: usize, features: usize) -> Vec<Vec<f32>> {
    let mut rows = vec![vec![0.0; features]; tokens];
    for segment in grid.segments(0..tokens) {
        for feature in 0..features {
            for (index, place) in segment.of(features, feature).enumerate() {
                rows[segment.before + index][feature] = buffer[place];
            }
        }
    }
    rows
}

fn rows(tokens: usize, features: usize, seed: u64) -> Vec<Vec<f32>> {
    numbers(tokens * features, seed)
        .chunks(features)
        .map(<[f32]>::to_vec)
        .collect()
}

pub(crate) fn assert_close(found: &[Vec<f32>], expected: &[Vec<f64>], tolerance: f64) {
    for (token, (found, expected)) in found.iter().zip(expected).enumerate() {
        for (feature, (found, expected)) in found.iter().zip(expected).enumerate() {
            let difference = (f64::from(*found) - expected).abs();
            assert!(
                difference <= tolerance,
                "token {token}, feature {feature}: {found} instead of {expected}"
            );
        }
    }
}

fn gelu_of(x: f64) -> f64 {
    x * 0.5 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))
}

enum Function {
    Exp,
    Erf,
    Gelu,
    Logistic,
    Tanh,
}

struct Map<'a>(Function, &'a mut [f32]);

impl WithSimd for Map<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for x in S::as_mut_simd_f32s(self.1).0 {
            *x = match self.0 {
                Function::Exp => exp(simd, *x),
                Function::Erf => erf(simd, *x),
                Function::Gelu => gelu(simd, *x),
                Function::Logistic => logistic(simd, *x),
                Function::Tanh => tanh(simd, *x),
            };
        }
    }
}

/// The largest error of a function on a fine grid; `relative` to the value.
fn worst(function: Function, range: Range<f32>, truth: fn(f64) -> f64, relative: bool) -> f64 {
    let count = 1 << 18;
    let xs: Vec<f32> = (0..count)
        .map(|i| range.start + (range.end - range.start) * i as f32 / count as f32)
        .collect();
    let mut ys = xs.clone();
    Arch::new().dispatch(Map(function, &mut ys));
    let error = |(x, y): (&f32, &f32)| {
        let truth = truth(f64::from(*x));
        let difference = (f64::from(*y) - truth).abs();
        if relative {
            difference / truth.abs()
        } else {
            difference
        }
    };
    let worst = xs.iter().zip(&ys).map(error).fold(0.0, f64::max);
    println!("largest error {worst:e}");
    worst
}

#[test]
fn exp_is_exact_to_two_units_in_the_last_place() {
    assert!(worst(Function::Exp, -87.0..0.0, libm::exp, true) < 2.5e-7);
    // What underflows is as good as nothing, and never negative or infinite.
    assert!(worst(Function::Exp, -1e30..-87.0, libm::exp, false) < 2e-38);
}

#[test]
fn erf_and_gelu_are_exact_to_a_few_ten_millionths() {
    assert!(worst(Function::Erf, -10.0..10.0, libm::erf, false) < 4e-7);
    // x/2 multiplies the error of erf.
    assert!(worst(Function::Gelu, -6.0..6.0, gelu_of, false) < 1.5e-6);
}

#[test]
fn the_logistic_function_and_tanh_are_exact_to_a_few_units_in_the_last_place() {
    let logistic = |x: f64| 1.0 / (1.0 + libm::exp(-x));
    assert!(worst(Function::Logistic, -87.0..87.0, logistic, true) < 3e-7);
    assert!(worst(Function::Logistic, -1e30..-87.0, logistic, false) < 2e-38);
    assert!(worst(Function::Tanh, 1e-6..0.7, libm::tanh, true) < 2e-7);
    assert!(worst(Function::Tanh, -0.7..-1e-6, libm::tanh, true) < 2e-7);
    assert!(worst(Function::Tanh, -100.0..100.0, libm::tanh, true) < 2e-7);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_grid_gives_each_token_a_place_of_its_own(
        tokens in 1..300_usize, lanes in prop::sample::select(vec![1_usize, 4, 8, 16]),
            features in 1..4_usize,
        from in 0..300_usize, to in 0..300_usize,
    ) {
        let grid = Grid::new(tokens, lanes);
        let mut seen = vec![false; grid.len(features)];
        let mut next = 0;
        for segment in grid.segments(0..tokens) {
            prop_assert_eq!(segment.before, next);
            next += segment.len;
            for feature in 0..features {
                for place in segment.of(features, feature) {
                    prop_assert!(!std::mem::replace(&mut seen[place], true));
                    prop_assert!(segment.panel.of(features).contains(&place));
                }
            }
        }
        prop_assert_eq!(next, tokens);
        let (from, to) = (from.min(to).min(tokens), from.max(to).min(tokens));
        let part: usize = grid.segments(from..to).map(|segment| segment.len).sum();
        prop_assert_eq!(part, to - from);
        let panels: usize = grid.panels().map(|panel| panel.of(features).len()).sum();
        prop_assert_eq!(panels, grid.len(features));
    }

    #[test]
    fn a_product_is_the_sum_of_products(
        tokens in 1..120_usize, blocks in 1..6_usize, skipped in 0..3_usize, depth in 1..40_usize,
            offset in 0..7_usize,
        then in 0..3_u8, seed: u64,
    ) {
        let machine = Machine::detect();
        let (outputs, inputs) = ((skipped + blocks) * machine.block, offset + depth + 2);
        let matrix = numbers(outputs * inputs, seed);
        let bias = numbers(outputs, seed ^ 1);
        let grid = Grid::new(tokens, machine.lanes);
        let (x, before) = (rows(tokens, depth, seed ^ 2), rows(tokens, blocks * machine.block,
            seed ^ 3));
        let mut y = lay_out(grid, &before, f32::NAN);
        let first = skipped * machine.block;
        Product {
            weights: &Packed::new(&matrix, outputs, inputs, machine),
            outputs: first..outputs,
            inputs: offset..offset + depth,
            grid,
            then: match then { 0 => Then::Add, 1 => Then::Bias(&bias), _ => Then::Gelu(&bias) },
        }
        .run(&lay_out(grid, &x, f32::NAN), &mut y);
        let expected: Vec<Vec<f64>> = (0..tokens).map(|token| (first..outputs).map(|output| {
            let sum: f64 = (0..depth)
                .map(|k| f64::from(matrix[output * inputs + offset + k]) * f64::from(x[token][k]))
                .sum();
            match then {
                0 => sum + f64::from(before[token][output - first]),
                1 => sum + f64::from(bias[output]),
                _ => gelu_of(sum + f64::from(bias[output])),
            }
        }).collect()).collect();
        assert_close(&read_out(grid, &y, tokens, outputs - first), &expected, 1e-5);
    }

    #[test]
    fn layer_norm_is_that_of_each_token(
        tokens in 1..120_usize, features in 2..50_usize, partials in 0..3_usize, biased: bool,
            seed: u64,
    ) {
        let grid = Grid::new(tokens, Machine::detect().lanes);
        let (weight, shift) = (numbers(features, seed ^ 1), numbers(features, seed ^ 2));
        let bias = if biased { numbers(features, seed ^ 3) } else { Vec::new() };
        let parts: Vec<_> = (0..=partials).map(|part| rows(tokens, features,
            seed ^ (9 + part as u64))).collect();
        let mut x = lay_out(grid, &parts[0], 0.0);
        let added: Vec<Aligned> = parts[1..].iter().map(|part| lay_out(grid, part, 0.0)).collect();
        Normalize { weight: &weight, shift: &shift, epsilon: 1e-3, bias: &bias, partials: &added,
            grid }.run(&mut x);
        let expected: Vec<Vec<f64>> = (0..tokens).map(|token| {
            let sums: Vec<f64> = (0..features).map(|feature| {
                let sum: f64 = parts.iter().map(|part| f64::from(part[token][feature])).sum();
                sum + bias.get(feature).copied().map_or(0.0, f64::from)
            }).collect();
            let mean = sums.iter().sum::<f64>() / features as f64;
            let squares = sums.iter().map(|sum| (sum - mean).powi(2));
            let variance = squares.sum::<f64>() / features as f64;
            (0..features).map(|feature| {
                let normal = (sums[feature] - mean) / (variance + 1e-3).sqrt();
                normal * f64::from(weight[feature]) + f64::from(shift[feature])
            }).collect()
        }).collect();
        assert_close(&read_out(grid, &x, tokens, features), &expected, 5e-5);
    }

    #[test]
    fn attention_stays_inside_each_text(
        lengths in prop::collection::vec(1..70_usize, 1..5), heads in 1..3_usize,
            blocks in 1..3_usize, seed: u64,
    ) {
        let machine = Machine::detect();
        let width = blocks * machine.block;
        let mut end = 0;
        let texts: Vec<Range<usize>> = lengths
            .iter()
            .map(|length| { end += length; end - length..end })
            .collect();
        let grid = Grid::new(end, machine.lanes);
        let qkv: Vec<Vec<f32>> = rows(end, 3 * heads * width, seed)
            .iter()
            .map(|row| row.iter().map(|x| 3.0 * x).collect())
            .collect();
        let mut context = Aligned::zeros(grid.len(heads * width));
        let attention = Attention { texts: &texts, heads, width, grid };
        attention.run(&lay_out(grid, &qkv, f32::NAN), &mut context);
        let part = |token: usize, head: usize, which: usize, d: usize| {
            f64::from(qkv[token][(3 * head + which) * width + d])
        };
        let product = |query: usize, key: usize, head: usize| -> f64 {
            (0..width).map(|d| part(query, head, 0, d) * part(key, head, 1, d)).sum()
        };
        let queries = texts
            .iter()
            .flat_map(|text| text.clone().map(move |query| (text.clone(), query)));
        let expected: Vec<Vec<f64>> = queries
            .map(|(text, query)| (0..heads).flat_map(|head| {
                let scores: Vec<f64> = text.clone()
                    .map(|key| product(query, key, head))
                    .collect();
                let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                let powers: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
                let total: f64 = powers.iter().sum();
                let text = text.clone();
                (0..width).map(move |d| text.clone().zip(&powers)
                    .map(|(key, power)| power / total * part(key, head, 2,
                        d)).sum()).collect::<Vec<f64>>()
            }).collect())
            .collect();
        assert_close(&read_out(grid, &context, end, heads * width), &expected, 5e-5);
    }
}
