//! Linear models and multi-layer perceptrons: `W₂ σ(W₁ x + b₁) + b₂`.
//!
//! On the kernels' own packed weights: for one row of a few numbers, a tensor's shapes and
//! allocations cost a hundred times the arithmetic. A row's answer is equal bit for bit whether it
//! comes alone or in a batch.

use candle_core::{Result, bail};
use serin_kernels::{Activation as Function, Layer, Perceptron};

use super::tensors::Tensors;
use crate::artefact::{Activation, Manifest, Task};
use crate::prediction::Prediction;
use crate::preprocess::Rows;

/// Dense layers, and what follows the last of them.
#[derive(Debug)]
pub(super) struct Dense {
    network: Perceptron,
    /// Whether the one output is the probability of the second of two labels.
    of_second: bool,
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

impl Dense {
    /// Multiplications that one row takes.
    pub(super) fn weights(&self) -> usize {
        let layers = self.network.layers().iter();
        layers.map(|layer| layer.inputs() * layer.outputs()).sum()
    }

    /// Takes `layers.N.weight` and `layers.N.bias`. Without an activation there is exactly one
    /// layer.
    pub(super) fn load(
        weights: &dyn Tensors,
        activation: Option<Activation>,
        manifest: &Manifest,
    ) -> Result<Self> {
        let mut matrices = Vec::new();
        let mut width = manifest.features().len();
        while weights.contains(&format!("layers.{}.weight", matrices.len())) {
            let matrix = Matrix::load(weights, matrices.len(), width)?;
            width = matrix.bias.len();
            matrices.push(matrix);
        }
        if matrices.is_empty() {
            bail!("there is no tensor layers.0.weight");
        }
        if activation.is_none() && matrices.len() > 1 {
            bail!("a linear network has one layer, not {}", matrices.len());
        }
        let wanted = manifest.output_width().unwrap_or(width);
        let classifies = manifest.task == Task::Classification;
        let of_second = classifies && width == 1 && wanted == 2;
        if width != wanted && !of_second {
            let what = if classifies { "labels" } else { "numbers" };
            bail!("the last layer has {width} outputs for {wanted} {what}");
        }
        let last = matrices.len() - 1;
        let layer = |(index, matrix): (usize, Matrix)| {
            let function = match activation {
                _ if index == last && of_second => Function::Logistic,
                Some(activation) if index < last => function(activation),
                _ => Function::Identity,
            };
            Layer::new(&matrix.weight, &matrix.bias, function)
        };
        let layers = matrices.into_iter().enumerate().map(layer).collect();
        Ok(Self {
            network: Perceptron::new(layers, classifies && !of_second),
            of_second,
        })
    }

    /// The weights of a network of one layer; `None` for others.
    pub(super) fn linear(&self) -> Option<Linear> {
        let [layer] = self.network.layers() else {
            return None;
        };
        let output = |output: usize| layer.coefficients(output).map(f64::from).collect();
        let mut outputs: Vec<Vec<f64>> = (0..layer.outputs()).map(output).collect();
        if self.of_second {
            // What speaks for the second label speaks against the first.
            outputs.insert(0, outputs[0].iter().map(|number| -number).collect());
        }
        Some(Linear { outputs })
    }

    /// Probabilities or values for each row.
    pub(super) fn forward(&self, rows: &Rows) -> Vec<Prediction> {
        let answers = self.network.run(&rows.values);
        let prediction = |answer: &[f32]| Prediction {
            output: match *answer {
                [second] if self.of_second => vec![1.0 - second, second],
                _ => answer.to_vec(),
            },
            ..Default::default()
        };
        let answers = answers.chunks_exact(self.network.outputs());
        answers.map(prediction).collect()
    }
}

/// A layer's tensors.
struct Matrix {
    /// Outputs × inputs.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Matrix {
    fn load(weights: &dyn Tensors, index: usize, width: usize) -> Result<Self> {
        let name = format!("layers.{index}");
        let weight = weights.tensor(&format!("{name}.weight"))?;
        let bias = weights.tensor(&format!("{name}.bias"))?;
        let (outputs, inputs) = weight.dims2()?;
        if inputs != width || inputs == 0 || outputs == 0 || bias.dims() != [outputs] {
            bail!(
                "{name} is {outputs} × {inputs} with a bias of {:?}, but takes {width} values",
                bias.dims()
            );
        }
        Ok(Self {
            weight: weight.flatten_all()?.to_vec1()?,
            bias: bias.to_vec1()?,
        })
    }
}

fn function(activation: Activation) -> Function {
    match activation {
        Activation::Identity => Function::Identity,
        Activation::Logistic => Function::Logistic,
        Activation::Relu => Function::Relu,
        Activation::Tanh => Function::Tanh,
    }
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
            "outputs": if classifies { json!({"labels": ["x", "y"]}) } else { json!({"names": ["p",
            "q"]}) }
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
            for (found, expected) in found
                .iter()
                .flat_map(|found| &found.output)
                .zip(expected.iter().flatten())
            {
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
            assert_eq!(bits(&alone[0].output), bits(&expected.output));
            assert!((expected.output.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }
}
