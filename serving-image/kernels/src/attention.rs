//! Attention of each text's tokens to each other: scores, softmax and weighted values, panel by
//! panel.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use crate::math::{exp, multiply_add, registers, registers_mut};
use crate::{Aligned, Grid, block_rows};

/// `softmax(q kᵀ) v` for some heads. Queries come scaled by 1/√width already: that is folded into
/// their weights.
#[derive(Debug)]
pub struct Attention<'a> {
    /// The texts, as ranges of the grid's tokens.
    pub texts: &'a [Range<usize>],
    /// Heads to compute. For each, the input has 3 · `width` features: queries, keys, values.
    pub heads: usize,
    /// Features of a head: a multiple of the machine's block.
    pub width: usize,
    /// The layout of input and output.
    pub grid: Grid,
}

impl Attention<'_> {
    /// Fills `context` (heads · width features) from `qkv` (heads · 3 · width features).
    ///
    /// # Panics
    /// Where a buffer does not fit the grid.
    pub fn run(&self, qkv: &[f32], context: &mut [f32]) {
        assert_eq!(qkv.len(), self.grid.len(3 * self.heads * self.width));
        assert_eq!(context.len(), self.grid.len(self.heads * self.width));
        Arch::new().dispatch(Run {
            attention: self,
            qkv,
            context,
        });
    }
}

struct Run<'a, 'p> {
    attention: &'a Attention<'p>,
    qkv: &'a [f32],
    context: &'a mut [f32],
}

/// One head of one text, in the layout of products: keys and values as weights, queries and scores
/// as activations.
struct Scratch {
    /// Tokens in blocks; inside a block, feature by feature.
    keys: Aligned,
    /// Features in blocks; inside a block, token by token.
    values: Aligned,
    /// Features × the lanes of a panel.
    queries: Aligned,
    /// Tokens × the lanes of a panel.
    scores: Aligned,
    /// Features × the lanes of a panel.
    out: Aligned,
}

impl Run<'_, '_> {
    #[inline(always)]
    fn all<S: Simd, const M: usize>(mut self, simd: S) {
        let width = self.attention.width;
        let longest = self
            .attention
            .texts
            .iter()
            .map(ExactSizeIterator::len)
            .max();
        let longest = longest.unwrap_or(0).next_multiple_of(M);
        let panel = Grid::MAX_VECTORS * S::F32_LANES;
        let mut scratch = Scratch {
            keys: Aligned::zeros(longest * width),
            values: Aligned::zeros(longest * width),
            queries: Aligned::zeros(width * panel),
            scores: Aligned::zeros(longest * panel),
            out: Aligned::zeros(width * panel),
        };
        for text in self.attention.texts {
            for head in 0..self.attention.heads {
                self.gather_keys_and_values::<M>(text, head, &mut scratch);
                // The text's own panels: its tokens from lane 0 on.
                for panel in Grid::new(text.len(), S::F32_LANES).panels() {
                    let from = text.start + panel.start;
                    let queries = from..text.end.min(from + panel.width);
                    self.gather_queries(&queries, head, panel.width, &mut scratch);
                    let tokens = text.len();
                    match panel.width / S::F32_LANES {
                        1 => scratch.attend::<S, M, 1>(simd, tokens, width),
                        2 => scratch.attend::<S, M, 2>(simd, tokens, width),
                        _ => scratch.attend::<S, M, 3>(simd, tokens, width),
                    }
                    self.scatter(&queries, head, panel.width, &scratch);
                }
            }
        }
    }

    #[inline(always)]
    fn gather_keys_and_values<const M: usize>(
        &self,
        text: &Range<usize>,
        head: usize,
        scratch: &mut Scratch,
    ) {
        let Attention { heads, width, .. } = *self.attention;
        let features = 3 * heads * width;
        let (key, value) = ((3 * head + 1) * width, (3 * head + 2) * width);
        for segment in self.attention.grid.segments(text.clone()) {
            for feature in 0..width {
                let from = &self.qkv[segment.of(features, key + feature)];
                for (index, number) in from.iter().enumerate() {
                    let token = segment.before + index;
                    scratch.keys[(token / M * width + feature) * M + token % M] = *number;
                }
                let from = &self.qkv[segment.of(features, value + feature)];
                let start = (feature / M * text.len() + segment.before) * M + feature % M;
                let to = scratch.values[start..].iter_mut().step_by(M);
                for (place, number) in to.zip(from) {
                    *place = *number;
                }
            }
        }
    }

    #[inline(always)]
    fn gather_queries(
        &self,
        tokens: &Range<usize>,
        head: usize,
        lanes: usize,
        scratch: &mut Scratch,
    ) {
        let Attention { heads, width, .. } = *self.attention;
        for segment in self.attention.grid.segments(tokens.clone()) {
            for feature in 0..width {
                let from = &self.qkv[segment.of(3 * heads * width, 3 * head * width + feature)];
                let start = feature * lanes + segment.before;
                scratch.queries[start..start + segment.len].copy_from_slice(from);
            }
        }
    }

    #[inline(always)]
    fn scatter(&mut self, tokens: &Range<usize>, head: usize, lanes: usize, scratch: &Scratch) {
        let Attention { heads, width, .. } = *self.attention;
        for segment in self.attention.grid.segments(tokens.clone()) {
            for feature in 0..width {
                let to = &mut self.context[segment.of(heads * width, head * width + feature)];
                let start = feature * lanes + segment.before;
                to.copy_from_slice(&scratch.out[start..start + segment.len]);
            }
        }
    }
}

impl Scratch {
    /// The queries of one panel to all tokens of the text. Lanes without a query compute unused
    /// numbers.
    #[inline(always)]
    fn attend<S: Simd, const M: usize, const V: usize>(
        &mut self,
        simd: S,
        tokens: usize,
        width: usize,
    ) {
        let zeros = [[simd.splat_f32s(0.0); V]; M];
        let queries = &registers::<S, V>(&self.queries)[..width];
        let scores = registers_mut::<S, V>(&mut self.scores);
        let blocks = scores.as_chunks_mut::<M>().0;
        let keys = self.keys.as_chunks::<M>().0.chunks_exact(width);
        for (scores, keys) in blocks.iter_mut().zip(keys).take(tokens.div_ceil(M)) {
            *scores = multiply_add(simd, keys, queries, zeros);
        }

        let scores = &mut scores[..tokens];
        let mut largest = [simd.splat_f32s(f32::MIN); V];
        for row in scores.iter() {
            for (largest, score) in largest.iter_mut().zip(row) {
                *largest = simd.max_f32s(*largest, *score);
            }
        }
        let mut total = [simd.splat_f32s(0.0); V];
        for row in scores.iter_mut() {
            for ((score, largest), total) in row.iter_mut().zip(&largest).zip(&mut total) {
                *score = exp(simd, simd.sub_f32s(*score, *largest));
                *total = simd.add_f32s(*total, *score);
            }
        }

        let share = total.map(|total| simd.div_f32s(simd.splat_f32s(1.0), total));
        let values = self.values.as_chunks::<M>().0.chunks_exact(tokens);
        let out = registers_mut::<S, V>(&mut self.out).as_chunks_mut::<M>().0;
        for (out, values) in out.iter_mut().zip(values).take(width / M) {
            *out = multiply_add(simd, values, scores, zeros);
            for row in out {
                for (value, share) in row.iter_mut().zip(&share) {
                    *value = simd.mul_f32s(*value, *share);
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
            self.all::<S, 8>(simd);
        } else {
            self.all::<S, 4>(simd);
        }
    }
}
