//! The key-value cache of a sequence, and the attention of a token to it.

use rayon::prelude::*;
use serin_kernels::decoder::Window;

/// Scores of fewer positions than this, over all heads, are not worth another thread: about 20 µs
/// of work.
const PARALLEL_POSITIONS: usize = 512;

/// Keys and values of one sequence, for each layer.
#[derive(Debug)]
pub struct Cache {
    layers: Vec<Layer>,
    width: usize,
    length: usize,
}

#[derive(Debug)]
struct Layer {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Cache {
    /// Room for `positions` tokens: memory is set aside at once, and taken when it is written to.
    pub fn new(layers: usize, width: usize, positions: usize) -> Self {
        let layer = || Layer {
            keys: Vec::with_capacity(positions * width),
            values: Vec::with_capacity(positions * width),
        };
        Self {
            layers: (0..layers).map(|_| layer()).collect(),
            width,
            length: 0,
        }
    }

    /// Bytes that a cache of that shape takes when it is full.
    pub fn bytes(layers: usize, width: usize, positions: usize) -> usize {
        2 * size_of::<f32>() * layers * width * positions
    }

    /// Tokens that were computed so far.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Remembers one token's key and value in a layer.
    pub fn push(&mut self, layer: usize, key: &[f32], value: &[f32]) {
        self.layers[layer].keys.extend_from_slice(key);
        self.layers[layer].values.extend_from_slice(value);
    }

    /// Counts tokens that all layers have been given.
    pub fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }
}

/// The shape of attention.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Heads that ask.
    pub queries: usize,
    /// Heads that are looked at; each serves `queries / keys` of those that ask.
    pub keys: usize,
    /// Numbers in a head.
    pub width: usize,
}

/// One row of a batch: which cache it looks at, and how many of its positions.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// Place of the cache in the batch.
    pub sequence: usize,
    /// Positions that are seen: those before, and its own.
    pub positions: usize,
}

impl Heads {
    /// What each row sees in a layer, head by head. The queries' rows lie `stride` apart.
    pub fn attend(
        &self,
        layer: usize,
        caches: &[&Cache],
        views: &[View],
        (queries, stride): (&[f32], usize),
        output: &mut [f32],
    ) {
        let one = |scores: &mut Vec<f32>, index: usize, output: &mut [f32]| {
            let (row, head) = (index / self.queries, index % self.queries);
            let cache = caches[views[row].sequence];
            let window = Window {
                keys: &cache.layers[layer].keys,
                values: &cache.layers[layer].values,
                stride: cache.width,
                offset: head / (self.queries / self.keys) * self.width,
                positions: views[row].positions,
            };
            let query = &queries[row * stride + head * self.width..][..self.width];
            window.attend(query, scores, output);
        };
        let seen: usize = views.iter().map(|view| view.positions * self.queries).sum();
        if seen < PARALLEL_POSITIONS {
            let mut scores = Vec::new();
            for (index, output) in output.chunks_exact_mut(self.width).enumerate() {
                one(&mut scores, index, output);
            }
        } else {
            output
                .par_chunks_exact_mut(self.width)
                .enumerate()
                .for_each_init(Vec::new, |scores, (index, output)| {
                    one(scores, index, output);
                });
        }
    }
}
