//! Hugging Face's `config.json`.

use candle_core::{Result, bail};
use serde::Deserialize;

use super::family::Family;

/// The kernels compute that many rows together on some machines; sizes that divide by it fit all of
/// them.
const ROWS: usize = 8;

/// The padding token of `RoBERTa`, whose `config.json` need not tell it.
const PADDING: u32 = 1;

/// The fields of `config.json` that are read; the aliases are `DistilBERT`'s.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::model) struct Config {
    #[serde(alias = "dim")]
    pub(super) hidden_size: usize,
    #[serde(alias = "hidden_dim")]
    pub(super) intermediate_size: usize,
    #[serde(alias = "n_heads")]
    pub(super) num_attention_heads: usize,
    #[serde(alias = "n_layers")]
    pub(super) num_hidden_layers: usize,
    pub(super) max_position_embeddings: usize,
    #[serde(default = "layer_norm_eps")]
    pub(super) layer_norm_eps: f32,
    #[serde(alias = "activation")]
    hidden_act: String,
    model_type: Option<String>,
    position_embedding_type: Option<String>,
    pad_token_id: Option<u32>,
}

/// What `DistilBERT`'s code has in place of a setting.
fn layer_norm_eps() -> f32 {
    1e-12
}

impl Config {
    /// Features of one head.
    pub(super) fn head_width(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// The names and habits of the model's family.
    pub(super) fn family(&self) -> Result<&'static Family> {
        Family::of(self.model_type.as_deref())
    }

    /// The token that takes no position of its own, where the family's positions follow its id.
    pub(super) fn padding(&self, family: &Family) -> Option<usize> {
        family
            .positions_follow_padding
            .then(|| self.pad_token_id.unwrap_or(PADDING) as usize)
    }

    /// Refuses what the encoder cannot compute, naming it.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(found) = self.position_embedding_type.as_deref()
            && found != "absolute"
        {
            bail!("position_embedding_type is {found}, but only absolute is supported");
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

    /// Refuses a `maxTokens` above the positions of the model.
    pub(super) fn check_room(&self, tokens: usize, family: &Family) -> Result<()> {
        let first = self.padding(family).map_or(0, |padding| padding + 1);
        let room = self.max_position_embeddings.saturating_sub(first);
        if tokens > room {
            let after = if first == 0 {
                String::new()
            } else {
                format!(", of which the first {first} are no text's")
            };
            bail!(
                "the tokenize step's maxTokens is {tokens}, but the model has room for {room}: \
                 max_position_embeddings is {}{after}",
                self.max_position_embeddings
            );
        }
        Ok(())
    }
}
