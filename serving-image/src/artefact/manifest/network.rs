//! The network, which turns prepared instances into outputs.

use serde::{Deserialize, Serialize};

/// A network, and the files that it is read from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(
    tag = "architecture",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Network {
    /// `W x + b`, then softmax where the task is classification (the logistic function for one
    /// output and two labels); tensors `layers.0.weight` (outputs × inputs) and `layers.0.bias`.
    Linear {
        /// Weights file, in safetensors.
        weights: String,
    },
    /// Dense layers `layers.N.weight`, `layers.N.bias`, an activation between them, and the end of
    /// a linear network.
    Mlp {
        /// Applied after each layer but the last.
        activation: Activation,
        /// Weights file, in safetensors.
        weights: String,
    },
    /// An encoder of BERT's family, and either one vector for a text or a classifier.
    Bert {
        /// The `config.json` of Hugging Face; its `model_type` is `bert`, `distilbert`, `roberta`
        /// or `xlm-roberta`.
        config: String,
        /// Weights file, in safetensors.
        weights: String,
        /// How the tokens' vectors become the text's (embeddings). Default `mean`.
        #[serde(default, skip_serializing_if = "Pooling::is_mean")]
        pooling: Pooling,
        /// What follows the encoder. Default `none`: the vector, of unit length.
        #[serde(default, skip_serializing_if = "Head::is_none")]
        head: Head,
    },
    /// A graph in ONNX, of whatever framework, computed by ONNX Runtime.
    Onnx {
        /// The graph's file.
        graph: String,
        /// Which fields each of the graph's inputs takes. Default: the row of the `order` step for
        /// a graph of one input; else the field of the same name for each.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        inputs: Vec<GraphInput>,
        /// Which of the graph's outputs are the answer: exactly one, but for the task `raw`, where
        /// the default is all.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        outputs: Vec<GraphOutput>,
    },
    /// A language model in llama.cpp's format, with tokeniser and chat template inside.
    Gguf {
        /// Weights file.
        weights: String,
    },
}

impl Network {
    /// The architecture's name in a manifest.
    pub fn architecture(&self) -> &'static str {
        match self {
            Self::Linear { .. } => "linear",
            Self::Mlp { .. } => "mlp",
            Self::Bert { .. } => "bert",
            Self::Onnx { .. } => "onnx",
            Self::Gguf { .. } => "gguf",
        }
    }

    /// The file that holds the weights.
    pub fn weights(&self) -> &str {
        match self {
            Self::Linear { weights }
            | Self::Mlp { weights, .. }
            | Self::Bert { weights, .. }
            | Self::Gguf { weights }
            | Self::Onnx { graph: weights, .. } => weights,
        }
    }
}

/// Activation between dense layers, by scikit-learn's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(−x))`
    Logistic,
    /// `x`
    Identity,
}

/// How the vectors of tokens become that of their text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Their mean, without padding.
    #[default]
    Mean,
    /// That of the first token.
    Cls,
}

impl Pooling {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    fn is_mean(&self) -> bool {
        *self == Self::Mean
    }
}

/// What follows an encoder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// Nothing: the pooled vector is the answer.
    #[default]
    None,
    /// Hugging Face's `ForSequenceClassification`: tensors `classifier.weight` and
    /// `classifier.bias` on the pooler's output.
    Classifier,
}

impl Head {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// One input of a graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GraphInput {
    /// Its name in the graph.
    pub name: String,
    /// The fields that are its columns, in this order.
    pub fields: Vec<String>,
}

/// One output of a graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GraphOutput {
    /// Its name in the graph.
    pub name: String,
    /// What it holds. Default `values`.
    #[serde(default)]
    pub holds: Holds,
}

/// What an output of a graph holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Holds {
    /// The numbers of the answer: values, scores or vectors.
    #[default]
    Values,
    /// A probability for each label; for two labels also that of the second one alone. A tensor, or
    /// a sequence of maps (`ZipMap`) whose keys are the labels, or integers in the order of the
    /// labels.
    Probabilities,
    /// A score for each label, which softmax turns into probabilities; for two labels also the log
    /// odds of the second. Of a pair of texts the log odds that they belong together.
    Logits,
    /// The label itself, as its text or its place in the list: probability 1 for it, and 0 for the
    /// others.
    Label,
    /// One vector for each token; the mean over the tokens of a text is its vector.
    TokenVectors,
}
