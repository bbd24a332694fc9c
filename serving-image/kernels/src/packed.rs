//! Weights in the order in which a product reads them.

use std::ops::Range;

use crate::{Aligned, Machine};

/// A matrix of outputs × inputs in blocks of [`Machine::block`] outputs; inside a block, input by
/// input.
#[derive(Debug)]
pub struct Packed {
    values: Aligned,
    outputs: usize,
    inputs: usize,
    block: usize,
}

impl Packed {
    /// Packs a row-major matrix of `outputs` × `inputs`.
    ///
    /// # Panics
    /// Where `outputs` is no multiple of the machine's block, or the length of `values` is another.
    pub fn new(values: &[f32], outputs: usize, inputs: usize, machine: Machine) -> Self {
        let block = machine.block;
        assert_eq!(values.len(), outputs * inputs, "the matrix's length");
        assert_eq!(outputs % block, 0, "outputs must fill whole blocks");
        let mut packed = Aligned::lasting(values.len());
        for (output, row) in values.chunks_exact(inputs.max(1)).enumerate() {
            let target = &mut packed[(output / block) * block * inputs..];
            let column = target.iter_mut().skip(output % block).step_by(block);
            for (place, value) in column.zip(row) {
                *place = *value;
            }
        }
        Self {
            values: packed,
            outputs,
            inputs,
            block,
        }
    }

    /// Rows of the matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The block that starts at row `output`, for these columns only.
    #[inline(always)]
    pub(crate) fn block(&self, output: usize, inputs: &Range<usize>) -> &[f32] {
        let start = output * self.inputs;
        &self.values[start + inputs.start * self.block..start + inputs.end * self.block]
    }
}
