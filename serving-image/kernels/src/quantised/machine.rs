//! The SIMD operations of a product of bytes: 16 lanes, in one register (AVX-512), two (AVX2),
//! or none.

use super::{GROUP, STEP};

/// A machine's registers. All give the same bits.
pub(super) trait Machine: Copy {
    /// Registers that 16 lanes take.
    const PARTS: usize;
    /// Whether there are registers enough for eight vectors at once; else there are for four.
    const IS_WIDE: bool;
    /// Four bytes a lane.
    type Bytes: Copy;
    /// Two numbers of 16 bits a lane.
    type Words: Copy;
    /// One number of 32 bits a lane.
    type Ints: Copy;
    /// One float a lane.
    type Floats: Copy;

    fn bytes(self, from: &[u8; GROUP * STEP], part: usize) -> Self::Bytes;
    /// The low and the high halves of all bytes.
    fn halves(self, bytes: Self::Bytes) -> (Self::Bytes, Self::Bytes);
    /// The same four bytes in every lane.
    fn spread(self, four: [i8; STEP]) -> Self::Bytes;
    /// Sums of two products each; the weights are 0 to 15.
    fn multiply_halves(self, weights: Self::Bytes, values: Self::Bytes) -> Self::Words;
    /// Sums of two products each; the values are not −128.
    fn multiply_signed(self, weights: Self::Bytes, values: Self::Bytes) -> Self::Words;
    fn add_words(self, left: Self::Words, right: Self::Words) -> Self::Words;
    /// The sum of a lane's two numbers.
    fn sum(self, words: Self::Words) -> Self::Ints;
    fn add(self, left: Self::Ints, right: Self::Ints) -> Self::Ints;
    fn floats(self, ints: Self::Ints) -> Self::Floats;
    fn load(self, from: &[f32; GROUP], part: usize) -> Self::Floats;
    fn splat(self, number: f32) -> Self::Floats;
    fn multiply(self, left: Self::Floats, right: Self::Floats) -> Self::Floats;
    /// `left · right + more`, rounded once.
    fn multiply_add(
        self,
        left: Self::Floats,
        right: Self::Floats,
        more: Self::Floats,
    ) -> Self::Floats;
    fn store(self, floats: Self::Floats, to: &mut [f32; GROUP], part: usize);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m256i, __m512, __m512i};

    use pulp::x86::{V3, V4};

    use super::{GROUP, Machine, STEP};

    impl Machine for V4 {
        const PARTS: usize = 1;
        const IS_WIDE: bool = true;
        type Bytes = __m512i;
        type Words = __m512i;
        type Ints = __m512i;
        type Floats = __m512;

        #[inline(always)]
        fn bytes(self, from: &[u8; GROUP * STEP], _: usize) -> __m512i {
            pulp::cast(*from)
        }

        #[inline(always)]
        fn halves(self, bytes: __m512i) -> (__m512i, __m512i) {
            let mask = self.avx512f._mm512_set1_epi32(0x0f0f_0f0f);
            let high = self.avx512bw._mm512_srli_epi16::<4>(bytes);
            (
                self.avx512f._mm512_and_si512(bytes, mask),
                self.avx512f._mm512_and_si512(high, mask),
            )
        }

        #[inline(always)]
        fn spread(self, four: [i8; STEP]) -> __m512i {
            self.avx512f._mm512_set1_epi32(pulp::cast(four))
        }

        #[inline(always)]
        fn multiply_halves(self, weights: __m512i, values: __m512i) -> __m512i {
            self.avx512bw._mm512_maddubs_epi16(weights, values)
        }

        /// One factor must be unsigned: the weight's sign goes over to the value. A pair's sum is
        /// at most 2 × 128 × 127, which 16 bits just hold.
        #[inline(always)]
        fn multiply_signed(self, weights: __m512i, values: __m512i) -> __m512i {
            let size = self.avx512bw._mm512_abs_epi8(weights);
            let negative = self.avx512bw._mm512_movepi8_mask(weights);
            let zero = self.avx512f._mm512_set1_epi32(0);
            let values = self
                .avx512bw
                ._mm512_mask_sub_epi8(values, negative, zero, values);
            self.avx512bw._mm512_maddubs_epi16(size, values)
        }

        #[inline(always)]
        fn add_words(self, left: __m512i, right: __m512i) -> __m512i {
            self.avx512bw._mm512_add_epi16(left, right)
        }

        #[inline(always)]
        fn sum(self, words: __m512i) -> __m512i {
            let ones = self.avx512f._mm512_set1_epi32(0x0001_0001);
            self.avx512bw._mm512_madd_epi16(words, ones)
        }

        #[inline(always)]
        fn add(self, left: __m512i, right: __m512i) -> __m512i {
            self.avx512f._mm512_add_epi32(left, right)
        }

        #[inline(always)]
        fn floats(self, ints: __m512i) -> __m512 {
            self.avx512f._mm512_cvtepi32_ps(ints)
        }

        #[inline(always)]
        fn load(self, from: &[f32; GROUP], _: usize) -> __m512 {
            pulp::cast(*from)
        }

        #[inline(always)]
        fn splat(self, number: f32) -> __m512 {
            self.avx512f._mm512_set1_ps(number)
        }

        #[inline(always)]
        fn multiply(self, left: __m512, right: __m512) -> __m512 {
            self.avx512f._mm512_mul_ps(left, right)
        }

        #[inline(always)]
        fn multiply_add(self, left: __m512, right: __m512, more: __m512) -> __m512 {
            self.avx512f._mm512_fmadd_ps(left, right, more)
        }

        #[inline(always)]
        fn store(self, floats: __m512, to: &mut [f32; GROUP], _: usize) {
            *to = pulp::cast(floats);
        }
    }

    impl Machine for V3 {
        const PARTS: usize = 2;
        const IS_WIDE: bool = false;
        type Bytes = __m256i;
        type Words = __m256i;
        type Ints = __m256i;
        type Floats = __m256;

        #[inline(always)]
        fn bytes(self, from: &[u8; GROUP * STEP], part: usize) -> __m256i {
            pulp::cast(from.as_chunks::<32>().0[part])
        }

        #[inline(always)]
        fn halves(self, bytes: __m256i) -> (__m256i, __m256i) {
            let mask = self.avx._mm256_set1_epi8(15);
            let high = self.avx2._mm256_srli_epi16::<4>(bytes);
            (
                self.avx2._mm256_and_si256(bytes, mask),
                self.avx2._mm256_and_si256(high, mask),
            )
        }

        #[inline(always)]
        fn spread(self, four: [i8; STEP]) -> __m256i {
            self.avx._mm256_set1_epi32(pulp::cast(four))
        }

        #[inline(always)]
        fn multiply_halves(self, weights: __m256i, values: __m256i) -> __m256i {
            self.avx2._mm256_maddubs_epi16(weights, values)
        }

        /// As with AVX-512, which has no instruction for the sign.
        #[inline(always)]
        fn multiply_signed(self, weights: __m256i, values: __m256i) -> __m256i {
            let size = self.avx2._mm256_abs_epi8(weights);
            let values = self.avx2._mm256_sign_epi8(values, weights);
            self.avx2._mm256_maddubs_epi16(size, values)
        }

        #[inline(always)]
        fn add_words(self, left: __m256i, right: __m256i) -> __m256i {
            self.avx2._mm256_add_epi16(left, right)
        }

        #[inline(always)]
        fn sum(self, words: __m256i) -> __m256i {
            self.avx2
                ._mm256_madd_epi16(words, self.avx._mm256_set1_epi16(1))
        }

        #[inline(always)]
        fn add(self, left: __m256i, right: __m256i) -> __m256i {
            self.avx2._mm256_add_epi32(left, right)
        }

        #[inline(always)]
        fn floats(self, ints: __m256i) -> __m256 {
            self.avx._mm256_cvtepi32_ps(ints)
        }

        #[inline(always)]
        fn load(self, from: &[f32; GROUP], part: usize) -> __m256 {
            pulp::cast(from.as_chunks::<8>().0[part])
        }

        #[inline(always)]
        fn splat(self, number: f32) -> __m256 {
            self.avx._mm256_set1_ps(number)
        }

        #[inline(always)]
        fn multiply(self, left: __m256, right: __m256) -> __m256 {
            self.avx._mm256_mul_ps(left, right)
        }

        #[inline(always)]
        fn multiply_add(self, left: __m256, right: __m256, more: __m256) -> __m256 {
            self.fma._mm256_fmadd_ps(left, right, more)
        }

        #[inline(always)]
        fn store(self, floats: __m256, to: &mut [f32; GROUP], part: usize) {
            to.as_chunks_mut::<8>().0[part] = pulp::cast(floats);
        }
    }
}

/// Any machine. Slow where it has no instruction for [`f32::mul_add`], but right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Portable {
    fn pairs(weights: [i16; 64], values: [i8; 64]) -> [i16; 32] {
        std::array::from_fn(|pair| {
            [2 * pair, 2 * pair + 1]
                .map(|at| weights[at] * i16::from(values[at]))
                .iter()
                .sum()
        })
    }
}

impl Machine for Portable {
    const PARTS: usize = 1;
    const IS_WIDE: bool = false;
    type Bytes = [i8; 64];
    type Words = [i16; 32];
    type Ints = [i32; GROUP];
    type Floats = [f32; GROUP];

    fn bytes(self, from: &[u8; GROUP * STEP], _: usize) -> [i8; 64] {
        from.map(u8::cast_signed)
    }

    fn halves(self, bytes: [i8; 64]) -> ([i8; 64], [i8; 64]) {
        let bytes = bytes.map(i8::cast_unsigned);
        (
            bytes.map(|byte| (byte & 15).cast_signed()),
            bytes.map(|byte| (byte >> 4).cast_signed()),
        )
    }

    fn spread(self, four: [i8; STEP]) -> [i8; 64] {
        std::array::from_fn(|at| four[at % STEP])
    }

    fn multiply_halves(self, weights: [i8; 64], values: [i8; 64]) -> [i16; 32] {
        Self::pairs(weights.map(i16::from), values)
    }

    fn multiply_signed(self, weights: [i8; 64], values: [i8; 64]) -> [i16; 32] {
        Self::pairs(weights.map(i16::from), values)
    }

    fn add_words(self, left: [i16; 32], right: [i16; 32]) -> [i16; 32] {
        std::array::from_fn(|at| left[at] + right[at])
    }

    fn sum(self, words: [i16; 32]) -> [i32; GROUP] {
        std::array::from_fn(|lane| i32::from(words[2 * lane]) + i32::from(words[2 * lane + 1]))
    }

    fn add(self, left: [i32; GROUP], right: [i32; GROUP]) -> [i32; GROUP] {
        std::array::from_fn(|lane| left[lane] + right[lane])
    }

    fn floats(self, ints: [i32; GROUP]) -> [f32; GROUP] {
        ints.map(|number| number as f32)
    }

    fn load(self, from: &[f32; GROUP], _: usize) -> [f32; GROUP] {
        *from
    }

    fn splat(self, number: f32) -> [f32; GROUP] {
        [number; GROUP]
    }

    fn multiply(self, left: [f32; GROUP], right: [f32; GROUP]) -> [f32; GROUP] {
        std::array::from_fn(|lane| left[lane] * right[lane])
    }

    fn multiply_add(
        self,
        left: [f32; GROUP],
        right: [f32; GROUP],
        more: [f32; GROUP],
    ) -> [f32; GROUP] {
        std::array::from_fn(|lane| left[lane].mul_add(right[lane], more[lane]))
    }

    fn store(self, floats: [f32; GROUP], to: &mut [f32; GROUP], _: usize) {
        *to = floats;
    }
}
