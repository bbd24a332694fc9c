//! Products of weights in ggml's blocks with vectors, for the formats that candle has no SIMD kernel for (Q4_1), or only
//! one that is chosen at compile time (Q4_0, Q8_0).
//!
//! As in ggml, a vector is cut into blocks of 32 that are rounded to signed bytes, so that the inner loop is a product
//! of bytes. Each output is summed in one fixed order, whatever else is computed beside it: a text does not depend on
//! which requests share its batch.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(test)]
mod tests;

use half::f16;

/// Weights, or activations, that share a scale.
pub const BLOCK: usize = 32;

/// A format of ggml that is packed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockFormat {
    /// 4 bits and a scale; −8 to 7.
    Q4_0,
    /// 4 bits, a scale and an offset; 0 to 15.
    Q4_1,
    /// Signed bytes and a scale.
    Q8_0,
}

impl BlockFormat {
    /// Bytes of a block in a file: its numbers in 16 bits first, then the quants.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 2 + BLOCK / 2,
            Self::Q4_1 => 4 + BLOCK / 2,
            Self::Q8_0 => 2 + BLOCK,
        }
    }
}

/// A weight matrix in blocks, laid out for the kernels below: scales apart from quants, as floats.
#[derive(Debug)]
pub struct Packed {
    columns: usize,
    quants: Quants,
    /// One for each block.
    scales: Vec<f32>,
    /// Added to each weight of a block after scaling; empty for signed bytes.
    offsets: Vec<f32>,
}

#[derive(Debug)]
enum Quants {
    /// Weight `i` of a block is the low half of byte `i`, weight `i + 16` the high half.
    Nibbles(Vec<[u8; BLOCK / 2]>),
    Bytes(Vec<[i8; BLOCK]>),
}

/// Vectors in blocks of signed bytes.
#[derive(Debug, Default)]
pub struct Activations {
    rows: usize,
    blocks: usize,
    quants: Vec<[i8; BLOCK]>,
    scales: Vec<f32>,
    /// Of each block, the sum of its rounded values.
    sums: Vec<f32>,
}

impl Activations {
    /// Takes the place of what was there with `rows`, each of `columns` values, a multiple of 32.
    pub fn quantise(&mut self, rows: &[f32], columns: usize) {
        self.rows = rows.len() / columns;
        self.blocks = columns / BLOCK;
        let blocks = self.rows * self.blocks;
        self.quants.resize(blocks, [0; BLOCK]);
        self.scales.resize(blocks, 0.0);
        self.sums.resize(blocks, 0.0);
        pulp::Arch::new().dispatch(|| {
            for (index, block) in rows.as_chunks::<BLOCK>().0.iter().enumerate() {
                let largest = block
                    .iter()
                    .fold(0.0_f32, |most, value| most.max(value.abs()));
                let scale = largest / 127.0;
                let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                let mut sum = 0;
                for (quant, value) in self.quants[index].iter_mut().zip(block) {
                    *quant = (value * inverse).round_ties_even() as i8;
                    sum += i32::from(*quant);
                }
                self.scales[index] = scale;
                self.sums[index] = scale * sum as f32;
            }
        });
    }
}

impl Packed {
    /// An empty matrix with rows of so many weights, a multiple of 32, to which rows are added.
    pub fn new(format: BlockFormat, columns: usize) -> Self {
        let quants = match format {
            BlockFormat::Q4_0 | BlockFormat::Q4_1 => Quants::Nibbles(Vec::new()),
            BlockFormat::Q8_0 => Quants::Bytes(Vec::new()),
        };
        Self {
            columns,
            quants,
            scales: Vec::new(),
            offsets: Vec::new(),
        }
    }

    /// Makes room for exactly that many further rows.
    pub fn reserve(&mut self, rows: usize) {
        let blocks = rows * self.columns / BLOCK;
        self.scales.reserve_exact(blocks);
        match &mut self.quants {
            Quants::Nibbles(quants) => {
                quants.reserve_exact(blocks);
                self.offsets.reserve_exact(blocks);
            }
            Quants::Bytes(quants) => quants.reserve_exact(blocks),
        }
    }

    /// Adds whole blocks as they lie in a file, in a format as wide as that of [`Self::new`].
    pub fn extend(&mut self, format: BlockFormat, bytes: &[u8]) {
        let float =
            |bytes: &[u8], at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
        for block in bytes.chunks_exact(format.bytes()) {
            let scale = float(block, 0);
            self.scales.push(scale);
            match &mut self.quants {
                Quants::Nibbles(quants) => {
                    let mut nibbles = [0; BLOCK / 2];
                    nibbles.copy_from_slice(&block[block.len() - BLOCK / 2..]);
                    quants.push(nibbles);
                    // Q4_0 stands for −8 … 7, Q4_1 for 0 … 15 and an offset of its own.
                    let has_offset = format == BlockFormat::Q4_1;
                    let offset = if has_offset {
                        float(block, 2)
                    } else {
                        -8.0 * scale
                    };
                    self.offsets.push(offset);
                }
                Quants::Bytes(quants) => {
                    let mut row = [0; BLOCK];
                    for (quant, byte) in row.iter_mut().zip(&block[2..]) {
                        *quant = byte.cast_signed();
                    }
                    quants.push(row);
                }
            }
        }
    }

    /// Adds the rows of `other`, or gives it back where its format is another one.
    pub fn append(&mut self, mut other: Self) -> Option<Self> {
        match (&mut self.quants, &mut other.quants) {
            (Quants::Nibbles(own), Quants::Nibbles(more)) if self.columns == other.columns => {
                own.append(more);
            }
            (Quants::Bytes(own), Quants::Bytes(more)) if self.columns == other.columns => {
                own.append(more);
            }
            _ => return Some(other),
        }
        self.scales.append(&mut other.scales);
        self.offsets.append(&mut other.offsets);
        None
    }

    /// Rows of weights, which is the number of outputs.
    pub fn rows(&self) -> usize {
        self.scales.len() * BLOCK / self.columns
    }

    /// Weights in a row, which is the number of inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// One row as floats.
    pub fn dequantise_row(&self, row: usize, output: &mut [f32]) {
        let blocks = self.columns / BLOCK;
        for (index, output) in output.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let block = row * blocks + index;
            let scale = self.scales[block];
            match &self.quants {
                Quants::Nibbles(quants) => {
                    for (place, byte) in quants[block].iter().enumerate() {
                        output[place] = f32::from(byte & 15) * scale + self.offsets[block];
                        output[place + 16] = f32::from(byte >> 4) * scale + self.offsets[block];
                    }
                }
                Quants::Bytes(quants) => {
                    for (output, quant) in output.iter_mut().zip(&quants[block]) {
                        *output = f32::from(*quant) * scale;
                    }
                }
            }
        }
    }

    /// `output[row][vector] = weights[first + row] · activations[vector]`, for as many rows as `output` has.
    pub fn multiply(&self, activations: &Activations, first: usize, output: &mut [f32]) {
        if activations.rows == 0 {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            return avx2::multiply(simd, self, activations, first, output);
        }
        self.multiply_portably(activations, first, output);
    }

    /// What the SIMD kernel computes, for machines without AVX2.
    fn multiply_portably(&self, activations: &Activations, first: usize, output: &mut [f32]) {
        let blocks = self.columns / BLOCK;
        for (index, output) in output.iter_mut().enumerate() {
            let (row, vector) = (first + index / activations.rows, index % activations.rows);
            let mut sum = 0.0;
            for block in 0..blocks {
                let (w, x) = (row * blocks + block, vector * blocks + block);
                let x_quants = &activations.quants[x];
                let product: i32 = match &self.quants {
                    Quants::Nibbles(quants) => (0..BLOCK / 2)
                        .map(|place| {
                            let byte = quants[w][place];
                            i32::from(byte & 15) * i32::from(x_quants[place])
                                + i32::from(byte >> 4) * i32::from(x_quants[place + BLOCK / 2])
                        })
                        .sum(),
                    Quants::Bytes(quants) => quants[w]
                        .iter()
                        .zip(x_quants)
                        .map(|(weight, value)| i32::from(*weight) * i32::from(*value))
                        .sum(),
                };
                sum += product as f32 * self.scales[w] * activations.scales[x];
                if let Some(offset) = self.offsets.get(w) {
                    sum += offset * activations.sums[x];
                }
            }
            *output = sum;
        }
    }
}

#[inline(always)]
fn sum_lanes(lanes: [f32; 8]) -> f32 {
    let [low, high] = [0, 4].map(|half| [0, 1, 2, 3].map(|lane| lanes[half + lane]));
    let four: [f32; 4] = std::array::from_fn(|lane| low[lane] + high[lane]);
    (four[0] + four[1]) + (four[2] + four[3])
}

#[inline(always)]
fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (left, left_rest) = left.as_chunks::<8>();
    let (right, right_rest) = right.as_chunks::<8>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..8 {
            lanes[lane] += left[lane] * right[lane];
        }
    }
    let rest = left_rest.iter().zip(right_rest);
    rest.fold(sum_lanes(lanes), |sum, (left, right)| sum + left * right)
}
