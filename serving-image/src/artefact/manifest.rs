//! `serin-model.json`: what a model takes, how that is prepared, and what it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// What a person should know about the model, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// SPDX expression of the weights' licence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub licence: String,
    /// Named fields or free text.
    pub kind: Kind,
    /// What the answer means.
    pub task: Task,
    /// The fields of one instance; exactly one `string` for an embedding.
    pub inputs: Vec<Input>,
    /// Applied in order to each valid instance.
    pub preprocessing: Vec<Step>,
    /// The network that turns prepared instances into outputs.
    pub network: Network,
    /// The answer's labels or length.
    pub outputs: Outputs,
    /// Bounds on one request.
    #[serde(default)]
    pub limits: Limits,
    /// Known answers; the process is not ready unless it reproduces them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub golden: Vec<Golden>,
    /// Every file of the artefact but the manifest. A file that is not listed is never read.
    #[serde(default)]
    pub files: Vec<FileEntry>,
}

/// How an instance looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An object of named fields.
    Tabular,
    /// A text, answered by a vector.
    Embedding,
}

/// What the answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One label, with a probability for each.
    Classification,
    /// A vector of unit length whose dot products are similarities.
    SentenceEmbedding,
}

/// One field of an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Input {
    /// The field's name in a request.
    pub name: String,
    /// Its JSON type.
    #[serde(rename = "type")]
    pub kind: InputType,
    /// Smallest value that is accepted (numbers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Largest value that is accepted (numbers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Unit of measure, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Whether `null` or a missing field is accepted; an `impute` step must then fill it. Default false.
    #[serde(default)]
    pub nullable: bool,
    /// Longest text that is accepted, in Unicode scalar values (strings).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
}

/// JSON type of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputType {
    /// Any finite number.
    Number,
    /// A number without a fraction.
    Integer,
    /// `true` is prepared as 1, `false` as 0.
    Boolean,
    /// A text.
    String,
}

/// One step of preprocessing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(
    tag = "step",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Step {
    /// Replaces missing fields, by field name.
    Impute {
        /// The value that stands for a missing one.
        values: BTreeMap<String, f64>,
    },
    /// Lays the fields out as the feature vector that the network was trained on.
    Order {
        /// Field names, in the network's order.
        features: Vec<String>,
    },
    /// `(x − mean) / scale`, feature by feature, as scikit-learn's `StandardScaler`.
    StandardScale {
        /// Means, in the order of the features.
        mean: Vec<f64>,
        /// Divisors, in the order of the features; none is zero.
        scale: Vec<f64>,
    },
    /// Turns a text into token ids.
    Tokenize {
        /// File of the Hugging Face `tokenizers` format.
        tokenizer: String,
        /// Longest sequence, special tokens included.
        max_tokens: usize,
        /// Cut a longer text (the answer then says so) instead of refusing it. Default false.
        #[serde(default)]
        truncate: bool,
    },
}

/// A network that this build can compute, and the safetensors file that holds its weights.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(
    tag = "architecture",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Network {
    /// `softmax(W x + b)`; tensors `layers.0.weight` (outputs × inputs) and `layers.0.bias`.
    Linear {
        /// Weights file.
        weights: String,
    },
    /// Dense layers `layers.N.weight`, `layers.N.bias`, an activation between them, softmax at the end.
    Mlp {
        /// Applied after each layer but the last.
        activation: Activation,
        /// Weights file.
        weights: String,
    },
    /// A BERT encoder, mean pooling over its tokens, and L2 normalisation.
    Bert {
        /// The `config.json` of Hugging Face.
        config: String,
        /// Weights file.
        weights: String,
    },
}

impl Network {
    /// The weights file.
    pub fn weights(&self) -> &str {
        match self {
            Self::Linear { weights } | Self::Mlp { weights, .. } | Self::Bert { weights, .. } => {
                weights
            }
        }
    }
}

/// Activation between dense layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// Hyperbolic tangent.
    Tanh,
}

/// What the network's last layer stands for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outputs {
    /// Class labels, in the order of the last layer (classification).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Length of the vector (embedding).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<usize>,
}

/// Bounds on one request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Most instances in one request. Default 1024.
    pub max_instances: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_instances: 1024,
        }
    }
}

/// A known answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Golden {
    /// An instance, as a request would carry it.
    pub instance: Value,
    /// Probabilities in the order of the labels, or the vector.
    pub output: Vec<f32>,
    /// Largest absolute difference that is accepted.
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
    /// Reads a manifest and checks that its parts fit together.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes)?;
        let problems = manifest.contradictions();
        if problems.is_empty() {
            Ok(manifest)
        } else {
            Err(ManifestError::Contradiction(problems))
        }
    }

    /// The features in the network's order; empty for an embedding.
    pub fn features(&self) -> &[String] {
        self.preprocessing
            .iter()
            .find_map(|step| match step {
                Step::Order { features } => Some(features.as_slice()),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&Input> {
        self.inputs.iter().find(|input| input.name == name)
    }

    fn contradictions(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        check(
            self.schema_version == SCHEMA_VERSION,
            format!("schemaVersion must be {SCHEMA_VERSION}"),
        );
        check(!self.name.is_empty(), "name is empty".into());
        check(!self.version.is_empty(), "version is empty".into());
        check(
            self.limits.max_instances > 0,
            "limits.maxInstances is 0".into(),
        );
        check(!self.inputs.is_empty(), "inputs is empty".into());
        let names: BTreeSet<&str> = self
            .inputs
            .iter()
            .map(|input| input.name.as_str())
            .collect();
        check(
            names.len() == self.inputs.len(),
            "two inputs share a name".into(),
        );
        for input in &self.inputs {
            if let (Some(min), Some(max)) = (input.min, input.max) {
                check(
                    min <= max,
                    format!("input {}: min is above max", input.name),
                );
            }
        }
        for entry in &self.files {
            check(
                is_inside(&entry.path),
                format!(
                    "file {}: only relative paths without `..` are allowed",
                    entry.path
                ),
            );
        }
        match self.kind {
            Kind::Tabular => self.check_tabular(&mut check),
            Kind::Embedding => self.check_embedding(&mut check),
        }
        problems
    }

    fn check_tabular(&self, check: &mut impl FnMut(bool, String)) {
        check(
            self.task == Task::Classification,
            "a tabular model's task must be classification".into(),
        );
        check(
            self.outputs.labels.len() >= 2,
            "outputs.labels needs at least 2 labels".into(),
        );
        check(
            !matches!(self.network, Network::Bert { .. }),
            "a tabular model's architecture must be linear or mlp".into(),
        );
        let mut ordered: Option<usize> = None;
        let mut imputed = BTreeSet::new();
        for (index, step) in self.preprocessing.iter().enumerate() {
            let at = format!("preprocessing[{index}]");
            match step {
                Step::Impute { values } => {
                    check(
                        ordered.is_none(),
                        format!("{at}: impute must come before order"),
                    );
                    for name in values.keys() {
                        check(
                            self.input(name).is_some(),
                            format!("{at}: {name} is not an input"),
                        );
                        imputed.insert(name.as_str());
                    }
                }
                Step::Order { features } => {
                    check(ordered.is_none(), format!("{at}: a second order step"));
                    for name in features {
                        check(
                            self.input(name).is_some(),
                            format!("{at}: {name} is not an input"),
                        );
                    }
                    ordered = Some(features.len());
                }
                Step::StandardScale { mean, scale } => {
                    check(
                        ordered == Some(mean.len()) && mean.len() == scale.len(),
                        format!(
                            "{at}: mean and scale need one number for each feature of the order step before it"
                        ),
                    );
                    check(
                        scale.iter().all(|divisor| *divisor != 0.0),
                        format!("{at}: a scale is 0"),
                    );
                }
                Step::Tokenize { .. } => check(false, format!("{at}: tokenize is for texts")),
            }
        }
        check(ordered.is_some(), "preprocessing has no order step".into());
        for input in &self.inputs {
            let name = &input.name;
            check(
                input.kind != InputType::String,
                format!("input {name}: a tabular model takes no strings"),
            );
            check(
                !input.nullable || imputed.contains(name.as_str()),
                format!("input {name} is nullable, but no impute step fills it"),
            );
        }
    }

    fn check_embedding(&self, check: &mut impl FnMut(bool, String)) {
        check(
            self.task == Task::SentenceEmbedding,
            "an embedding model's task must be sentence-embedding".into(),
        );
        check(
            self.outputs.dimensions.is_some(),
            "outputs.dimensions is missing".into(),
        );
        check(
            matches!(self.network, Network::Bert { .. }),
            "an embedding model's architecture must be bert".into(),
        );
        check(
            matches!(self.inputs.as_slice(), [input] if input.kind == InputType::String && !input.nullable),
            "an embedding model takes exactly one input, a string that is not nullable".into(),
        );
        check(
            matches!(self.preprocessing.as_slice(), [Step::Tokenize { .. }]),
            "an embedding model's preprocessing is exactly one tokenize step".into(),
        );
    }
}

/// Whether a listed path stays inside the artefact directory.
fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn tabular() -> Value {
        json!({
            "schemaVersion": 1, "name": "m", "version": "1", "kind": "tabular", "task": "classification",
            "inputs": [{"name": "a", "type": "number"}, {"name": "b", "type": "integer", "nullable": true}],
            "preprocessing": [
                {"step": "impute", "values": {"b": 1.0}},
                {"step": "order", "features": ["a", "b"]},
                {"step": "standardScale", "mean": [0.0, 0.0], "scale": [1.0, 2.0]}
            ],
            "network": {"architecture": "mlp", "activation": "relu", "weights": "w.safetensors"},
            "outputs": {"labels": ["x", "y"]}
        })
    }

    fn problem_after(change: impl FnOnce(&mut Value)) -> String {
        let mut manifest = tabular();
        change(&mut manifest);
        Manifest::parse(manifest.to_string().as_bytes())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_sound_manifest_is_read() {
        let manifest = Manifest::parse(tabular().to_string().as_bytes()).unwrap();
        assert_eq!(manifest.features(), ["a", "b"]);
        assert_eq!(manifest.limits.max_instances, 1024);
    }

    #[test]
    fn a_contradiction_is_named() {
        for (change, expected) in [
            (("/schemaVersion", json!(2)), "schemaVersion must be 1"),
            (
                ("/preprocessing/0/values", json!({})),
                "input b is nullable, but no impute step fills it",
            ),
            (
                ("/preprocessing/0/values", json!({"c": 1.0, "b": 1.0})),
                "preprocessing[0]: c is not an input",
            ),
            (
                ("/preprocessing/2/scale", json!([1.0])),
                "preprocessing[2]: mean and scale need one number",
            ),
            (
                ("/preprocessing/2/scale", json!([1.0, 0.0])),
                "preprocessing[2]: a scale is 0",
            ),
            (
                ("/inputs/0/type", json!("string")),
                "input a: a tabular model takes no strings",
            ),
            (("/outputs/labels", json!(["x"])), "at least 2 labels"),
            (
                ("/kind", json!("embedding")),
                "task must be sentence-embedding",
            ),
        ] {
            let problem =
                problem_after(|manifest| *manifest.pointer_mut(change.0).unwrap() = change.1);
            assert!(problem.contains(expected), "{problem}");
        }
        let problem = problem_after(|m| {
            m["files"] = json!([{"path": "../w", "size": 1, "sha256": "00"}]);
        });
        assert!(
            problem.contains("file ../w: only relative paths"),
            "{problem}"
        );
        let problem = problem_after(|m| m["colour"] = json!("red"));
        assert!(problem.contains("unknown field `colour`"), "{problem}");
    }
}
