//! Language models of the llama family (llama, qwen2, qwen3), read from GGUF files.
//!
//! The shape comes from the file's header, the weights stay quantised, and a batch may hold pieces
//! of several texts: some are being read, others written token by token. What a text gets never
//! depends on what else is in the batch.

mod attention;
mod config;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod fuzz_tests;
pub mod gguf;
mod matrix;
mod weights;

use candle_core::Result;
use rayon::prelude::*;
use serin_kernels::decoder::{rms_normalise, silu_gate};

pub use attention::Cache;
pub use config::Config;
pub use weights::LoadGgufError;

use attention::{Heads, View};
use config::Rotation;
use matrix::{Input, Projection};

/// A language model, ready to compute.
#[derive(Debug)]
pub struct Llama {
    /// Its shape.
    pub config: Config,
    embedding: Projection,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// None where the embedding is also the output matrix.
    output: Option<Projection>,
    /// By how much each pair of a head's numbers is turned from one position to the next, in
    /// radians.
    frequencies: Vec<f32>,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    /// Queries, keys and values.
    attention_in: Projection,
    /// Norms of each head's query and key (qwen3).
    head_norms: Option<(Vec<f32>, Vec<f32>)>,
    attention_out: Projection,
    feed_norm: Vec<f32>,
    /// Gate and values.
    feed_in: Projection,
    feed_out: Projection,
}

/// The next tokens of one text.
#[derive(Debug)]
pub struct Piece<'a> {
    /// What the text's earlier tokens left behind.
    pub cache: &'a mut Cache,
    /// At least one, none beyond the vocabulary.
    pub tokens: &'a [u32],
    /// Whether the scores of what follows the last token are wanted.
    pub scores: bool,
}

/// Buffers that are kept from one batch to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    state: Vec<f32>,
    normed: Vec<f32>,
    input: Input,
    product: Vec<f32>,
    inner: Vec<f32>,
    attended: Vec<f32>,
    gated: Vec<f32>,
    angles: Vec<(f32, f32)>,
    scores: Vec<f32>,
}

impl Scratch {
    /// Scores of every token of the vocabulary, for the `index`-th piece of the last batch that
    /// wanted them.
    pub fn scores(&mut self, index: usize, vocabulary: usize) -> &mut [f32] {
        &mut self.scores[index * vocabulary..(index + 1) * vocabulary]
    }
}

impl Llama {
    /// A cache for a text of up to `positions` tokens.
    pub fn cache(&self, positions: usize) -> Cache {
        Cache::new(self.config.layers, self.config.key_width(), positions)
    }

    /// Bytes that such a cache takes.
    pub fn cache_bytes(&self, positions: usize) -> usize {
        Cache::bytes(self.config.layers, self.config.key_width(), positions)
    }

    /// Computes all pieces as one batch. Call it on the thread pool that it may use. An error where
    /// a product fails.
    pub fn forward(&self, pieces: &mut [Piece<'_>], scratch: &mut Scratch) -> Result<()> {
        let config = &self.config;
        let views = views(pieces);
        self.embed(pieces, &mut scratch.state)?;
        self.rotate_by(&views, &mut scratch.angles);
        for (index, layer) in self.layers.iter().enumerate() {
            normalise(
                &scratch.state,
                &layer.attention_norm,
                config.epsilon,
                &mut scratch.normed,
            );
            scratch.input.set(&scratch.normed, config.width);
            layer
                .attention_in
                .forward(&scratch.input, &mut scratch.product, &mut scratch.inner)?;
            self.turn_and_remember(index, layer, pieces, scratch);
            self.look_back(index, pieces, &views, scratch);
            scratch.input.set(&scratch.attended, config.query_width());
            layer.attention_out.forward(
                &scratch.input,
                &mut scratch.product,
                &mut scratch.inner,
            )?;
            add(&mut scratch.state, &scratch.inner);

            normalise(
                &scratch.state,
                &layer.feed_norm,
                config.epsilon,
                &mut scratch.normed,
            );
            scratch.input.set(&scratch.normed, config.width);
            layer
                .feed_in
                .forward(&scratch.input, &mut scratch.product, &mut scratch.inner)?;
            gate(&scratch.inner, config.feed_width, &mut scratch.gated);
            scratch.input.set(&scratch.gated, config.feed_width);
            layer
                .feed_out
                .forward(&scratch.input, &mut scratch.product, &mut scratch.inner)?;
            add(&mut scratch.state, &scratch.inner);
        }
        for piece in pieces.iter_mut() {
            piece.cache.advance(piece.tokens.len());
        }
        self.score(pieces, scratch)
    }

    fn embed(&self, pieces: &[Piece<'_>], state: &mut Vec<f32>) -> Result<()> {
        let tokens = || pieces.iter().flat_map(|piece| piece.tokens);
        state.resize(tokens().count() * self.config.width, 0.0);
        for (token, row) in tokens().zip(state.chunks_exact_mut(self.config.width)) {
            self.embedding.row(*token as usize, row)?;
        }
        Ok(())
    }

    /// Cosine and sine for each row and pair of numbers.
    fn rotate_by(&self, views: &[View], angles: &mut Vec<(f32, f32)>) {
        angles.clear();
        for view in views {
            let position = (view.positions - 1) as f32;
            let turn = |frequency: &f32| {
                let (sine, cosine) = (position * frequency).sin_cos();
                (cosine, sine)
            };
            angles.extend(self.frequencies.iter().map(turn));
        }
    }

    /// Turns queries and keys by their position, and gives keys and values to the caches.
    fn turn_and_remember(
        &self,
        index: usize,
        layer: &Layer,
        pieces: &mut [Piece<'_>],
        scratch: &mut Scratch,
    ) {
        let config = &self.config;
        let (queries, keys) = (config.query_width(), config.key_width());
        let pairs = config.rotated / 2;
        let angles = scratch.angles.chunks_exact(pairs);
        for (row, angles) in scratch
            .inner
            .chunks_exact_mut(queries + 2 * keys)
            .zip(angles)
        {
            for (place, head) in row[..queries + keys]
                .chunks_exact_mut(config.head_width)
                .enumerate()
            {
                if let Some((query_norm, key_norm)) = &layer.head_norms {
                    let is_query = place < config.heads;
                    let weights = if is_query { query_norm } else { key_norm };
                    rms_normalise(head, weights, config.epsilon);
                }
                config.rotation.turn(&mut head[..config.rotated], angles);
            }
        }
        let mut rows = scratch.inner.chunks_exact(queries + 2 * keys);
        for piece in pieces {
            for row in rows.by_ref().take(piece.tokens.len()) {
                let (key, value) = row[queries..].split_at(keys);
                piece.cache.push(index, key, value);
            }
        }
    }

    fn look_back(&self, index: usize, pieces: &[Piece<'_>], views: &[View], scratch: &mut Scratch) {
        let config = &self.config;
        let heads = Heads {
            queries: config.heads,
            keys: config.key_heads,
            width: config.head_width,
        };
        let caches: Vec<&Cache> = pieces.iter().map(|piece| &*piece.cache).collect();
        let stride = config.query_width() + 2 * config.key_width();
        scratch
            .attended
            .resize(views.len() * config.query_width(), 0.0);
        heads.attend(
            index,
            &caches,
            views,
            (&scratch.inner, stride),
            &mut scratch.attended,
        );
    }

    /// Only the last row of each piece that wants scores goes through the output matrix, the
    /// largest of all.
    fn score(&self, pieces: &[Piece<'_>], scratch: &mut Scratch) -> Result<()> {
        let width = self.config.width;
        scratch.gated.clear();
        let mut end = 0;
        for piece in pieces {
            end += piece.tokens.len();
            if piece.scores {
                let last = &scratch.state[(end - 1) * width..end * width];
                scratch.gated.extend_from_slice(last);
            }
        }
        scratch.scores.clear();
        if scratch.gated.is_empty() {
            return Ok(());
        }
        normalise(
            &scratch.gated,
            &self.norm,
            self.config.epsilon,
            &mut scratch.normed,
        );
        scratch.input.set(&scratch.normed, width);
        let output = self.output.as_ref().unwrap_or(&self.embedding);
        output.forward(&scratch.input, &mut scratch.product, &mut scratch.scores)
    }
}

/// For each row of the batch, what it sees.
fn views(pieces: &[Piece<'_>]) -> Vec<View> {
    let rows = |(sequence, piece): (usize, &Piece<'_>)| {
        let before = piece.cache.length();
        (1..=piece.tokens.len()).map(move |own| View {
            sequence,
            positions: before + own,
        })
    };
    pieces.iter().enumerate().flat_map(rows).collect()
}

/// `x / √(mean(x²) + ε) · weight`, row by row.
fn normalise(rows: &[f32], weights: &[f32], epsilon: f32, output: &mut Vec<f32>) {
    output.clear();
    output.extend_from_slice(rows);
    for row in output.chunks_exact_mut(weights.len()) {
        rms_normalise(row, weights, epsilon);
    }
}

fn add(state: &mut [f32], more: &[f32]) {
    for (state, more) in state.iter_mut().zip(more) {
        *state += more;
    }
}

/// `silu(gate) · value`, where each row holds `width` gates and then as many values.
fn gate(rows: &[f32], width: usize, output: &mut Vec<f32>) {
    output.resize(rows.len() / 2, 0.0);
    let one = |(row, output): (&[f32], &mut [f32])| {
        let (gates, values) = row.split_at(width);
        silu_gate(gates, values, output);
    };
    if rows.len() > 2 * width {
        rows.par_chunks_exact(2 * width)
            .zip(output.par_chunks_exact_mut(width))
            .with_min_len(4)
            .for_each(one);
    } else {
        one((rows, output)); // a few µs: not worth another thread
    }
}

impl Rotation {
    fn turn(self, head: &mut [f32], angles: &[(f32, f32)]) {
        let half = head.len() / 2;
        for (pair, (cosine, sine)) in angles.iter().enumerate() {
            let (first, second) = match self {
                Self::Neighbours => (2 * pair, 2 * pair + 1),
                Self::Halves => (pair, pair + half),
            };
            let (x, y) = (head[first], head[second]);
            head[first] = x * cosine - y * sine;
            head[second] = x * sine + y * cosine;
        }
    }
}
