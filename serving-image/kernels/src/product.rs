//! A dense layer, with what follows it.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use crate::math::{gelu, multiply_add, registers, registers_mut};
use crate::{Grid, Packed, block_rows};

/// What happens to a product.
#[derive(Debug, Clone, Copy)]
pub enum Then<'a> {
    /// It is added to what is there.
    Add,
    /// A bias, one number for each output of the matrix, is added to it.
    Bias(&'a [f32]),
    /// As `Bias`, then GELU by the error function.
    Gelu(&'a [f32]),
}

/// `y = W x` for some rows and columns of `W`, on all tokens of a grid.
#[derive(Debug)]
pub struct Product<'a> {
    /// `W`.
    pub weights: &'a Packed,
    /// Rows of `W` to compute: whole blocks. `y` has exactly these features.
    pub outputs: Range<usize>,
    /// Columns of `W` to sum over. `x` has exactly these features.
    pub inputs: Range<usize>,
    /// The layout of `x` and `y`.
    pub grid: Grid,
    /// What happens to it.
    pub then: Then<'a>,
}

impl Product<'_> {
    /// Computes `y`.
    ///
    /// # Panics
    /// Where a buffer or range does not fit the grid and the weights.
    pub fn run(&self, x: &[f32], y: &mut [f32]) {
        assert!(self.outputs.end <= self.weights.outputs());
        assert!(self.inputs.end <= self.weights.inputs());
        assert_eq!(x.len(), self.grid.len(self.inputs.len()), "the input");
        assert_eq!(y.len(), self.grid.len(self.outputs.len()), "the output");
        Arch::new().dispatch(Run {
            product: self,
            x,
            y,
        });
    }

    /// One block of outputs on one panel.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const V: usize>(
        &self,
        simd: S,
        output: usize,
        weights: &[[f32; M]],
        x: &[f32],
        y: &mut [f32],
    ) {
        let x = registers::<S, V>(x);
        let Some((y, [])) = registers_mut::<S, V>(y).split_first_chunk_mut::<M>() else {
            return;
        };
        let mut sums = *y;
        if let Then::Bias(bias) | Then::Gelu(bias) = self.then {
            for (sums, bias) in sums.iter_mut().zip(&bias[output..output + M]) {
                *sums = [simd.splat_f32s(*bias); V];
            }
        }
        sums = multiply_add(simd, weights, x, sums);
        if let Then::Gelu(_) = self.then {
            for sum in sums.as_flattened_mut() {
                *sum = gelu(simd, *sum);
            }
        }
        *y = sums;
    }
}

struct Run<'a, 'p> {
    product: &'a Product<'p>,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Run<'_, '_> {
    #[inline(always)]
    fn blocks<S: Simd, const M: usize>(self, simd: S) {
        let Self { product, x, y } = self;
        let (features_in, features_out) = (product.inputs.len(), product.outputs.len());
        // A block of weights stays in the first-level cache over all panels, which stay in the
        // second.
        for output in product.outputs.clone().step_by(M) {
            let weights = product.weights.block(output, &product.inputs).as_chunks().0;
            for panel in product.grid.panels() {
                let x = &x[panel.of(features_in)];
                let first = (output - product.outputs.start) * panel.width;
                let y = &mut y[panel.of(features_out)][first..first + M * panel.width];
                match panel.width / S::F32_LANES {
                    1 => product.tile::<S, M, 1>(simd, output, weights, x, y),
                    2 => product.tile::<S, M, 2>(simd, output, weights, x, y),
                    _ => product.tile::<S, M, 3>(simd, output, weights, x, y),
                }
            }
        }
    }
}

impl WithSimd for Run<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if block_rows::<S>() == 8 {
            self.blocks::<S, 8>(simd);
        } else {
            self.blocks::<S, 4>(simd);
        }
    }
}
