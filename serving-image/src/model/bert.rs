//! A BERT encoder with mean pooling, on plain candle tensors (`candle-transformers` would cost ten minutes of build).

use std::collections::HashMap;

use candle_core::{D, Device, Result, Tensor, bail};
use candle_nn::ops::{layer_norm, softmax_last_dim};
use serde::Deserialize;

use super::{Prediction, tensor};
use crate::preprocess::Tokens;

/// Texts in one forward pass. More gains nothing on a CPU, and bounds the memory of a pass.
const MAX_BATCH: usize = 32;

/// What is read of Hugging Face's `config.json`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    hidden_size: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    max_position_embeddings: usize,
    layer_norm_eps: f64,
    hidden_act: String,
}

/// The encoder.
#[derive(Debug)]
pub(super) struct Bert {
    /// Vocabulary × hidden.
    words: Tensor,
    /// Positions × hidden, with the embedding of token type 0 added: a single text has no other.
    positions: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
}

#[derive(Debug)]
struct Layer {
    /// Queries, keys and values in one product.
    qkv: Linear,
    attention_output: Linear,
    attention_norm: Norm,
    intermediate: Linear,
    output: Linear,
    output_norm: Norm,
}

#[derive(Debug)]
struct Linear {
    /// Inputs × outputs: transposed and laid out once.
    weight: Tensor,
    bias: Tensor,
}

#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

impl Linear {
    fn load(weights: &HashMap<String, Tensor>, names: &[String]) -> Result<Self> {
        let part = |suffix: &str| -> Result<Vec<Tensor>> {
            names
                .iter()
                .map(|name| tensor(weights, &format!("{name}.{suffix}")))
                .collect()
        };
        Ok(Self {
            weight: Tensor::cat(&part("weight")?, 0)?.t()?.contiguous()?,
            bias: Tensor::cat(&part("bias")?, 0)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // One product of (texts · tokens) rows: a batched one would multiply text by text.
        let (texts, tokens, width) = x.dims3()?;
        let product = x
            .reshape((texts * tokens, width))?
            .matmul(&self.weight)?
            .broadcast_add(&self.bias)?;
        product.reshape((texts, tokens, ()))
    }
}

impl Norm {
    fn load(weights: &HashMap<String, Tensor>, name: &str, config: &Config) -> Result<Self> {
        Ok(Self {
            weight: tensor(weights, &format!("{name}.weight"))?,
            bias: tensor(weights, &format!("{name}.bias"))?,
            epsilon: config.layer_norm_eps as f32,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, self.epsilon)
    }
}

impl Bert {
    /// Takes the tensors by Hugging Face's names, with or without the prefix `bert.`.
    pub(super) fn load(weights: &HashMap<String, Tensor>, config: &Config) -> Result<Self> {
        if config.hidden_act != "gelu" {
            bail!(
                "hidden_act is {}, but only gelu is supported",
                config.hidden_act
            );
        }
        if config.num_attention_heads == 0
            || !config
                .hidden_size
                .is_multiple_of(config.num_attention_heads)
        {
            bail!("hidden_size is no multiple of num_attention_heads");
        }
        let prefixed = weights.contains_key("bert.embeddings.word_embeddings.weight");
        let root = if prefixed { "bert." } else { "" };
        let embedding = |name: &str| tensor(weights, &format!("{root}embeddings.{name}.weight"));
        let token_type = embedding("token_type_embeddings")?.narrow(0, 0, 1)?;
        let positions = embedding("position_embeddings")?.broadcast_add(&token_type)?;
        if positions.dim(0)? != config.max_position_embeddings {
            bail!("max_position_embeddings is not the length of the position embeddings");
        }
        let layers = (0..config.num_hidden_layers)
            .map(|index| {
                let at = |name: &str| format!("{root}encoder.layer.{index}.{name}");
                Ok(Layer {
                    qkv: Linear::load(
                        weights,
                        &["query", "key", "value"]
                            .map(|name| at(&format!("attention.self.{name}"))),
                    )?,
                    attention_output: Linear::load(weights, &[at("attention.output.dense")])?,
                    attention_norm: Norm::load(weights, &at("attention.output.LayerNorm"), config)?,
                    intermediate: Linear::load(weights, &[at("intermediate.dense")])?,
                    output: Linear::load(weights, &[at("output.dense")])?,
                    output_norm: Norm::load(weights, &at("output.LayerNorm"), config)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            words: embedding("word_embeddings")?,
            positions,
            norm: Norm::load(weights, &format!("{root}embeddings.LayerNorm"), config)?,
            layers,
            heads: config.num_attention_heads,
        })
    }

    /// One vector of unit length for each text.
    pub(super) fn embed(&self, texts: &[Tokens]) -> Result<Vec<Prediction>> {
        // Texts of like length share a pass, so that little is computed for padding.
        let mut by_length: Vec<usize> = (0..texts.len()).collect();
        by_length.sort_by_key(|index| texts[*index].ids.len());
        let mut predictions = vec![None; texts.len()];
        for pass in by_length.chunks(MAX_BATCH) {
            let ids: Vec<&[u32]> = pass
                .iter()
                .map(|index| texts[*index].ids.as_slice())
                .collect();
            for (index, output) in pass.iter().zip(self.encode(&ids)?) {
                let Tokens { ids, truncated } = &texts[*index];
                predictions[*index] = Some(Prediction {
                    output,
                    tokens: ids.len(),
                    truncated: *truncated,
                });
            }
        }
        Ok(predictions.into_iter().flatten().collect())
    }

    fn encode(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let longest = texts.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(texts.len() * longest);
        let mut present = Vec::with_capacity(texts.len() * longest);
        for text in texts {
            let padding = longest - text.len();
            ids.extend(text.iter().copied().chain(std::iter::repeat_n(0, padding)));
            present.extend(
                std::iter::repeat_n(1f32, text.len()).chain(std::iter::repeat_n(0f32, padding)),
            );
        }
        let shape = (texts.len(), longest);
        let ids = Tensor::from_vec(ids, shape, &Device::Cpu)?;
        let present = Tensor::from_vec(present, shape, &Device::Cpu)?;
        // Added to the scores of attention: 0 for a token, −10⁹ for padding, which softmax turns into 0.
        let mask = ((&present - 1.0)? * 1e9)?.reshape((texts.len(), 1, 1, longest))?;

        let words =
            self.words
                .index_select(&ids.flatten_all()?, 0)?
                .reshape((texts.len(), longest, ()))?;
        let mut x = self
            .norm
            .forward(&words.broadcast_add(&self.positions.narrow(0, 0, longest)?)?)?;
        for layer in &self.layers {
            x = layer.forward(&x, &mask, self.heads)?;
        }

        let weights = present.reshape((texts.len(), longest, 1))?;
        let mean = x
            .broadcast_mul(&weights)?
            .sum(1)?
            .broadcast_div(&weights.sum(1)?)?;
        let length = mean.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
        mean.broadcast_div(&length)?.to_vec2()
    }
}

impl Layer {
    fn forward(&self, x: &Tensor, mask: &Tensor, heads: usize) -> Result<Tensor> {
        let attended = self.attend(x, mask, heads)?;
        let x = self
            .attention_norm
            .forward(&(self.attention_output.forward(&attended)? + x)?)?;
        let wide = self.intermediate.forward(&x)?.gelu_erf()?;
        self.output_norm
            .forward(&(self.output.forward(&wide)? + &x)?)
    }

    fn attend(&self, x: &Tensor, mask: &Tensor, heads: usize) -> Result<Tensor> {
        let (texts, tokens, hidden) = x.dims3()?;
        let width = hidden / heads;
        // texts × tokens × (3 · heads · width) → 3 × texts × heads × tokens × width
        let qkv = self
            .qkv
            .forward(x)?
            .reshape((texts, tokens, 3, heads, width))?
            .permute((2, 0, 3, 1, 4))?;
        let part = |index: usize| qkv.narrow(0, index, 1)?.squeeze(0)?.contiguous();
        let (queries, keys, values) = (part(0)?, part(1)?, part(2)?);
        let scores = (queries.matmul(&keys.t()?)? / (width as f64).sqrt())?.broadcast_add(mask)?;
        let attended = softmax_last_dim(&scores)?.matmul(&values)?;
        attended.transpose(1, 2)?.reshape((texts, tokens, hidden))
    }
}
