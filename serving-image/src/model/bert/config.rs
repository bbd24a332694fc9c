//! Hugging Face's `config.json`.

use candle_core::{Result, bail};
use serde::Deserialize;

/// The kernels compute that many rows together on some machines; sizes that divide by it fit all of them.
const ROWS: usize = 8;

/// What is read of `config.json`.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::model) struct Config {
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_attention_heads: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) max_position_embeddings: usize,
    pub(super) layer_norm_eps: f32,
    pub(super) hidden_act: String,
    /// Others have tensors of the same names that mean something else, such as `RoBERTa`'s positions, which begin at 2.
    model_type: Option<String>,
    position_embedding_type: Option<String>,
}

impl Config {
    /// Features of one head.
    pub(super) fn head_width(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Refuses what the encoder cannot compute, naming it.
    pub(super) fn check(&self) -> Result<()> {
        for (name, found, computed) in [
            ("model_type", &self.model_type, "bert"),
            (
                "position_embedding_type",
                &self.position_embedding_type,
                "absolute",
            ),
        ] {
            if let Some(found) = found.as_ref().filter(|found| *found != computed) {
                bail!("{name} is {found}, but only {computed} is supported");
            }
        }
        if self.hidden_act != "gelu" {
            bail!(
                "hidden_act is {}, but only gelu is supported",
                self.hidden_act
            );
        }
        if self.num_attention_heads == 0
            || !self.hidden_size.is_multiple_of(self.num_attention_heads)
        {
            bail!("hidden_size is no multiple of num_attention_heads");
        }
        for (name, size) in [
            ("hidden_size / num_attention_heads", self.head_width()),
            ("intermediate_size", self.intermediate_size),
        ] {
            if size == 0 || !size.is_multiple_of(ROWS) {
                bail!("{name} is {size}, but must be a multiple of {ROWS}");
            }
        }
        Ok(())
    }
}
