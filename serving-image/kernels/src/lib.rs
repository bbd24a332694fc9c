//! Fused kernels on a CPU, of a transformer's encoder above all: 32-bit floats, safe SIMD, no
//! thread of their own.
//!
//! A crate apart from the server, because cargo optimises development builds by crate, and without
//! optimisation these loops are a hundred times slower.
//!
//! # Tokens lie in the lanes
//!
//! Activations are kept *feature-major*: a [`Grid`] lays the tokens of several texts side by side,
//! without padding between them, in panels of at most three SIMD registers, and a panel holds its
//! tokens' values feature by feature:
//!
//! ```text
//! panel 0                        panel 1
//! feature 0 │ t0 t1 … t47 │      feature 0 │ t48 t49 … │
//! feature 1 │ t0 t1 … t47 │      feature 1 │ t48 t49 … │
//!     ⋮                              ⋮
//! ```
//!
//! Then everything an encoder does is the same loop: some numbers that all tokens share (a weight,
//! a bias, a key), each times a row of lanes. A [`Product`] writes the layout that the next one
//! reads, so nothing is transposed or packed between two of them; layer norm and softmax sum over
//! registers instead of across lanes; and there is no mask, because attention walks over exactly
//! the tokens of one text.
//!
//! Weights are [`Packed`] once, in blocks of rows that fill the register file (8 × 3 accumulators
//! of 16 lanes with AVX-512, 4 × 3 of 8 lanes with AVX2), and are then read strictly forward.

// What is not inlined into the dispatched function is compiled for the least machine, and is ten
// times slower there.
#![allow(clippy::inline_always)]

mod aligned;
mod attention;
pub mod decoder;
mod grid;
mod math;
mod norm;
mod packed;
mod perceptron;
mod product;
pub mod quantised;
#[cfg(test)]
mod tests;

pub use aligned::Aligned;
pub use attention::Attention;
pub use grid::{Grid, Panel, Segment};
pub use norm::Normalize;
pub use packed::Packed;
pub use perceptron::{Activation, Layer, Perceptron, softmax};
pub use product::{Product, Then};

use pulp::{Arch, Simd, WithSimd};

/// What the kernels of this machine look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// 32-bit floats in a register.
    pub lanes: usize,
    /// Outputs of a [`Product`] that are computed together: the rows of a packed block.
    pub block: usize,
}

impl Machine {
    /// The machine that this process runs on.
    pub fn detect() -> Self {
        struct Detect;
        impl WithSimd for Detect {
            type Output = Machine;
            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) -> Machine {
                Machine {
                    lanes: S::F32_LANES,
                    block: block_rows::<S>(),
                }
            }
        }
        Arch::new().dispatch(Detect)
    }
}

/// Rows of a block: with [`Grid::MAX_VECTORS`] columns, the accumulators, inputs and one weight fit
/// the registers.
#[inline(always)]
const fn block_rows<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 8 } else { 4 }
}
