//! What a decoder of the llama family does between its matrix products, a token at a time.

use pulp::Arch;

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
        Arch::new().dispatch(
            #[inline(always)]
            || self.attend_vectorised(query, scores, output),
        );
    }

    #[inline(always)]
    fn attend_vectorised(&self, query: &[f32], scores: &mut Vec<f32>, output: &mut [f32]) {
        let scale = 1.0 / (query.len() as f32).sqrt();
        let place = |position: usize| {
            let start = position * self.stride + self.offset;
            start..start + query.len()
        };
        scores.clear();
        scores.extend((0..self.positions).map(
            #[inline(always)]
            |position| dot(query, &self.keys[place(position)]) * scale,
        ));
        let largest = scores
            .iter()
            .fold(f32::NEG_INFINITY, |most, score| most.max(*score));
        let mut total = 0.0;
        for score in scores.iter_mut() {
            *score = (*score - largest).exp();
            total += *score;
        }
        output.fill(0.0);
        for (position, score) in scores.iter().enumerate() {
            let share = score / total;
            let values = &self.values[place(position)];
            for (output, value) in output.iter_mut().zip(values) {
                *output += share * value;
            }
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
    for ((gate, value), output) in gates.iter().zip(values).zip(output) {
        *output = gate / (1.0 + (-gate).exp()) * value;
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
        let mut output = [0.0; 3];
        silu_gate(&[0.0, 20.0, -20.0], &[5.0, 5.0, 5.0], &mut output);
        assert!(
            output[0].abs() < 1e-6 && (output[1] - 100.0).abs() < 1e-3 && output[2].abs() < 1e-3
        );
    }
}
