//! The shape of a model, from its GGUF header.

use serin_kernels::quantised::BLOCK;

use super::gguf::{GgufError, Header, required, unusable};

/// Bounds that no model of this family comes near, so that products of them cannot overflow.
const MOST: usize = 1 << 20;

/// A model's shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Blocks of attention and feed-forward.
    pub layers: usize,
    /// Numbers that stand for a token between the blocks.
    pub width: usize,
    /// Heads that ask.
    pub heads: usize,
    /// Heads that are looked at.
    pub key_heads: usize,
    /// Numbers in a head.
    pub head_width: usize,
    /// Numbers inside the feed-forward part.
    pub feed_width: usize,
    /// Positions that the model was trained for.
    pub context: usize,
    /// Added to the mean square in a norm.
    pub epsilon: f32,
    /// Base of the rotation's frequencies.
    pub rotation_base: f32,
    /// What positions are divided by before they turn anything: 1 where the context was not
    /// stretched.
    pub stretch: f32,
    /// Numbers of a head that are rotated.
    pub rotated: usize,
    /// Which numbers are a pair.
    pub rotation: Rotation,
    /// Whether queries and keys are normalised head by head (qwen3).
    pub normalised_heads: bool,
}

/// Which two numbers of a head are turned together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The first and the second, the third and the fourth … (llama, whose weights llama.cpp
    /// reorders for it).
    Neighbours,
    /// The first of one half and the first of the other … (qwen).
    Halves,
}

impl Config {
    /// Reads the shape, and refuses what this build would compute wrongly.
    pub fn read(header: &Header) -> Result<Self, GgufError> {
        let architecture_key = "general.architecture";
        let architecture = required(architecture_key, header.text(architecture_key)?)?;
        let (rotation, normalised_heads) = match architecture {
            "llama" => (Rotation::Neighbours, false),
            "qwen2" => (Rotation::Halves, false),
            "qwen3" => (Rotation::Halves, true),
            _ => return Err(unusable(architecture_key, "llama, qwen2 or qwen3")),
        };
        let key = |name: &str| format!("{architecture}.{name}");
        let optional = |name: &str| header.number(&key(name), MOST);
        let positive = |name: &str| {
            required(&key(name), optional(name)?)
                .and_then(|number| check(number > 0, &key(name), "above 0").map(|()| number))
        };
        let stretch = stretch(header, architecture)?;
        let experts = key("expert_count");
        let dense = header.number(&experts, MOST)?.unwrap_or(0) == 0;
        check(dense, &experts, "0: this build has no mixture of experts")?;

        let (width, heads) = (
            positive("embedding_length")?,
            positive("attention.head_count")?,
        );
        let key_heads = optional("attention.head_count_kv")?.unwrap_or(heads);
        let head_width = optional("attention.key_length")?.unwrap_or(width / heads);
        let value_width = optional("attention.value_length")?.unwrap_or(head_width);
        let rotated = optional("rope.dimension_count")?.unwrap_or(head_width);
        let epsilon_key = key("attention.layer_norm_rms_epsilon");
        let config = Self {
            layers: positive("block_count")?,
            width,
            heads,
            key_heads,
            head_width,
            feed_width: positive("feed_forward_length")?,
            context: positive("context_length")?,
            epsilon: required(&epsilon_key, header.float(&epsilon_key)?)?,
            rotation_base: header.float(&key("rope.freq_base"))?.unwrap_or(10_000.0),
            stretch,
            rotated,
            rotation,
            normalised_heads,
        };
        let shares_evenly = key_heads > 0 && heads.is_multiple_of(key_heads);
        check(
            shares_evenly,
            &key("attention.head_count_kv"),
            "a divisor of head_count",
        )?;
        check(
            head_width > 0 && head_width <= width,
            &key("attention.key_length"),
            "a head's width",
        )?;
        check(
            value_width == head_width,
            &key("attention.value_length"),
            "the same as key_length",
        )?;
        check(
            rotated > 0 && rotated.is_multiple_of(2) && rotated <= head_width,
            &key("rope.dimension_count"),
            "even, and no more than a head has",
        )?;
        for (name, length) in [
            ("embedding_length", width),
            ("feed_forward_length", config.feed_width),
            ("attention.head_count", config.query_width()),
        ] {
            let blocks = length.is_multiple_of(BLOCK);
            check(blocks, &key(name), "such that rows are multiples of 32")?;
        }
        Ok(config)
    }

    /// By how much each pair of a head's numbers is turned from one position to the next. `factors`
    /// divide them one by one (Llama 3's long contexts); empty where there is nothing to divide.
    pub fn frequencies(&self, factors: &[f32]) -> Vec<f32> {
        (0..self.rotated / 2)
            .map(|pair| {
                let exponent = 2.0 * pair as f32 / self.rotated as f32;
                let factor = factors.get(pair).copied().unwrap_or(1.0);
                self.rotation_base.powf(-exponent) / (self.stretch * factor)
            })
            .collect()
    }

    /// Numbers in all queries of a token.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Numbers in all keys of a token, and in all values.
    pub fn key_width(&self) -> usize {
        self.key_heads * self.head_width
    }
}

/// How far the context was stretched beyond that of the training. Llama 3's way is a tensor,
/// `rope_freqs`, without a key.
fn stretch(header: &Header, architecture: &str) -> Result<f32, GgufError> {
    let kind_key = format!("{architecture}.rope.scaling.type");
    let factor_key = format!("{architecture}.rope.scaling.factor");
    match header.text(&kind_key)? {
        None | Some("none") => Ok(1.0),
        Some("linear") => {
            let factor = required(&factor_key, header.float(&factor_key)?)?;
            check(factor > 0.0, &factor_key, "above 0").map(|()| factor)
        }
        Some(_) => Err(unusable(
            &kind_key,
            "none or linear: this build stretches no other way",
        )),
    }
}

fn check(holds: bool, key: &str, expected: &str) -> Result<(), GgufError> {
    if holds {
        Ok(())
    } else {
        Err(unusable(key, expected))
    }
}
