//! From the vectors of tokens to the answer: pooling, and a classifier where the model has one.

use candle_core::{D, Device, Result, Tensor, bail};
use candle_nn::ops::{sigmoid, softmax_last_dim};

use super::config::Config;
use super::encoder::Hidden;
use super::weights::Weights;
use crate::artefact::{Head, Manifest, Pooling, Task};

/// What follows the encoder.
#[derive(Debug)]
pub(super) struct Output {
    pooling: Pooling,
    head: Answer,
}

#[derive(Debug)]
enum Answer {
    /// The pooled vector, of unit length.
    Vector,
    /// `softmax(W f(P x + p) + b)`, or the sigmoid of the one logit.
    Classifier {
        pooler: Dense,
        activation: fn(&Tensor) -> Result<Tensor>,
        classifier: Dense,
    },
}

#[derive(Debug)]
struct Dense {
    /// Inputs × outputs.
    weight: Tensor,
    bias: Tensor,
}

impl Dense {
    fn load(weights: &Weights, name: &str, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = weights.head(&format!("{name}.weight"))?;
        let bias = weights.head(&format!("{name}.bias"))?;
        if weight.dims() != [outputs, inputs] || bias.dims() != [outputs] {
            bail!(
                "{name} is {:?} with a bias of {:?}, but the manifest and config.json want \
                 {outputs} × {inputs}",
                weight.dims(),
                bias.dims()
            );
        }
        Ok(Self {
            weight: weight.t()?.contiguous()?,
            bias,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

impl Output {
    pub(super) fn load(
        weights: &Weights,
        config: &Config,
        pooling: Pooling,
        head: Head,
        manifest: &Manifest,
    ) -> Result<Self> {
        let hidden = config.hidden_size;
        if head == Head::None {
            return Ok(Self {
                pooling,
                head: Answer::Vector,
            });
        }
        let outputs = manifest.output_width().unwrap_or_default();
        let family = weights.family;
        let answer = Answer::Classifier {
            pooler: Dense::load(weights, family.pooler, hidden, hidden)?,
            activation: family.activation,
            classifier: Dense::load(weights, family.classifier, hidden, outputs)?,
        };
        if (outputs == 1) != (manifest.task == Task::Reranking) {
            bail!("a classifier needs 2 labels or more, and a reranker exactly 1 output");
        }
        // A classifier reads the first token, whatever an embedding of the same encoder would do.
        Ok(Self {
            pooling: Pooling::Cls,
            head: answer,
        })
    }

    /// One vector a text.
    pub(super) fn pool(&self, hidden: &Hidden) -> Vec<Vec<f32>> {
        let Hidden {
            values,
            grid,
            texts,
            features,
        } = hidden;
        let pooled = |text: &std::ops::Range<usize>| {
            let (tokens, count) = match self.pooling {
                Pooling::Mean => (text.clone(), text.len()),
                Pooling::Cls => (text.start..text.start + 1, 1),
            };
            let mut sums = vec![0.0; *features];
            for segment in grid.segments(tokens) {
                for (feature, sum) in sums.iter_mut().enumerate() {
                    *sum += values[segment.of(*features, feature)].iter().sum::<f32>();
                }
            }
            sums.iter().map(|sum| sum / count as f32).collect()
        };
        texts.iter().map(pooled).collect()
    }

    /// The answers to the pooled vectors.
    pub(super) fn apply(&self, pooled: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>> {
        let (texts, width) = (pooled.len(), pooled.first().map_or(0, Vec::len));
        if texts == 0 {
            return Ok(pooled);
        }
        let x = Tensor::from_vec(pooled.concat(), (texts, width), &Device::Cpu)?;
        let answers = match &self.head {
            Answer::Vector => {
                let length = x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
                x.broadcast_div(&length)?
            }
            Answer::Classifier {
                pooler,
                activation,
                classifier,
            } => {
                let logits = classifier.forward(&activation(&pooler.forward(&x)?)?)?;
                if logits.dim(1)? == 1 {
                    sigmoid(&logits)?
                } else {
                    softmax_last_dim(&logits)?
                }
            }
        };
        answers.to_vec2()
    }
}
