//! The meaning of the network's outputs, and their distribution in training.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The meaning of the network's outputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outputs {
    /// Class labels, in the order of the last layer (classification).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Length of the vector (embeddings).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<usize>,
    /// Names of the numbers, if there are several (regression).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Unit of measure of the numbers, for people (regression).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// How inputs and answers were distributed in training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Reference {
    /// By input name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Distribution>,
    /// Of the labels (classification) or the first number (regression).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Distribution>,
}

/// How one field was distributed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Distribution {
    /// Numbers, in bins.
    Bins {
        /// Rising bounds between the bins, at most 11: a value on a bound is in the lower bin.
        edges: Vec<f64>,
        /// Share of each bin, from below the first bound to above the last one: one more than there
        /// are bounds. Their sum is 1.
        shares: Vec<f64>,
    },
    /// Categories.
    Categories {
        /// Share of each category, by its text. The rest to 1 is the share of all others.
        shares: BTreeMap<String, f64>,
    },
}

/// What explanations compare an instance with. Tables: the means are enough for a linear network,
/// every other needs instances. Texts: a mask.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Background {
    /// Mean of each number of a prepared row over the training data, by the names of
    /// [`super::Manifest::features`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub means: BTreeMap<String, f64>,
    /// Instances of the training data, at most 100. If given, a linear network computes its means
    /// from them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Map<String, Value>>,
    /// The token that replaces a left-out word in a text: `[MASK]` for BERT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
}

impl Background {
    /// The instances, as a request has them.
    pub fn values(&self) -> Vec<Value> {
        self.instances.iter().cloned().map(Value::Object).collect()
    }
}
