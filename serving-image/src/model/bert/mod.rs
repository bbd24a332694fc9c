//! BERT and its relatives: embeddings, classification and reranking.
//!
//! Weights come as candle tensors and are packed once for `serin_kernels`, which is about 3 times
//! as fast as candle's own operations on a CPU: `reference.rs` keeps those, as what the tests hold
//! this to.
//!
//! Nothing is computed for padding: texts of any length lie side by side, and only attention knows
//! where one ends.

mod config;
mod encoder;
mod family;
mod head;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
mod thread_pool;
mod weights;

use std::ops::Range;
use std::sync::Arc;

use candle_core::Result;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::tensors::Tensors;
use crate::artefact::{Head, Manifest, Network, Pooling};
use crate::prediction::Prediction;
use crate::preprocess::Tokens;
pub(super) use config::Config;
use encoder::Encoder;
use head::Output;
use weights::Weights;

/// Tokens that go through the layers together: their activations stay in the second-level cache (1
/// MiB), and the weights are read from memory seldom enough. A longer text goes alone.
const CHUNK_TOKENS: usize = 144;

/// An encoder and what follows it.
#[derive(Debug)]
pub(super) struct Bert {
    encoder: Arc<Encoder>,
    output: Output,
}

impl Bert {
    /// Takes the tensors by Hugging Face's names, with or without the prefix of the encoder's
    /// (`bert.`).
    pub(super) fn load(
        tensors: &dyn Tensors,
        config: &Config,
        manifest: &Manifest,
    ) -> Result<Self> {
        let (pooling, head) = match manifest.network {
            Network::Bert { pooling, head, .. } => (pooling, head),
            _ => (Pooling::default(), Head::default()),
        };
        let family = config.family()?;
        config.check()?;
        if let Some(tokens) = manifest.max_tokens() {
            config.check_room(tokens, family)?;
        }
        let weights = Weights::new(tensors, family);
        Ok(Self {
            encoder: Arc::new(Encoder::load(&weights, config)?),
            output: Output::load(&weights, config, pooling, head, manifest)?,
        })
    }

    /// The answer to each text.
    pub(super) fn predict(&self, texts: &[Tokens]) -> Result<Vec<Prediction>> {
        let threads = rayon::current_num_threads();
        let chunks = chunks(texts, threads);
        // With enough chunks, each thread computes whole chunks and none waits for another. With
        // fewer, all threads share each layer of each chunk.
        let pooled: Vec<Vec<Vec<f32>>> = if chunks.len() >= threads {
            let encode = |chunk: &Range<usize>| self.encode(&texts[chunk.clone()], 1);
            chunks.par_iter().map(encode).collect::<Result<_>>()?
        } else {
            let encode = |chunk: Range<usize>| self.encode(&texts[chunk], threads);
            chunks.into_iter().map(encode).collect::<Result<_>>()?
        };
        let outputs = self.output.apply(pooled.concat())?;
        let predictions = outputs
            .into_iter()
            .zip(texts)
            .map(|(output, text)| Prediction {
                output,
                tokens: text.ids.len(),
                truncated: text.truncated,
                ..Default::default()
            });
        Ok(predictions.collect())
    }

    fn encode(&self, texts: &[Tokens], threads: usize) -> Result<Vec<Vec<f32>>> {
        let hidden = self.encoder.forward(texts, threads)?;
        Ok(self.output.pool(&hidden))
    }
}

/// Neighbouring texts, cut so that no chunk but a single text's has more tokens than
/// [`CHUNK_TOKENS`], and so that the chunks are a multiple of the threads where there are many.
fn chunks(texts: &[Tokens], threads: usize) -> Vec<Range<usize>> {
    let total: usize = texts.iter().map(|text| text.ids.len()).sum();
    let mut count = total.div_ceil(CHUNK_TOKENS);
    if count >= threads {
        count = count.next_multiple_of(threads);
    }
    let limit = total.div_ceil(count.max(1));
    let mut chunks: Vec<Range<usize>> = Vec::with_capacity(count);
    let mut tokens = 0;
    for (index, text) in texts.iter().enumerate() {
        tokens += text.ids.len();
        match chunks.last_mut() {
            Some(chunk) if tokens <= limit => chunk.end = index + 1,
            _ => {
                tokens = text.ids.len();
                chunks.push(index..index + 1);
            }
        }
    }
    chunks
}
