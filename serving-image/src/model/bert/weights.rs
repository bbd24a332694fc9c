//! Tensors by Hugging Face's names, with the size that the configuration promises.

use std::collections::HashMap;

use candle_core::{Result, Tensor, bail};

use crate::model::tensor;

/// The tensors of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights<'a> {
    tensors: &'a HashMap<String, Tensor>,
    /// What comes before the encoder's names.
    root: &'static str,
}

impl<'a> Weights<'a> {
    pub(super) fn new(tensors: &'a HashMap<String, Tensor>) -> Self {
        let prefixed = tensors.contains_key("bert.embeddings.word_embeddings.weight");
        Self {
            tensors,
            root: if prefixed { "bert." } else { "" },
        }
    }

    /// A tensor of the encoder.
    pub(super) fn encoder(&self, name: &str) -> Result<Tensor> {
        tensor(self.tensors, &format!("{}{name}", self.root))
    }

    /// A tensor of what follows the encoder: the prefix is never before it.
    pub(super) fn head(&self, name: &str) -> Result<Tensor> {
        tensor(self.tensors, name)
    }

    /// A vector of the encoder.
    pub(super) fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>> {
        self.values(name, &[length])
    }

    /// A matrix of the encoder, row after row.
    pub(super) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Vec<f32>> {
        self.values(name, &[rows, columns])
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.encoder(name)?;
        if tensor.dims() != shape {
            bail!(
                "{name} is {:?}, but config.json wants {shape:?}",
                tensor.dims()
            );
        }
        tensor.flatten_all()?.to_vec1()
    }
}
