//! Linear models and multi-layer perceptrons: `softmax(W₂ σ(W₁ x + b₁) + b₂)`.

use std::collections::HashMap;

use candle_core::{Device, Result, Tensor, bail};

use super::tensor;
use crate::artefact::{Activation, Manifest};

/// Dense layers with a softmax at the end.
#[derive(Debug)]
pub(super) struct Dense {
    layers: Vec<Layer>,
    activation: Option<Activation>,
}

#[derive(Debug)]
struct Layer {
    /// Inputs × outputs: transposed and laid out once, not at each product.
    weight: Tensor,
    bias: Tensor,
}

impl Dense {
    /// Takes `layers.N.weight` and `layers.N.bias`. Without an activation there is exactly one layer.
    pub(super) fn load(
        weights: &HashMap<String, Tensor>,
        activation: Option<Activation>,
        manifest: &Manifest,
    ) -> Result<Self> {
        let mut layers = Vec::new();
        let mut width = manifest.features().len();
        while weights.contains_key(&format!("layers.{}.weight", layers.len())) {
            let name = format!("layers.{}", layers.len());
            let weight = tensor(weights, &format!("{name}.weight"))?;
            let bias = tensor(weights, &format!("{name}.bias"))?;
            let (outputs, inputs) = weight.dims2()?;
            if inputs != width || bias.dims() != [outputs] {
                bail!(
                    "{name} is {outputs} × {inputs} with a bias of {:?}, but takes {width} values",
                    bias.dims()
                );
            }
            width = outputs;
            layers.push(Layer {
                weight: weight.t()?.contiguous()?,
                bias,
            });
        }
        let labels = manifest.outputs.labels.len();
        if layers.is_empty() {
            bail!("there is no tensor layers.0.weight");
        }
        if activation.is_none() && layers.len() > 1 {
            bail!("a linear network has one layer, not {}", layers.len());
        }
        if width != labels {
            bail!("the last layer has {width} outputs for {labels} labels");
        }
        Ok(Self { layers, activation })
    }

    /// Probabilities, one vector for each row.
    pub(super) fn forward(&self, rows: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
        let width = rows.first().map_or(0, Vec::len);
        let mut x = Tensor::from_vec(rows.concat(), (rows.len(), width), &Device::Cpu)?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = x.matmul(&layer.weight)?.broadcast_add(&layer.bias)?;
            if index + 1 < self.layers.len() {
                x = match self.activation {
                    Some(Activation::Relu) => x.relu()?,
                    Some(Activation::Tanh) => x.tanh()?,
                    Some(Activation::Logistic) => candle_nn::ops::sigmoid(&x)?,
                    Some(Activation::Identity) | None => x,
                };
            }
        }
        candle_nn::ops::softmax_last_dim(&x)?.to_vec2()
    }
}
