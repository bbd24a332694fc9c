//! The operations of a llama decoder between its matrix products, a token at a time.

use pulp::{Arch, Simd, WithSimd};

use crate::math::exp;

/// Scores are computed in as many at once at most.
const LANES: usize = 16;

/// One head's keys and values in a cache.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    /// Keys of all positions; those of other heads lie between them.
    pub keys: &'a [f32],
    /// Values, laid out as the keys.
    pub values: &'a [f32],
    /// Distance from one position to the next.
    pub stride: usize,
    /// Where the head begins.
    pub offset: usize,
    /// Positions that are looked at, from the first one on.
    pub positions: usize,
}

impl Window<'_> {
    /// `output = Σ softmax(query · key / √width) value`. `scores` is any buffer.
    pub fn attend(&self, query: &[f32], scores: &mut Vec<f32>, output: &mut [f32]) {
        Arch::new().dispatch(Attend {
            window: *self,
            query,
            scores,
            output,
        });
    }
}

struct Attend<'a> {
    window: Window<'a>,
    query: &'a [f32],
    scores: &'a mut Vec<f32>,
    output: &'a mut [f32],
}

impl WithSimd for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            window,
            query,
            scores,
            output,
        } = self;
        let scale = 1.0 / (query.len() as f32).sqrt();
        let place = |position: usize| {
            let start = position * window.stride + window.offset;
            start..start + query.len()
        };
        scores.clear();
        scores.extend((0..window.positions).map(
            #[inline(always)]
            |position| dot(query, &window.keys[place(position)]) * scale,
        ));
        let largest = scores
            .iter()
            .fold(f32::NEG_INFINITY, |most, score| most.max(*score));
        // What fills the last register counts as 10⁻³⁸.
        scores.resize(scores.len().next_multiple_of(LANES), f32::NEG_INFINITY);
        let shift = simd.splat_f32s(largest);
        let mut total = simd.splat_f32s(0.0);
        for score in S::as_mut_simd_f32s(scores).0 {
            *score = exp(simd, simd.sub_f32s(*score, shift));
            total = simd.add_f32s(total, *score);
        }
        let share = 1.0 / simd.reduce_sum_f32s(total);
        output.fill(0.0);
        for (position, score) in scores[..window.positions].iter().enumerate() {
            let values = &window.values[place(position)];
            for (output, value) in output.iter_mut().zip(values) {
                *output += score * value;
            }
        }
        for output in output {
            *output *= share;
        }
    }
}

/// `x / √(mean(x²) + ε) · weight`, in place.
pub fn rms_normalise(row: &mut [f32], weights: &[f32], epsilon: f32) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let mean = dot(row, row) / row.len() as f32;
            let scale = 1.0 / (mean + epsilon).sqrt();
            for (value, weight) in row.iter_mut().zip(weights) {
                *value *= scale * weight;
            }
        },
    );
}

/// `gate · σ(gate) · value`
pub fn silu_gate(gates: &[f32], values: &[f32], output: &mut [f32]) {
    Arch::new().dispatch(SiluGate {
        gates,
        values,
        output,
    });
}

struct SiluGate<'a> {
    gates: &'a [f32],
    values: &'a [f32],
    output: &'a mut [f32],
}

impl WithSimd for SiluGate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (gates, gates_rest) = S::as_simd_f32s(self.gates);
        let (values, values_rest) = S::as_simd_f32s(self.values);
        let (output, output_rest) = S::as_mut_simd_f32s(self.output);
        let (zero, one) = (simd.splat_f32s(0.0), simd.splat_f32s(1.0));
        for ((gate, value), output) in gates.iter().zip(values).zip(output) {
            // σ(x) = 1 / (1 + e⁻ˣ) = eˣ / (1 + eˣ): of the two, the one whose power is not above 1.
            let power = exp(simd, simd.neg_f32s(simd.abs_f32s(*gate)));
            let is_positive = simd.greater_than_f32s(*gate, zero);
            let above = simd.select_f32s(is_positive, one, power);
            let sigmoid = simd.div_f32s(above, simd.add_f32s(one, power));
            *output = simd.mul_f32s(simd.mul_f32s(*gate, sigmoid), *value);
        }
        let rest = gates_rest.iter().zip(values_rest).zip(output_rest);
        for ((gate, value), output) in rest {
            *output = gate / (1.0 + (-gate).exp()) * value;
        }
    }
}

/// Sixteen sums side by side: a single one may not be reordered, and would be a chain of additions.
#[inline(always)]
fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (left, left_rest) = left.as_chunks::<16>();
    let (right, right_rest) = right.as_chunks::<16>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..16 {
            lanes[lane] += left[lane] * right[lane];
        }
    }
    let mut sum = 0.0;
    for lane in 0..8 {
        sum += lanes[lane] + lanes[lane + 8];
    }
    for (left, right) in left_rest.iter().zip(right_rest) {
        sum += left * right;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_is_the_mean_of_values_weighted_by_likeness() {
        // Two positions, two heads of width 2; the second head is looked at.
        let window = Window {
            keys: &[9.0, 9.0, 1.0, 0.0, 9.0, 9.0, 0.0, 1.0],
            values: &[9.0, 9.0, 10.0, 0.0, 9.0, 9.0, 0.0, 10.0],
            stride: 4,
            offset: 2,
            positions: 2,
        };
        let mut output = [0.0; 2];
        window.attend(&[2.0, 0.0], &mut Vec::new(), &mut output);
        let likeness = (2.0_f32 / 2.0_f32.sqrt()).exp();
        let share = likeness / (likeness + 1.0);
        assert!((output[0] - 10.0 * share).abs() < 1e-5, "{output:?}");
        assert!(
            (output[1] - 10.0 * (1.0 - share)).abs() < 1e-5,
            "{output:?}"
        );
        let first = Window {
            positions: 1,
            ..window
        };
        first.attend(&[2.0, 0.0], &mut Vec::new(), &mut output);
        assert_eq!(output.map(f32::to_bits), [10.0_f32, 0.0].map(f32::to_bits));
    }

    #[test]
    fn a_normalised_row_has_a_mean_square_of_one() {
        let mut row: Vec<f32> = (0..37).map(|number| number as f32 - 9.0).collect();
        rms_normalise(&mut row, &[1.0; 37], 0.0);
        let mean = row.iter().map(|value| value * value).sum::<f32>() / 37.0;
        assert!((mean - 1.0).abs() < 1e-5, "{mean}");
    }

    #[test]
    fn a_gate_lets_through_what_is_positive() {
        // Registers, and a rest that fills none.
        let gates: Vec<f32> = (0..37).map(|number| number as f32 * 2.0 - 36.0).collect();
        let mut output = [0.0; 37];
        silu_gate(&gates, &[5.0; 37], &mut output);
        for (gate, found) in gates.iter().zip(output) {
            let gate = f64::from(*gate);
            let expected = gate / (1.0 + (-gate).exp()) * 5.0;
            let difference = (f64::from(found) - expected).abs();
            assert!(
                difference < 1e-5 * expected.abs().max(1.0),
                "{gate}: {found}"
            );
        }
    }
}
