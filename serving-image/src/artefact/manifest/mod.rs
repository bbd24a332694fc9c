//! `serin-model.json`: the inputs of a model, their preparation, and its outputs.
//!
//! [`Manifest::parse`] reads a manifest and checks that its parts fit together; all later code
//! relies on it.

mod checks;
mod image;
mod input;
mod network;
mod output;
mod step;
#[cfg(test)]
pub(super) mod tests;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use image::{Channels, Filter, ImageDtype, ImageStep, Layout, Mode, Orientation, Resize};
pub use input::{Dtype, Input, InputType, Scalar};
pub use network::{Activation, GraphInput, GraphOutput, Head, Holds, Network, Pooling};
pub use output::{Background, Distribution, Outputs, Reference};
pub use step::{Drop, Scaler, Scaling, Step};

/// The manifest's file name inside an artefact directory.
pub const MANIFEST_FILE: &str = "serin-model.json";

/// The only manifest layout that this build reads.
const SCHEMA_VERSION: u32 = 1;

/// A model artefact's manifest: the preprocessing contract and the list of files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Layout of this file; 1.
    pub schema_version: u32,
    /// The model's name, such as `iris`.
    pub name: String,
    /// The model's version, such as `1.0.0`.
    pub version: String,
    /// A sentence about the model, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// SPDX expression of the weights' licence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub licence: String,
    /// The form of one instance.
    pub kind: Kind,
    /// The meaning of the answer.
    pub task: Task,
    /// The fields of one instance. One `string` for a text, two for a pair of texts; none for
    /// generation.
    pub inputs: Vec<Input>,
    /// Applied in order to each valid instance.
    pub preprocessing: Vec<Step>,
    /// The network that turns prepared instances into outputs.
    pub network: Network,
    /// The answer's labels, names or length.
    pub outputs: Outputs,
    /// Bounds on one request.
    #[serde(default)]
    pub limits: Limits,
    /// Known answers; the process is not ready unless it reproduces them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub golden: Vec<Golden>,
    /// The distributions of inputs and answers in training, for measuring drift.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// The background that explanations compare an instance with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background: Option<Background>,
    /// Every file of the artefact but the manifest. A file that is not listed is never read.
    #[serde(default)]
    pub files: Vec<FileEntry>,
}

/// The form of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An object of named fields.
    Tabular,
    /// A text. Also read as `embedding`, its name while there was no other task for a text.
    #[serde(alias = "embedding")]
    Text,
    /// An object of two texts, such as a question and a passage.
    TextPair,
    /// An object of named arrays of numbers, each of a type and shape, and of pictures.
    Tensor,
    /// A prompt, or the messages of a conversation.
    Generation,
}

/// The meaning of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One label, with a probability for each.
    Classification,
    /// One number, or several named ones.
    Regression,
    /// A vector of unit length whose dot products are similarities.
    SentenceEmbedding,
    /// One number for a pair of texts; the higher, the better they belong together.
    Reranking,
    /// A text that continues the prompt.
    TextGeneration,
    /// The graph's own tensors, by their names.
    Raw,
}

/// Bounds on one request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Most instances in one request. Default 1024.
    pub max_instances: usize,
    /// Most tokens that one request may generate (generation). Default: what the server allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Longest prompt in tokens, template included (generation). Default: the network's context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prompt_tokens: Option<usize>,
    /// Largest file of a picture, in bytes (images). Default 4 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_image_bytes: Option<usize>,
    /// Most pixels of a picture before it is resized, width × height (images); decoding takes up to
    /// 16 bytes for each. Default 16 Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_image_pixels: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_instances: 1024,
            max_tokens: None,
            max_prompt_tokens: None,
            max_image_bytes: None,
            max_image_pixels: None,
        }
    }
}

impl Limits {
    /// Largest file of a picture, in bytes.
    pub fn image_bytes(&self) -> usize {
        self.max_image_bytes.unwrap_or(4 << 20)
    }

    /// Most pixels of a picture.
    pub fn image_pixels(&self) -> usize {
        self.max_image_pixels.unwrap_or(16 << 20)
    }

    /// Length of the largest picture as a text, in base64.
    pub fn image_text(&self) -> usize {
        self.image_bytes().div_ceil(3).saturating_mul(4)
    }
}

/// A known answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Golden {
    /// An instance, as a request would carry it; the prompt (generation).
    pub instance: Value,
    /// Probabilities in the order of the labels, or the numbers, or the vector, or all tensors one
    /// after the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<f32>,
    /// How the likeliest text begins (generation): each next token is the one of the highest score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Largest absolute difference of a number that is accepted. Default 0.
    #[serde(default)]
    pub tolerance: f32,
}

/// One file of the artefact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileEntry {
    /// Path inside the artefact, with `/`.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Lower-case hexadecimal sha256 of the content.
    pub sha256: String,
}

/// Why a manifest cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of this layout.
    #[error("{MANIFEST_FILE} is not a manifest: {0}")]
    Layout(#[from] serde_json::Error),
    /// Well-formed, but it contradicts itself. All contradictions, one a line.
    #[error("{MANIFEST_FILE} contradicts itself: {}", .0.join("; "))]
    Contradiction(Vec<String>),
}

impl Manifest {
    /// Reads a manifest and checks that its parts fit together. An error where it is no valid JSON
    /// of a manifest, or its parts contradict each other: all contradictions are named.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes)?;
        let problems = checks::contradictions(&manifest);
        if problems.is_empty() {
            Ok(manifest)
        } else {
            Err(ManifestError::Contradiction(problems))
        }
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&Input> {
        self.inputs.iter().find(|input| input.name == name)
    }

    /// Whether pictures are among the inputs.
    pub fn takes_images(&self) -> bool {
        let mut inputs = self.inputs.iter();
        inputs.any(|input| input.kind == InputType::Image)
    }

    /// The `image` step of the input of that name; `None` if it has none.
    pub fn image_step(&self, input: &str) -> Option<&ImageStep> {
        self.preprocessing.iter().find_map(|step| match step {
            Step::Image(step) if step.input == input => Some(step),
            _ => None,
        })
    }

    /// The fields in the order of the `order` step; `None` without such a step.
    pub fn order(&self) -> Option<&[String]> {
        self.preprocessing.iter().find_map(|step| match step {
            Step::Order { features } => Some(features.as_slice()),
            _ => None,
        })
    }

    /// Names of the numbers in a prepared row, in the network's order: a field's own name, or
    /// `field=category` for each column of a one-hot field. Empty without an `order` step.
    pub fn features(&self) -> Vec<String> {
        let order = self.order().unwrap_or_default();
        order
            .iter()
            .flat_map(|field| match self.one_hot_columns(field) {
                Some(columns) => columns
                    .iter()
                    .map(|category| format!("{field}={category}"))
                    .collect(),
                None => vec![field.clone()],
            })
            .collect()
    }

    /// Numbers of a prepared row that a field becomes.
    pub fn columns(&self, field: &str) -> usize {
        self.one_hot_columns(field).map_or(1, <[Scalar]>::len)
    }

    /// Whether answers can be explained: classes and numbers of a table, classes and scores of
    /// texts, if the manifest says what to compare with.
    pub fn is_explained(&self) -> bool {
        let Some(background) = &self.background else {
            return false;
        };
        let is_linear = matches!(self.network, Network::Linear { .. });
        match (self.kind, self.task) {
            (Kind::Tabular, Task::Classification | Task::Regression) => {
                !background.instances.is_empty() || (is_linear && !background.means.is_empty())
            }
            (Kind::Text | Kind::TextPair, Task::Classification | Task::Reranking) => {
                background.mask.is_some()
            }
            _ => false,
        }
    }

    /// The categories of a one-hot field that have a column.
    fn one_hot_columns(&self, field: &str) -> Option<&[Scalar]> {
        self.preprocessing.iter().find_map(|step| match step {
            Step::OneHot {
                categories, drop, ..
            } => categories.get(field).map(|all| drop.columns(all)),
            _ => None,
        })
    }

    /// The path of the tokeniser's file; `None` without a `tokenize` step.
    pub fn tokenizer(&self) -> Option<&str> {
        self.preprocessing.iter().find_map(|step| match step {
            Step::Tokenize { tokenizer, .. } => Some(tokenizer.as_str()),
            _ => None,
        })
    }

    /// The tokens of the longest text, or pair of texts, that the model is given.
    pub fn max_tokens(&self) -> Option<usize> {
        self.preprocessing.iter().find_map(|step| match step {
            Step::Tokenize { max_tokens, .. } => Some(*max_tokens),
            _ => None,
        })
    }

    /// The count of numbers in one prediction; `None` if the manifest does not say it.
    pub fn output_width(&self) -> Option<usize> {
        match self.task {
            Task::Classification => Some(self.outputs.labels.len()),
            Task::Regression => Some(self.outputs.names.len().max(1)),
            Task::Reranking => Some(1),
            Task::SentenceEmbedding => self.outputs.dimensions,
            Task::TextGeneration | Task::Raw => None,
        }
    }
}
