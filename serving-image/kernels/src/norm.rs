//! The residual connection and layer norm in one pass over a panel.

use pulp::{Arch, Simd, WithSimd};

use crate::math::{registers, registers_mut};
use crate::{Aligned, Grid};

/// `x = LayerNorm(x + bias + Σ partial)`, token by token.
#[derive(Debug)]
pub struct Normalize<'a> {
    /// Multiplies the normalised values, one number a feature.
    pub weight: &'a [f32],
    /// Is added to them, one number a feature.
    pub shift: &'a [f32],
    /// Added to the variance.
    pub epsilon: f32,
    /// Added before, one number a feature; may be empty.
    pub bias: &'a [f32],
    /// Added before, with the features of `x`: sums that several threads computed parts of.
    pub partials: &'a [Aligned],
    /// The layout of `x` and the partial sums.
    pub grid: Grid,
}

impl Normalize<'_> {
    /// Changes `x`.
    ///
    /// # Panics
    /// Where a buffer does not fit the grid.
    pub fn run(&self, x: &mut [f32]) {
        let features = self.weight.len();
        assert_eq!(self.shift.len(), features);
        assert!(self.bias.is_empty() || self.bias.len() == features);
        assert_eq!(x.len(), self.grid.len(features));
        assert!(self.partials.iter().all(|partial| partial.len() == x.len()));
        Arch::new().dispatch(Run { norm: self, x });
    }

    #[inline(always)]
    fn panel<S: Simd, const V: usize>(
        &self,
        simd: S,
        x: &mut [f32],
        range: std::ops::Range<usize>,
    ) {
        let x = registers_mut::<S, V>(x);
        let zero = [simd.splat_f32s(0.0); V];
        if !self.bias.is_empty() {
            for (row, bias) in x.iter_mut().zip(self.bias) {
                let bias = simd.splat_f32s(*bias);
                *row = row.map(|value| simd.add_f32s(value, bias));
            }
        }
        for partial in self.partials {
            for (row, added) in x.iter_mut().zip(registers::<S, V>(&partial[range.clone()])) {
                for (value, added) in row.iter_mut().zip(added) {
                    *value = simd.add_f32s(*value, *added);
                }
            }
        }
        let count = simd.splat_f32s(1.0 / x.len() as f32);
        let mut mean = zero;
        for row in x.iter() {
            for (sum, value) in mean.iter_mut().zip(row) {
                *sum = simd.add_f32s(*sum, *value);
            }
        }
        mean = mean.map(|sum| simd.mul_f32s(sum, count));
        let mut variance = zero;
        for row in x.iter_mut() {
            for ((value, mean), sum) in row.iter_mut().zip(&mean).zip(&mut variance) {
                *value = simd.sub_f32s(*value, *mean);
                *sum = simd.mul_add_e_f32s(*value, *value, *sum);
            }
        }
        let (one, epsilon) = (simd.splat_f32s(1.0), simd.splat_f32s(self.epsilon));
        let scale = variance.map(|sum| {
            let variance = simd.mul_add_e_f32s(sum, count, epsilon);
            simd.div_f32s(one, simd.sqrt_f32s(variance))
        });
        for ((row, weight), shift) in x.iter_mut().zip(self.weight).zip(self.shift) {
            let (weight, shift) = (simd.splat_f32s(*weight), simd.splat_f32s(*shift));
            for (value, scale) in row.iter_mut().zip(&scale) {
                *value = simd.mul_add_e_f32s(simd.mul_f32s(*value, *scale), weight, shift);
            }
        }
    }
}

struct Run<'a, 'n> {
    norm: &'a Normalize<'n>,
    x: &'a mut [f32],
}

impl WithSimd for Run<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { norm, x } = self;
        for panel in norm.grid.panels() {
            let range = panel.of(norm.weight.len());
            let x = &mut x[range.clone()];
            match panel.width / S::F32_LANES {
                1 => norm.panel::<S, 1>(simd, x, range),
                2 => norm.panel::<S, 2>(simd, x, range),
                _ => norm.panel::<S, 3>(simd, x, range),
            }
        }
    }
}
