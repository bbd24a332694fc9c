//! The same encoder on plain candle operations, text by text: slow, and easy to compare with the
//! paper.

use std::collections::HashMap;

use super::Config;
use crate::model::tensors::Tensors as _;
use crate::preprocess::Tokens;
use candle_core::{Device, Result, Tensor};
use candle_nn::ops::{layer_norm, softmax_last_dim};

/// The encoder.
#[derive(Debug)]
pub(super) struct Reference {
    /// Vocabulary × hidden.
    words: Tensor,
    /// Positions × hidden.
    positions: Tensor,
    /// Token types × hidden.
    types: Tensor,
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
                .map(|name| weights.tensor(&format!("{name}.{suffix}")))
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
            weight: weights.tensor(&format!("{name}.weight"))?,
            bias: weights.tensor(&format!("{name}.bias"))?,
            epsilon: config.layer_norm_eps,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, self.epsilon)
    }
}

impl Reference {
    /// Takes the tensors by Hugging Face's names, with or without the prefix `bert.`.
    pub(super) fn load(weights: &HashMap<String, Tensor>, config: &Config) -> Result<Self> {
        let prefixed = weights.contains_key("bert.embeddings.word_embeddings.weight");
        let root = if prefixed { "bert." } else { "" };
        let embedding = |name: &str| weights.tensor(&format!("{root}embeddings.{name}.weight"));
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
            positions: embedding("position_embeddings")?,
            types: embedding("token_type_embeddings")?,
            norm: Norm::load(weights, &format!("{root}embeddings.LayerNorm"), config)?,
            layers,
            heads: config.num_attention_heads,
        })
    }

    /// Tokens × hidden: the last layer's output.
    pub(super) fn encode(&self, text: &Tokens) -> Result<Tensor> {
        let tokens = text.ids.len();
        let row = |table: &Tensor, ids: Vec<u32>| {
            table.index_select(&Tensor::from_vec(ids, tokens, &Device::Cpu)?, 0)
        };
        let mut types = text.types.clone();
        types.resize(tokens, 0);
        let embedded = ((row(&self.words, text.ids.clone())?
            + self.positions.narrow(0, 0, tokens)?)?
            + row(&self.types, types)?)?;
        let mut x = self.norm.forward(&embedded.unsqueeze(0)?)?;
        for layer in &self.layers {
            x = layer.forward(&x, self.heads)?;
        }
        x.squeeze(0)
    }
}

impl Layer {
    fn forward(&self, x: &Tensor, heads: usize) -> Result<Tensor> {
        let attended = self.attend(x, heads)?;
        let x = self
            .attention_norm
            .forward(&(self.attention_output.forward(&attended)? + x)?)?;
        let wide = self.intermediate.forward(&x)?.gelu_erf()?;
        self.output_norm
            .forward(&(self.output.forward(&wide)? + &x)?)
    }

    fn attend(&self, x: &Tensor, heads: usize) -> Result<Tensor> {
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
        let scores = (queries.matmul(&keys.t()?)? / (width as f64).sqrt())?;
        let attended = softmax_last_dim(&scores)?.matmul(&values)?;
        attended.transpose(1, 2)?.reshape((texts, tokens, hidden))
    }
}
