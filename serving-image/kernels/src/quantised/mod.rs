//! Products of weights in ggml's blocks with vectors, for the formats that candle has no SIMD
//! kernel for (Q4_1, Q5_0, Q5_1), or only one that is chosen at compile time (Q4_0, Q8_0, Q4_K,
//! Q5_K).
//!
//! As in ggml, a vector is cut into blocks of 32 that are rounded to signed bytes, so that the
//! inner loop is a product of bytes. Weights are unpacked and laid out anew once, when they are
//! read: 16 rows lie side by side in the lanes of the registers, so that one load of weights serves
//! 16 outputs, four numbers of a vector are spread over all lanes, and nothing is ever summed
//! across lanes. See [`product`].
//!
//! Each output is summed in one fixed order, whatever else is computed beside it, and on whatever
//! machine: a text does not depend on which requests share its batch.

mod format;
mod machine;
mod product;
#[cfg(test)]
mod tests;

pub use format::BlockFormat;

/// Weights, or activations, that share a scale.
pub const BLOCK: usize = 32;

/// Rows that lie side by side.
pub const GROUP: usize = 16;

/// Numbers of a vector that are multiplied and summed in one lane at once.
const STEP: usize = 4;

/// One weight matrix: groups of 16 rows, block by block.
#[derive(Debug)]
pub struct Packed {
    columns: usize,
    rows: usize,
    /// Blocks that were added, row by row.
    filled: usize,
    quants: Quants,
    /// For each block of a group, one scale a row.
    scales: Vec<[f32; GROUP]>,
    /// Added to each weight of a block after scaling; empty where formats have none.
    offsets: Vec<[f32; GROUP]>,
}

/// The quants of a group's block: for each step the four of each row.
#[derive(Debug)]
enum Quants {
    /// 0 to 15. The low halves are those of the first four steps, the high halves those of the
    /// last.
    Nibbles(Vec<[[u8; GROUP * STEP]; 4]>),
    /// −128 to 127.
    Bytes(Vec<[[u8; GROUP * STEP]; 8]>),
}

/// Vectors in blocks of signed bytes.
#[derive(Debug, Default)]
pub struct Activations {
    rows: usize,
    blocks: usize,
    quants: Vec<[[i8; STEP]; BLOCK / STEP]>,
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
        self.quants.resize(blocks, [[0; STEP]; BLOCK / STEP]);
        self.scales.resize(blocks, 0.0);
        self.sums.resize(blocks, 0.0);
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for (index, block) in rows.as_chunks::<BLOCK>().0.iter().enumerate() {
                    let (quants, scale, sum) = round(block);
                    self.quants[index] = pulp::cast(quants);
                    self.scales[index] = scale;
                    self.sums[index] = scale * sum as f32;
                }
            },
        );
    }
}

/// A block as signed bytes, their scale and their sum. No value is more than half a scale off.
#[inline(always)]
fn round(block: &[f32; BLOCK]) -> ([i8; BLOCK], f32, i32) {
    // Adding 1.5 · 2²³ rounds to an integer, ties to even, and leaves it in the low bits of the
    // sum.
    const ROUND: f32 = 12_582_912.0;
    // Eight maxima side by side: a single one is a chain of 32.
    let mut lanes = [0.0_f32; 8];
    for values in block.as_chunks::<8>().0 {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane = lane.max(value.abs());
        }
    }
    let largest = lanes.into_iter().fold(0.0, f32::max);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let mut quants = [0; BLOCK];
    let mut sum = 0;
    for (quant, value) in quants.iter_mut().zip(block) {
        *quant = (value * inverse + ROUND).to_bits() as i8;
        sum += i32::from(*quant);
    }
    (quants, largest / 127.0, sum)
}

impl Packed {
    /// An empty matrix with rows of so many weights, a multiple of the format's block, to which
    /// rows are added.
    pub fn new(format: BlockFormat, columns: usize) -> Self {
        Self {
            columns,
            rows: 0,
            filled: 0,
            quants: if format.is_nibbles() {
                Quants::Nibbles(Vec::new())
            } else {
                Quants::Bytes(Vec::new())
            },
            scales: Vec::new(),
            offsets: Vec::new(),
        }
    }

    /// Makes room for exactly that many further rows.
    pub fn reserve(&mut self, format: BlockFormat, rows: usize) {
        let blocks = rows.div_ceil(GROUP) * (self.columns / BLOCK);
        self.scales.reserve_exact(blocks);
        match &mut self.quants {
            Quants::Nibbles(quants) => quants.reserve_exact(blocks),
            Quants::Bytes(quants) => quants.reserve_exact(blocks),
        }
        if format.has_offset() {
            self.offsets.reserve_exact(blocks);
        }
    }

    /// Adds whole blocks as they lie in a file, row by row, in the format of [`Self::new`].
    pub fn extend(&mut self, format: BlockFormat, bytes: &[u8]) {
        for block in bytes.chunks_exact(format.bytes()) {
            format.unpack(block, |quants, scale, offset| {
                self.push(quants, scale, format.has_offset().then_some(offset));
            });
        }
        self.rows = self.filled * BLOCK / self.columns;
    }

    /// Adds the next block of the row that is being filled.
    fn push(&mut self, values: &[u8; BLOCK], scale: f32, offset: Option<f32>) {
        let blocks = self.columns / BLOCK;
        let (row, block) = (self.filled / blocks, self.filled % blocks);
        let (place, lane) = (row / GROUP * blocks + block, row % GROUP);
        self.filled += 1;
        if place >= self.scales.len() {
            // A new group. Rows that never come have scales of 0.
            self.scales.resize(place + 1, [0.0; GROUP]);
            if offset.is_some() {
                self.offsets.resize(place + 1, [0.0; GROUP]);
            }
            match &mut self.quants {
                Quants::Nibbles(quants) => quants.resize(place + 1, [[0; GROUP * STEP]; 4]),
                Quants::Bytes(quants) => quants.resize(place + 1, [[0; GROUP * STEP]; 8]),
            }
        }
        self.scales[place][lane] = scale;
        if let Some(offset) = offset {
            self.offsets[place][lane] = offset;
        }
        let own = lane * STEP..(lane + 1) * STEP;
        let steps = values.as_chunks::<STEP>().0;
        match &mut self.quants {
            Quants::Nibbles(quants) => {
                let (low, high) = steps.split_at(4);
                for (bytes, (low, high)) in quants[place].iter_mut().zip(low.iter().zip(high)) {
                    for (byte, (low, high)) in
                        bytes[own.clone()].iter_mut().zip(low.iter().zip(high))
                    {
                        *byte = low | high << 4;
                    }
                }
            }
            Quants::Bytes(quants) => {
                for (bytes, step) in quants[place].iter_mut().zip(steps) {
                    bytes[own.clone()].copy_from_slice(step);
                }
            }
        }
    }

    /// Adds the rows of `other`, or gives it back where it is laid out otherwise, or the last group
    /// here is not full.
    pub fn append(&mut self, mut other: Self) -> Option<Self> {
        let fits = self.columns == other.columns
            && self.rows.is_multiple_of(GROUP)
            && self.offsets.is_empty() == other.offsets.is_empty();
        match (&mut self.quants, &mut other.quants) {
            (Quants::Nibbles(own), Quants::Nibbles(more)) if fits => own.append(more),
            (Quants::Bytes(own), Quants::Bytes(more)) if fits => own.append(more),
            _ => return Some(other),
        }
        self.scales.append(&mut other.scales);
        self.offsets.append(&mut other.offsets);
        self.rows += other.rows;
        self.filled += other.filled;
        None
    }

    /// Rows of weights, which is the number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Weights in a row, which is the number of inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// One row as floats.
    pub fn dequantise_row(&self, row: usize, output: &mut [f32]) {
        let blocks = self.columns / BLOCK;
        let lane = row % GROUP;
        for (index, output) in output.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let place = row / GROUP * blocks + index;
            let scale = self.scales[place][lane];
            let offset = self.offsets.get(place).map_or(0.0, |offsets| offsets[lane]);
            for (weight, output) in output.iter_mut().enumerate() {
                let (step, at) = (weight / STEP, lane * STEP + weight % STEP);
                let quant = match &self.quants {
                    Quants::Nibbles(quants) if step < 4 => (quants[place][step][at] & 15).into(),
                    Quants::Nibbles(quants) => (quants[place][step - 4][at] >> 4).into(),
                    Quants::Bytes(quants) => quants[place][step][at].cast_signed().into(),
                };
                let quant: f32 = quant;
                *output = quant * scale + offset;
            }
        }
    }

    /// Computes groups of 16 rows, from the `first` on, for as many as `output` has room: for each
    /// group, and each vector, 16 outputs. Those of rows beyond the last are 0.
    pub fn multiply(&self, activations: &Activations, first: usize, output: &mut [f32]) {
        product::multiply(self, activations, first, output);
    }
}
