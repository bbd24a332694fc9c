//! 16 rows of weights times up to eight vectors.
//!
//! For each block of 32 weights a lane sums 32 products of bytes, which is exact, then adds the
//! sum, times both scales, to its float. Four steps of nibbles and four more are summed in 16 bits:
//! 8 × 2 × 15 × 127 = 30,480 is the most.

use super::machine::{Machine, Portable};
use super::{Activations, BLOCK, GROUP, Packed, Quants, STEP};

/// A block of a vector, four numbers a step.
type Values = [[i8; STEP]; BLOCK / STEP];

/// As [`Packed::multiply`], on the best that this machine has.
pub(super) fn multiply(
    weights: &Packed,
    activations: &Activations,
    first: usize,
    output: &mut [f32],
) {
    if activations.rows == 0 {
        return;
    }
    let task = Task {
        weights,
        activations,
        first,
        output,
    };
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(machine) = pulp::x86::V4::try_new() {
            return machine.vectorize(On(machine, task));
        }
        if let Some(machine) = pulp::x86::V3::try_new() {
            return machine.vectorize(On(machine, task));
        }
    }
    task.run(Portable);
}

/// Some groups of rows, and where their outputs go.
pub(super) struct Task<'a> {
    pub(super) weights: &'a Packed,
    pub(super) activations: &'a Activations,
    pub(super) first: usize,
    pub(super) output: &'a mut [f32],
}

/// A task for a machine, in whose instructions it is compiled.
pub(super) struct On<'a, M>(pub(super) M, pub(super) Task<'a>);

impl<M: Machine> pulp::NullaryFnOnce for On<'_, M> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.1.run(self.0);
    }
}

impl Task<'_> {
    #[inline(always)]
    pub(super) fn run<M: Machine>(self, machine: M) {
        let has_offset = !self.weights.offsets.is_empty();
        match &self.weights.quants {
            Quants::Nibbles(quants) if has_offset => self.groups::<M, _, true>(machine, quants),
            Quants::Nibbles(quants) => self.groups::<M, _, false>(machine, quants),
            Quants::Bytes(quants) if has_offset => self.groups::<M, _, true>(machine, quants),
            Quants::Bytes(quants) => self.groups::<M, _, false>(machine, quants),
        }
    }

    #[inline(always)]
    fn groups<M: Machine, B: Block, const OFFSET: bool>(self, machine: M, quants: &[B]) {
        let vectors = self.activations.rows;
        let blocks = self.activations.blocks;
        let groups = self
            .output
            .as_chunks_mut::<GROUP>()
            .0
            .chunks_exact_mut(vectors);
        for (index, output) in groups.enumerate() {
            let own = (self.first + index) * blocks..(self.first + index + 1) * blocks;
            let group = Group {
                quants: &quants[own.clone()],
                scales: &self.weights.scales[own.clone()],
                offsets: if OFFSET {
                    &self.weights.offsets[own]
                } else {
                    &[]
                },
            };
            let mut vector = 0;
            while vector < vectors {
                let left = vectors - vector;
                let activations = self.activations;
                vector += if M::IS_WIDE && left >= 8 {
                    group.tile::<M, OFFSET, 8>(machine, activations, vector, output)
                } else if left >= 4 {
                    group.tile::<M, OFFSET, 4>(machine, activations, vector, output)
                } else if left >= 2 {
                    group.tile::<M, OFFSET, 2>(machine, activations, vector, output)
                } else {
                    group.tile::<M, OFFSET, 1>(machine, activations, vector, output)
                };
            }
        }
    }
}

/// 16 rows.
struct Group<'a, B> {
    quants: &'a [B],
    scales: &'a [[f32; GROUP]],
    offsets: &'a [[f32; GROUP]],
}

impl<B: Block> Group<'_, B> {
    /// Computes `V` vectors, and says how many that is.
    #[inline(always)]
    fn tile<M: Machine, const OFFSET: bool, const V: usize>(
        &self,
        machine: M,
        activations: &Activations,
        vector: usize,
        output: &mut [[f32; GROUP]],
    ) -> usize {
        let blocks = self.quants.len();
        // Slices of exactly `blocks` elements, so that the loop below needs no check of bounds.
        let at = |v: usize| (vector + v) * blocks..(vector + v + 1) * blocks;
        let values: [&[Values]; V] = std::array::from_fn(|v| &activations.quants[at(v)]);
        let scales: [&[f32]; V] = std::array::from_fn(|v| &activations.scales[at(v)]);
        let sums: [&[f32]; V] = std::array::from_fn(|v| &activations.sums[at(v)]);
        for part in 0..M::PARTS {
            let mut totals = [machine.splat(0.0); V];
            for (block, quants) in self.quants.iter().enumerate() {
                let own: [&Values; V] = std::array::from_fn(|v| &values[v][block]);
                let products = quants.multiply(machine, part, own);
                let scale = machine.load(&self.scales[block], part);
                for (v, total) in totals.iter_mut().enumerate() {
                    let both = machine.multiply(scale, machine.splat(scales[v][block]));
                    *total = machine.multiply_add(machine.floats(products[v]), both, *total);
                }
                if OFFSET {
                    let offset = machine.load(&self.offsets[block], part);
                    for (v, total) in totals.iter_mut().enumerate() {
                        *total =
                            machine.multiply_add(offset, machine.splat(sums[v][block]), *total);
                    }
                }
            }
            for (v, total) in totals.into_iter().enumerate() {
                machine.store(total, &mut output[vector + v], part);
            }
        }
        V
    }
}

/// The quants of 16 × 32 weights.
trait Block {
    /// For each vector the sum of its products with each row.
    fn multiply<M: Machine, const V: usize>(
        &self,
        machine: M,
        part: usize,
        values: [&Values; V],
    ) -> [M::Ints; V];
}

impl Block for [[u8; GROUP * STEP]; 4] {
    #[inline(always)]
    fn multiply<M: Machine, const V: usize>(
        &self,
        machine: M,
        part: usize,
        values: [&Values; V],
    ) -> [M::Ints; V] {
        let zero = machine.multiply_halves(machine.spread([0; STEP]), machine.spread([0; STEP]));
        let mut sums = [zero; V];
        for (step, bytes) in self.iter().enumerate() {
            let (low, high) = machine.halves(machine.bytes(bytes, part));
            for (sum, values) in sums.iter_mut().zip(values) {
                let first = machine.multiply_halves(low, machine.spread(values[step]));
                let second = machine.multiply_halves(high, machine.spread(values[step + 4]));
                *sum = machine.add_words(*sum, machine.add_words(first, second));
            }
        }
        sums.map(
            #[inline(always)]
            |sum| machine.sum(sum),
        )
    }
}

impl Block for [[u8; GROUP * STEP]; 8] {
    #[inline(always)]
    fn multiply<M: Machine, const V: usize>(
        &self,
        machine: M,
        part: usize,
        values: [&Values; V],
    ) -> [M::Ints; V] {
        let zero = machine.spread([0; STEP]);
        let mut sums = [machine.sum(machine.multiply_halves(zero, zero)); V];
        for (step, bytes) in self.iter().enumerate() {
            let weights = machine.bytes(bytes, part);
            for (sum, values) in sums.iter_mut().zip(values) {
                let pairs = machine.multiply_signed(weights, machine.spread(values[step]));
                *sum = machine.add(*sum, machine.sum(pairs));
            }
        }
        sums
    }
}
