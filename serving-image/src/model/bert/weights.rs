//! Tensors by Hugging Face's names, with the size that the configuration promises.

use candle_core::{Result, Tensor, bail};

use super::family::Family;
use crate::model::tensors::Tensors;

/// The tensors of a file.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    tensors: &'a dyn Tensors,
    /// What the tensors are called.
    pub(super) family: &'static Family,
    /// What comes before the encoder's names.
    root: &'static str,
}

impl<'a> Weights<'a> {
    pub(super) fn new(tensors: &'a dyn Tensors, family: &'static Family) -> Self {
        let embeddings = format!("{}embeddings.word_embeddings.weight", family.root);
        let root = if tensors.contains(&embeddings) {
            family.root
        } else {
            ""
        };
        Self {
            tensors,
            family,
            root,
        }
    }

    /// A tensor of the encoder.
    pub(super) fn encoder(&self, name: &str) -> Result<Tensor> {
        self.tensors.tensor(&self.full(name))
    }

    /// What the file calls a tensor of the encoder.
    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.root)
    }

    /// A tensor of what follows the encoder. BERT's pooler counts as a part of the encoder, and has
    /// the prefix; other heads lie beside it.
    pub(super) fn head(&self, name: &str) -> Result<Tensor> {
        let beside = |_| self.tensors.tensor(name);
        self.encoder(name).or_else(beside)
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
        let (found, numbers) = self.tensors.numbers(&self.full(name))?;
        if found != shape {
            bail!("{name} is {found:?}, but config.json wants {shape:?}");
        }
        Ok(numbers)
    }
}
