//! From a GGUF file to a model, in one pass over its bytes.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::config::Config;
use super::gguf::{GgufError, Header};
use super::matrix::{Loaded, Matrix, Projection};
use super::{Layer, Llama};

/// Why a GGUF file gives no model.
#[derive(Debug, thiserror::Error)]
pub enum LoadGgufError {
    /// The header.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A tensor cannot be read.
    #[error("a tensor cannot be used: {0}")]
    Tensor(#[from] candle_core::Error),
    /// A tensor that the architecture needs is not in the file, or has another shape.
    #[error("tensor {name}: {problem}")]
    Shape {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Llama {
    /// Reads a file of `length` bytes, header first, tensors in the order in which they lie.
    ///
    /// Each tensor is turned into its form in memory while it is read, so that the file is never
    /// held beside it. An error where the header cannot be read, or a tensor is missing, cut off or
    /// of another shape.
    pub fn read(source: &mut impl Read, length: u64) -> Result<(Self, Header), LoadGgufError> {
        let header = Header::read(source, length)?;
        let config = Config::read(&header)?;
        skip(source, header.padding)?;
        let mut tensors = Tensors::default();
        let mut position = 0;
        for info in &header.tensors {
            skip(source, info.offset - position)?;
            let loaded = Loaded::read(info, source)?;
            position = info.offset + info.size;
            tensors.0.insert(info.name.clone(), loaded);
        }
        let model = tensors.assemble(config)?;
        Ok((model, header))
    }

    /// Tokens that the embedding knows.
    pub fn vocabulary(&self) -> usize {
        self.embedding.outputs()
    }
}

fn skip(source: &mut impl Read, bytes: u64) -> Result<(), GgufError> {
    let skipped = io::copy(&mut source.by_ref().take(bytes), &mut io::sink())?;
    if skipped < bytes {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(())
}

/// What was read, by name, until a layer takes it.
#[derive(Default)]
struct Tensors(BTreeMap<String, Loaded>);

impl Tensors {
    fn assemble(mut self, config: Config) -> Result<Llama, LoadGgufError> {
        let width = config.width;
        let embedding = self.matrix("token_embd.weight", None, width)?;
        let vocabulary = embedding.shape().0;
        let output = if self.0.contains_key("output.weight") {
            let matrix = self.matrix("output.weight", Some(vocabulary), width)?;
            Some(Projection::new(vec![matrix], None))
        } else {
            None
        };
        let factors_name = "rope_freqs.weight";
        let factors = if self.0.contains_key(factors_name) {
            self.vector(factors_name, config.rotated / 2)?
        } else {
            Vec::new()
        };
        let norm = self.vector("output_norm.weight", width)?;
        let layers = (0..config.layers)
            .map(|index| self.layer(&config, index))
            .collect::<Result<_, _>>()?;
        if let Some(name) = self.0.keys().next() {
            // Ignoring it would give answers that are a little wrong.
            return Err(shape(name, "this build does not know what it is for"));
        }
        Ok(Llama {
            embedding: Projection::new(vec![embedding], None),
            layers,
            norm,
            output,
            frequencies: config.frequencies(&factors),
            config,
        })
    }

    fn layer(&mut self, config: &Config, index: usize) -> Result<Layer, LoadGgufError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (width, feed) = (config.width, config.feed_width);
        let (queries, keys) = (config.query_width(), config.key_width());
        let attention = [("attn_q", queries), ("attn_k", keys), ("attn_v", keys)];
        let mut matrices = Vec::new();
        let mut bias = Vec::new();
        for (part, outputs) in attention {
            let weight = name(&format!("{part}.weight"));
            matrices.push(self.matrix(&weight, Some(outputs), width)?);
            let added = name(&format!("{part}.bias"));
            if self.0.contains_key(&added) {
                bias.extend(self.vector(&added, outputs)?);
            }
        }
        if !bias.is_empty() && bias.len() != queries + 2 * keys {
            return Err(shape(
                &name("attn_q.bias"),
                "only some of three biases are there",
            ));
        }
        let head_norms = if config.normalised_heads {
            let query = self.vector(&name("attn_q_norm.weight"), config.head_width)?;
            let key = self.vector(&name("attn_k_norm.weight"), config.head_width)?;
            Some((query, key))
        } else {
            None
        };
        let mut single = |part: &str, outputs, inputs| -> Result<Matrix, LoadGgufError> {
            self.matrix(&name(part), Some(outputs), inputs)
        };
        let attention_out = single("attn_output.weight", width, queries)?;
        let gates = single("ffn_gate.weight", feed, width)?;
        let values = single("ffn_up.weight", feed, width)?;
        let feed_out = single("ffn_down.weight", width, feed)?;
        Ok(Layer {
            attention_norm: self.vector(&name("attn_norm.weight"), width)?,
            attention_in: Projection::new(matrices, Some(bias).filter(|bias| !bias.is_empty())),
            head_norms,
            attention_out: Projection::new(vec![attention_out], None),
            feed_norm: self.vector(&name("ffn_norm.weight"), width)?,
            feed_in: Projection::new(vec![gates, values], None),
            feed_out: Projection::new(vec![feed_out], None),
        })
    }

    /// Takes a matrix of these rows (any number where None) and columns.
    fn matrix(
        &mut self,
        name: &str,
        rows: Option<usize>,
        columns: usize,
    ) -> Result<Matrix, LoadGgufError> {
        match self.0.remove(name) {
            Some(Loaded::Matrix(matrix)) => {
                let (found_rows, found_columns) = matrix.shape();
                if found_columns == columns && rows.is_none_or(|rows| rows == found_rows) {
                    Ok(matrix)
                } else {
                    let found = format!("{found_rows} × {found_columns}");
                    let rows = rows.map_or("any".to_owned(), |rows| rows.to_string());
                    Err(shape(
                        name,
                        format!("{found} numbers, not {rows} × {columns}"),
                    ))
                }
            }
            Some(Loaded::Vector(_)) => Err(shape(name, "one dimension, not two")),
            None => Err(shape(name, "missing")),
        }
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, LoadGgufError> {
        match self.0.remove(name) {
            Some(Loaded::Vector(vector)) if vector.len() == length => Ok(vector),
            Some(Loaded::Vector(vector)) => {
                let found = vector.len();
                Err(shape(name, format!("{found} numbers, not {length}")))
            }
            Some(Loaded::Matrix(_)) => Err(shape(name, "two dimensions, not one")),
            None => Err(shape(name, "missing")),
        }
    }
}

fn shape(name: &str, problem: impl Into<String>) -> LoadGgufError {
    LoadGgufError::Shape {
        name: name.to_owned(),
        problem: problem.into(),
    }
}
