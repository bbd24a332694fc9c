//! Linear models and multi-layer perceptrons: `W₂ σ(W₁ x + b₁) + b₂`.
//!
//! In plain loops: for one row of a few numbers, a tensor's shapes and allocations cost a hundred times the arithmetic.
//! Each row's sums are made in the same order whether it comes alone or in a batch, so that the answers are equal bit
//! for bit.

use candle_core::{Result, bail};

use super::tensors::Tensors;
use crate::artefact::{Activation, Manifest, Task};
use crate::preprocess::Rows;

/// Outputs that are computed side by side: two registers of AVX2, four of SSE.
const LANES: usize = 16;

/// Rows that share one reading of the weights.
const BLOCK: usize = 4;

/// Dense layers, and what follows the last of them.
#[derive(Debug)]
pub(super) struct Dense {
    layers: Vec<Layer>,
    activation: Option<Activation>,
    end: End,
}

/// A linear network's sums: before softmax, or the log odds of either of two labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// For each output the bias, then the weight of each number of a prepared row.
    outputs: Vec<Vec<f64>>,
}

impl Linear {
    /// An output's weights and bias.
    pub fn output(&self, index: usize) -> (&[f64], f64) {
        self.outputs[index]
            .split_first()
            .map_or((&[], 0.0), |(bias, weights)| (weights, *bias))
    }
}

/// What makes the answer of the last layer's outputs.
#[derive(Debug, Clone, Copy)]
enum End {
    Softmax,
    /// Of the log odds of the second of two labels.
    Logistic,
    Values,
}

#[derive(Debug)]
struct Layer {
    inputs: usize,
    outputs: usize,
    /// For every 16 outputs the bias, then the weights of each input; zeros where there are fewer outputs.
    panels: Vec<[f32; LANES]>,
}

impl Dense {
    /// Multiplications that one row takes.
    pub(super) fn weights(&self) -> usize {
        let layers = self.layers.iter();
        layers.map(|layer| layer.inputs * layer.outputs).sum()
    }

    /// Takes `layers.N.weight` and `layers.N.bias`. Without an activation there is exactly one layer.
    pub(super) fn load(
        weights: &dyn Tensors,
        activation: Option<Activation>,
        manifest: &Manifest,
    ) -> Result<Self> {
        let mut layers = Vec::new();
        let mut width = manifest.features().len();
        while weights.contains(&format!("layers.{}.weight", layers.len())) {
            let layer = Layer::load(weights, layers.len(), width)?;
            width = layer.outputs;
            layers.push(layer);
        }
        if layers.is_empty() {
            bail!("there is no tensor layers.0.weight");
        }
        if activation.is_none() && layers.len() > 1 {
            bail!("a linear network has one layer, not {}", layers.len());
        }
        let wanted = manifest.output_width().unwrap_or(width);
        let end = match manifest.task {
            Task::Classification if width == 1 && wanted == 2 => End::Logistic,
            Task::Classification if width == wanted => End::Softmax,
            Task::Classification => {
                bail!("the last layer has {width} outputs for {wanted} labels")
            }
            _ if width == wanted => End::Values,
            _ => bail!("the last layer has {width} outputs for {wanted} numbers"),
        };
        Ok(Self {
            layers,
            activation,
            end,
        })
    }

    /// The weights, where there is one layer alone.
    pub(super) fn linear(&self) -> Option<Linear> {
        let [layer] = self.layers.as_slice() else {
            return None;
        };
        let output = |output: usize| {
            let panel = &layer.panels[output / LANES * (layer.inputs + 1)..][..=layer.inputs];
            let numbers = panel.iter().map(|lanes| f64::from(lanes[output % LANES]));
            numbers.collect()
        };
        let mut outputs: Vec<Vec<f64>> = (0..layer.outputs).map(output).collect();
        if let End::Logistic = self.end {
            // What speaks for the second label speaks against the first.
            outputs.insert(0, outputs[0].iter().map(|number| -number).collect());
        }
        Some(Linear { outputs })
    }

    /// Probabilities or values, one vector for each row. In the widest registers that this machine has: the sums are the
    /// same in all of them.
    pub(super) fn forward(&self, rows: &Rows) -> Vec<Vec<f32>> {
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || self.forward_inlined(rows),
        )
    }

    // What is not inlined into the dispatched function is compiled for the least machine.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn forward_inlined(&self, rows: &Rows) -> Vec<Vec<f32>> {
        let mut outputs = Vec::with_capacity(rows.len());
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for block in rows.values.chunks(rows.width * BLOCK) {
            x.clear();
            x.extend_from_slice(block);
            let full = block.len() == rows.width * BLOCK;
            if full {
                self.layers::<BLOCK>(&mut x, &mut y);
            } else {
                let mut last = Vec::new();
                for row in block.chunks(rows.width) {
                    x.clear();
                    x.extend_from_slice(row);
                    self.layers::<1>(&mut x, &mut y);
                    last.extend_from_slice(&x);
                }
                x = last;
            }
            let width = self.layers.last().map_or(1, |layer| layer.outputs);
            outputs.extend(x.chunks(width).map(|output| self.end.apply(output)));
        }
        outputs
    }

    /// Passes `ROWS` rows in `x` through all layers; the result is in `x`, `y` is a second buffer.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn layers<const ROWS: usize>(&self, x: &mut Vec<f32>, y: &mut Vec<f32>) {
        for (index, layer) in self.layers.iter().enumerate() {
            layer.forward::<ROWS>(x, y);
            std::mem::swap(x, y);
            if let Some(activation) = self.activation
                && index + 1 < self.layers.len()
            {
                apply(activation, x);
            }
        }
    }
}

impl Layer {
    fn load(weights: &dyn Tensors, index: usize, width: usize) -> Result<Self> {
        let name = format!("layers.{index}");
        let weight = weights.tensor(&format!("{name}.weight"))?;
        let bias = weights.tensor(&format!("{name}.bias"))?;
        let (outputs, inputs) = weight.dims2()?;
        if inputs != width || outputs == 0 || bias.dims() != [outputs] {
            bail!(
                "{name} is {outputs} × {inputs} with a bias of {:?}, but takes {width} values",
                bias.dims()
            );
        }
        let (weight, bias) = (weight.to_vec2::<f32>()?, bias.to_vec1::<f32>()?);
        let mut panels = Vec::with_capacity(outputs.div_ceil(LANES) * (inputs + 1));
        for (weight, bias) in weight.chunks(LANES).zip(bias.chunks(LANES)) {
            let lanes = |value: &dyn Fn(usize) -> f32| {
                std::array::from_fn(|lane| if lane < bias.len() { value(lane) } else { 0.0 })
            };
            panels.push(lanes(&|lane| bias[lane]));
            panels.extend((0..inputs).map(|input| lanes(&|lane| weight[lane][input])));
        }
        Ok(Self {
            inputs,
            outputs,
            panels,
        })
    }

    /// `y = x W + b` for `ROWS` rows.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn forward<const ROWS: usize>(&self, x: &[f32], y: &mut Vec<f32>) {
        y.clear();
        y.resize(ROWS * self.outputs, 0.0);
        let rows: [&[f32]; ROWS] =
            std::array::from_fn(|row| &x[row * self.inputs..][..self.inputs]);
        for (index, panel) in self.panels.chunks_exact(self.inputs + 1).enumerate() {
            let mut sums = [panel[0]; ROWS];
            for (input, weights) in panel[1..].iter().enumerate() {
                for (sums, row) in sums.iter_mut().zip(rows) {
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum += row[input] * weight;
                    }
                }
            }
            let first = index * LANES;
            let length = LANES.min(self.outputs - first);
            for (row, sums) in sums.iter().enumerate() {
                y[row * self.outputs + first..][..length].copy_from_slice(&sums[..length]);
            }
        }
    }
}

impl End {
    fn apply(self, outputs: &[f32]) -> Vec<f32> {
        match self {
            Self::Softmax => softmax(outputs),
            Self::Logistic => {
                let second = logistic(outputs[0]);
                vec![1.0 - second, second]
            }
            Self::Values => outputs.to_vec(),
        }
    }
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn apply(activation: Activation, values: &mut [f32]) {
    // A loop for each, not a function's address: that would be a call for each value.
    match activation {
        Activation::Relu => values.iter_mut().for_each(|x| *x = x.max(0.0)),
        Activation::Tanh => values.iter_mut().for_each(|x| *x = x.tanh()),
        Activation::Logistic => values.iter_mut().for_each(|x| *x = logistic(*x)),
        Activation::Identity => {}
    }
}

/// `1 / (1 + exp(−x))`
pub(super) fn logistic(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Probabilities of scores.
pub(super) fn softmax(scores: &[f32]) -> Vec<f32> {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = scores.iter().map(|x| (x - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;
    use candle_core::{Device, Tensor};
    use serde_json::json;

    /// A perceptron 3 → 37 → 2 of made-up weights: panels and blocks that are not full.
    fn perceptron(activation: &str, task: &str) -> (Dense, HashMap<String, Tensor>) {
        let made_up = |rows: usize, columns: usize, seed: f32| {
            let number = |index: usize| (index as f32 * seed).sin();
            let numbers: Vec<f32> = (0..rows * columns).map(number).collect();
            Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).unwrap()
        };
        let weights = HashMap::from([
            ("layers.0.weight".to_owned(), made_up(37, 3, 0.7)),
            (
                "layers.0.bias".to_owned(),
                made_up(1, 37, 0.3).squeeze(0).unwrap(),
            ),
            ("layers.1.weight".to_owned(), made_up(2, 37, 1.3)),
            (
                "layers.1.bias".to_owned(),
                made_up(1, 2, 2.1).squeeze(0).unwrap(),
            ),
        ]);
        let classifies = task == "classification";
        let inputs = ["a", "b", "c"].map(|name| json!({"name": name, "type": "number"}));
        let manifest = json!({
            "schemaVersion": 1, "name": "m", "version": "1", "kind": "tabular", "task": task,
            "inputs": inputs,
            "preprocessing": [{"step": "order", "features": ["a", "b", "c"]}],
            "network": {"architecture": "mlp", "activation": activation, "weights": "w"},
            "outputs": if classifies { json!({"labels": ["x", "y"]}) } else { json!({"names": ["p", "q"]}) }
        });
        let manifest = Manifest::parse(manifest.to_string().as_bytes()).unwrap();
        let Some(activation) = (match &manifest.network {
            crate::artefact::Network::Mlp { activation, .. } => Some(*activation),
            _ => None,
        }) else {
            panic!("no perceptron")
        };
        let dense = Dense::load(&weights, Some(activation), &manifest).unwrap();
        (dense, weights)
    }

    fn rows(count: usize) -> Rows {
        let number = |index: usize| (index as f32 * 0.91).cos() * 2.0;
        Rows {
            width: 3,
            values: (0..3 * count).map(number).collect(),
        }
    }

    #[test]
    fn the_loops_compute_what_candles_tensors_do() {
        let rows = rows(11);
        for (name, activation) in [
            ("relu", Tensor::relu as fn(&Tensor) -> Result<Tensor>),
            ("tanh", Tensor::tanh),
            ("logistic", candle_nn::ops::sigmoid),
            ("identity", |x| Ok(x.clone())),
        ] {
            let (dense, weights) = perceptron(name, "regression");
            let x = Tensor::from_vec(rows.values.clone(), (11, 3), &Device::Cpu).unwrap();
            let layer = |x: &Tensor, index: usize| {
                let weight = &weights[&format!("layers.{index}.weight")];
                let product = x.matmul(&weight.t().unwrap()).unwrap();
                product
                    .broadcast_add(&weights[&format!("layers.{index}.bias")])
                    .unwrap()
            };
            let expected = layer(&activation(&layer(&x, 0)).unwrap(), 1);
            let found = dense.forward(&rows);
            let expected = expected.to_vec2::<f32>().unwrap();
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{name}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn a_row_alone_gives_the_same_bits_as_in_a_batch() {
        let (dense, _) = perceptron("tanh", "classification");
        let rows = rows(11);
        let together = dense.forward(&rows);
        for (row, expected) in rows.values.chunks(3).zip(&together) {
            let alone = dense.forward(&Rows {
                width: 3,
                values: row.to_vec(),
            });
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&alone[0]), bits(expected));
            assert!((expected.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }
}
