//! The products with AVX2, which nearly every x86-64 server of the last ten years has.

use pulp::x86::V3;

use super::{Activations, BLOCK, Packed, Quants, dot, sum_lanes};

/// As [`Packed::multiply`].
pub(super) fn multiply(
    simd: V3,
    weights: &Packed,
    activations: &Activations,
    first: usize,
    output: &mut [f32],
) {
    simd.vectorize(Task {
        weights,
        activations,
        first,
        output,
        simd,
    });
}

/// Some rows of a product, computed with AVX2.
struct Task<'a> {
    weights: &'a Packed,
    activations: &'a Activations,
    first: usize,
    output: &'a mut [f32],
    simd: V3,
}

impl pulp::NullaryFnOnce for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        match &self.weights.quants {
            Quants::Nibbles(quants) => self.rows(quants),
            Quants::Bytes(quants) => self.rows(quants),
        }
    }
}

impl Task<'_> {
    /// Tiles of 4 rows × 1 vector while a text is written, 2 × 4 while prompts are read: 4 or 8 independent sums keep
    /// the multipliers busy, and what is loaded is used 4 times or more.
    #[inline(always)]
    fn rows<W: BlockOfWeights>(self, quants: &[W]) {
        let vectors = self.activations.rows;
        let rows = self.output.len() / vectors;
        let mut vector = 0;
        while vector + 4 <= vectors {
            let paired = rows / 2 * 2;
            for row in (0..paired).step_by(2) {
                self.tile::<W, 2, 4>(quants, row, vector)
                    .write(self.output, row, vector, vectors);
            }
            if paired < rows {
                self.tile::<W, 1, 4>(quants, paired, vector).write(
                    self.output,
                    paired,
                    vector,
                    vectors,
                );
            }
            vector += 4;
        }
        for vector in vector..vectors {
            let fours = rows / 4 * 4;
            for row in (0..fours).step_by(4) {
                self.tile::<W, 4, 1>(quants, row, vector)
                    .write(self.output, row, vector, vectors);
            }
            for row in fours..rows {
                self.tile::<W, 1, 1>(quants, row, vector)
                    .write(self.output, row, vector, vectors);
            }
        }
    }

    #[inline(always)]
    fn tile<W: BlockOfWeights, const R: usize, const V: usize>(
        &self,
        quants: &[W],
        row: usize,
        vector: usize,
    ) -> Tile<R, V> {
        let simd = self.simd;
        let blocks = self.weights.columns / BLOCK;
        let (weights, activations) = (self.weights, self.activations);
        // Slices of exactly `blocks` elements, so that the loop below needs no check of bounds.
        let w_at = |r: usize| (self.first + row + r) * blocks..(self.first + row + r + 1) * blocks;
        let x_at = |v: usize| (vector + v) * blocks..(vector + v + 1) * blocks;
        let w: [&[W]; R] = std::array::from_fn(|r| &quants[w_at(r)]);
        let w_scales: [&[f32]; R] = std::array::from_fn(|r| &weights.scales[w_at(r)]);
        let x: [&[[i8; BLOCK]]; V] = std::array::from_fn(|v| &activations.quants[x_at(v)]);
        let x_scales: [&[f32]; V] = std::array::from_fn(|v| &activations.scales[x_at(v)]);

        let mut sums = [[simd.avx._mm256_setzero_ps(); V]; R];
        for block in 0..blocks {
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = w[r][block].unpack(simd);
                for (v, sum) in sums.iter_mut().enumerate() {
                    let product = W::multiply(simd, weight, pulp::cast(x[v][block]));
                    let scale = simd
                        .avx
                        ._mm256_set1_ps(w_scales[r][block] * x_scales[v][block]);
                    let product = simd.avx._mm256_cvtepi32_ps(product);
                    *sum = simd.fma._mm256_fmadd_ps(product, scale, *sum);
                }
            }
        }
        let mut tile = Tile([[0.0; V]; R]);
        for (r, (outputs, sums)) in tile.0.iter_mut().zip(sums).enumerate() {
            for (v, (output, sum)) in outputs.iter_mut().zip(sums).enumerate() {
                *output = sum_lanes(pulp::cast(sum));
                if W::HAS_OFFSET {
                    *output += dot(&weights.offsets[w_at(r)], &activations.sums[x_at(v)]);
                }
            }
        }
        tile
    }
}

/// Finished outputs: rows × vectors.
struct Tile<const R: usize, const V: usize>([[f32; V]; R]);

impl<const R: usize, const V: usize> Tile<R, V> {
    #[inline(always)]
    fn write(self, output: &mut [f32], row: usize, vector: usize, vectors: usize) {
        for (r, values) in self.0.iter().enumerate() {
            let start = (row + r) * vectors + vector;
            output[start..start + V].copy_from_slice(values);
        }
    }
}

type Lanes = std::arch::x86_64::__m256i;

/// 32 weights that can be multiplied with 32 signed bytes, giving 8 sums of 32 bits.
trait BlockOfWeights: Copy {
    /// Whether weights have an offset besides their scale.
    const HAS_OFFSET: bool;

    /// One byte for each weight.
    fn unpack(self, simd: V3) -> Lanes;

    /// Sums of 4 products each.
    fn multiply(simd: V3, weights: Lanes, values: Lanes) -> Lanes;
}

impl BlockOfWeights for [u8; BLOCK / 2] {
    const HAS_OFFSET: bool = true;

    #[inline(always)]
    fn unpack(self, simd: V3) -> Lanes {
        let low = pulp::cast(self);
        let high = simd.sse2._mm_srli_epi16::<4>(low);
        let both = simd.avx._mm256_set_m128i(high, low);
        simd.avx2
            ._mm256_and_si256(both, simd.avx._mm256_set1_epi8(15))
    }

    /// A pair's sum is at most 2 × 15 × 127, far from the end of 16 bits.
    #[inline(always)]
    fn multiply(simd: V3, weights: Lanes, values: Lanes) -> Lanes {
        let pairs = simd.avx2._mm256_maddubs_epi16(weights, values);
        simd.avx2
            ._mm256_madd_epi16(pairs, simd.avx._mm256_set1_epi16(1))
    }
}

impl BlockOfWeights for [i8; BLOCK] {
    const HAS_OFFSET: bool = false;

    #[inline(always)]
    fn unpack(self, _: V3) -> Lanes {
        pulp::cast(self)
    }

    /// One factor must be unsigned: the weight's sign goes over to the value. A pair's sum is at most 2 × 128 × 127,
    /// which 16 bits just hold.
    #[inline(always)]
    fn multiply(simd: V3, weights: Lanes, values: Lanes) -> Lanes {
        let size = simd.avx2._mm256_abs_epi8(weights);
        let values = simd.avx2._mm256_sign_epi8(values, weights);
        let pairs = simd.avx2._mm256_maddubs_epi16(size, values);
        simd.avx2
            ._mm256_madd_epi16(pairs, simd.avx._mm256_set1_epi16(1))
    }
}
