//! The steps of preprocessing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ImageStep, Scalar};

/// One step of preprocessing.
///
/// `impute` and the encoders act on fields by their names; `order` then lays the fields out as a
/// row of numbers, on which the scalers act.
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
        values: BTreeMap<String, Scalar>,
    },
    /// One column for each category of a field, 1 in that of its value and 0 in the others, as
    /// scikit-learn's `OneHotEncoder`.
    OneHot {
        /// Categories by field name, in the order of their columns.
        categories: BTreeMap<String, Vec<Scalar>>,
        /// Which category has no column. Default none.
        #[serde(default, skip_serializing_if = "Drop::is_nothing")]
        drop: Drop,
        /// Whether a value that is none of the categories makes a row of zeros instead of an error.
        /// Default false.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        ignore_unknown: bool,
    },
    /// A category's place in the list, from 0, as scikit-learn's `OrdinalEncoder`.
    Ordinal {
        /// Categories by field name, in their order.
        categories: BTreeMap<String, Vec<Scalar>>,
        /// What stands for a value that is none of the categories. Default: such a value is an
        /// error.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unknown: Option<f64>,
    },
    /// Lays the fields out as the row that the network was trained on; a one-hot field takes
    /// several columns.
    Order {
        /// Field names, in the network's order.
        features: Vec<String>,
    },
    /// `(x − mean) / scale`, feature by feature, as scikit-learn's `StandardScaler`.
    StandardScale {
        /// The fields that are scaled, none of them one-hot. Default: every column of the row.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        features: Vec<String>,
        /// Means, in the order of the features.
        mean: Vec<f64>,
        /// Divisors, in the order of the features; none is zero.
        scale: Vec<f64>,
    },
    /// Moves what was `min` to `max` in training to `range`, as scikit-learn's `MinMaxScaler`.
    MinMaxScale {
        /// The fields that are scaled, none of them one-hot. Default: every column of the row.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        features: Vec<String>,
        /// Smallest values, in the order of the features.
        min: Vec<f64>,
        /// Largest values, in the order of the features.
        max: Vec<f64>,
        /// Where they are moved to. Default 0 and 1.
        #[serde(default = "unit_range")]
        range: [f64; 2],
        /// Whether what lies outside is cut to the range. Default false.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        clip: bool,
    },
    /// `(x − center) / scale`, with medians and quantile ranges, as scikit-learn's `RobustScaler`.
    RobustScale {
        /// The fields that are scaled, none of them one-hot. Default: every column of the row.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        features: Vec<String>,
        /// Medians, in the order of the features.
        center: Vec<f64>,
        /// Divisors, in the order of the features; none is zero.
        scale: Vec<f64>,
    },
    /// Turns a text, or a pair of texts, into token ids.
    Tokenize {
        /// File of the Hugging Face `tokenizers` format.
        tokenizer: String,
        /// Longest sequence, special tokens included.
        max_tokens: usize,
        /// Cut a longer text (the answer then says so) instead of refusing it. Default false.
        #[serde(default)]
        truncate: bool,
    },
    /// Turns a picture into numbers, or scales those of a tensor of height × width × channels.
    Image(ImageStep),
}

/// A scaling step, whatever its numbers are called.
#[derive(Debug, Clone, Copy)]
pub struct Scaler<'a> {
    /// The fields that are scaled; none for every column of the row.
    pub features: &'a [String],
    /// Its two lists of numbers, in the order of the features, with their names in the manifest.
    pub parameters: [(&'static str, &'a [f64]); 2],
    /// The scaling of a number.
    pub scaling: Scaling,
}

/// What a scaling step does with its two parameters.
#[derive(Debug, Clone, Copy)]
pub enum Scaling {
    /// `(x − first) / second`
    Center,
    /// Moves what was from the first to the second to `range`.
    Range {
        /// Where to.
        range: [f64; 2],
        /// Whether what lies outside is cut to it.
        clip: bool,
    },
}

fn unit_range() -> [f64; 2] {
    [0.0, 1.0]
}

/// Which category of a one-hot field has no column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Drop {
    /// Every category has a column.
    #[default]
    Nothing,
    /// The first one has none.
    First,
    /// The first one of exactly two has none.
    IfBinary,
}

impl Drop {
    /// The categories that have a column.
    pub fn columns(self, categories: &[Scalar]) -> &[Scalar] {
        let dropped = match self {
            Self::Nothing => false,
            Self::First => !categories.is_empty(),
            Self::IfBinary => categories.len() == 2,
        };
        &categories[usize::from(dropped)..]
    }

    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    fn is_nothing(&self) -> bool {
        *self == Self::Nothing
    }
}

impl Step {
    /// The step's name in a manifest.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Impute { .. } => "impute",
            Self::OneHot { .. } => "oneHot",
            Self::Ordinal { .. } => "ordinal",
            Self::Order { .. } => "order",
            Self::StandardScale { .. } => "standardScale",
            Self::MinMaxScale { .. } => "minMaxScale",
            Self::RobustScale { .. } => "robustScale",
            Self::Tokenize { .. } => "tokenize",
            Self::Image(_) => "image",
        }
    }

    /// The scaling of this step; `None` if it is no scaling step.
    pub fn scaler(&self) -> Option<Scaler<'_>> {
        let (features, parameters, scaling) = match self {
            Self::StandardScale {
                features,
                mean,
                scale,
            } => (
                features,
                [("mean", mean), ("scale", scale)],
                Scaling::Center,
            ),
            Self::RobustScale {
                features,
                center,
                scale,
            } => (
                features,
                [("center", center), ("scale", scale)],
                Scaling::Center,
            ),
            Self::MinMaxScale {
                features,
                min,
                max,
                range,
                clip,
            } => {
                let (range, clip) = (*range, *clip);
                (
                    features,
                    [("min", min), ("max", max)],
                    Scaling::Range { range, clip },
                )
            }
            _ => return None,
        };
        Some(Scaler {
            features,
            parameters: parameters.map(|(name, numbers)| (name, numbers.as_slice())),
            scaling,
        })
    }
}
