//! Checks of named fields: each step of preprocessing, and the network, must accept the output of
//! the step before.

use std::collections::{BTreeMap, BTreeSet};

use super::Problems;
use crate::artefact::manifest::{
    InputType, Manifest, Network, Scalar, Scaler, Scaling, Step, Task,
};

/// Most instances of a background: each costs its part of every explanation.
const MAX_BACKGROUND: usize = 100;

/// A tabular model's steps, in order, with what the steps before have established.
pub(super) struct Tabular<'a> {
    manifest: &'a Manifest,
    imputed: BTreeSet<&'a str>,
    /// Fields that an encoder turns into numbers, and whether it makes several columns of them.
    encoded: BTreeMap<&'a str, bool>,
    ordered: bool,
}

impl<'a> Tabular<'a> {
    pub(super) fn new(manifest: &'a Manifest) -> Self {
        Self {
            manifest,
            imputed: BTreeSet::new(),
            encoded: BTreeMap::new(),
            ordered: false,
        }
    }

    pub(super) fn check(mut self, problems: &mut Problems) {
        let manifest = self.manifest;
        problems.check(
            matches!(manifest.task, Task::Classification | Task::Regression),
            "a tabular model's task must be classification or regression",
        );
        let graph = matches!(manifest.network, Network::Onnx { .. });
        problems.check(
            graph
                || matches!(
                    manifest.network,
                    Network::Linear { .. } | Network::Mlp { .. }
                ),
            "a tabular model's architecture must be linear, mlp or onnx",
        );
        for (index, step) in manifest.preprocessing.iter().enumerate() {
            let at = format!("preprocessing[{index}]");
            self.check_step(&at, step, problems);
        }
        problems.check(
            self.ordered || (graph && self.encoded.is_empty()),
            "preprocessing has no order step",
        );
        let order = manifest.order().unwrap_or_default();
        for input in &manifest.inputs {
            let name = input.name.as_str();
            problems.check(
                !matches!(input.kind, InputType::Tensor | InputType::Image),
                format!("input {name}: a tabular model takes neither tensors nor images"),
            );
            problems.check(
                !input.nullable || self.imputed.contains(name),
                format!("input {name} is nullable, but no impute step fills it"),
            );
            if input.kind != InputType::String {
                continue;
            }
            problems.check(
                !input.allowed.is_empty() || input.max_length.is_some(),
                format!("input {name}: a string of a tabular model needs allowed or maxLength"),
            );
            problems.check(
                self.encoded.contains_key(name) || !order.contains(&input.name),
                format!("input {name} is a string, but no oneHot or ordinal step encodes it"),
            );
        }
        if let Network::Onnx { inputs, .. } = &manifest.network {
            problems.check(
                !self.ordered || inputs.len() <= 1,
                "network.inputs: what the order step lays out is one input",
            );
            for input in inputs {
                problems.check(
                    !self.ordered || input.fields.is_empty(),
                    format!(
                        "network.inputs {}: the order step has its fields",
                        input.name
                    ),
                );
                for field in &input.fields {
                    self.check_field(&format!("network.inputs {}", input.name), field, problems);
                }
            }
        }
        if let Some(background) = &manifest.background {
            let features = manifest.features();
            let has = |name| background.means.contains_key(name);
            problems.check(
                background.instances.len() <= MAX_BACKGROUND,
                format!("background.instances may be {MAX_BACKGROUND} at most"),
            );
            problems.check(
                (background.means.is_empty() && !background.instances.is_empty())
                    || (background.means.len() == features.len() && features.iter().all(has)),
                format!(
                    "background.means needs one number for each of {}",
                    features.join(", ")
                ),
            );
        }
    }

    fn check_field(&self, at: &str, name: &str, problems: &mut Problems) {
        problems.check(
            self.manifest.input(name).is_some(),
            format!("{at}: {name} is not an input"),
        );
    }

    fn check_step(&mut self, at: &str, step: &'a Step, problems: &mut Problems) {
        match step {
            Step::Impute { values } => {
                problems.check(
                    !self.ordered,
                    format!("{at}: impute must come before order"),
                );
                for (name, value) in values {
                    self.check_field(at, name, problems);
                    if let Some(input) = self.manifest.input(name) {
                        problems.check(
                            value.is_a(input.kind),
                            format!("{at}: the value for {name} is of another type"),
                        );
                    }
                    self.imputed.insert(name);
                }
            }
            Step::OneHot {
                categories,
                drop,
                ignore_unknown,
            } => {
                self.check_encoder(at, categories, true, *ignore_unknown, problems);
                for (name, values) in categories {
                    problems.check(
                        !drop.columns(values).is_empty(),
                        format!("{at}: {name} has no column"),
                    );
                }
            }
            Step::Ordinal {
                categories,
                unknown,
            } => self.check_encoder(at, categories, false, unknown.is_some(), problems),
            Step::Order { features } => {
                problems.check(!self.ordered, format!("{at}: a second order step"));
                problems.check(!features.is_empty(), format!("{at}: features is empty"));
                for name in features {
                    self.check_field(at, name, problems);
                }
                self.ordered = true;
            }
            _ => match step.scaler() {
                Some(scaler) => self.check_scaler(at, step.name(), scaler, problems),
                None => problems.check(
                    false,
                    format!("{at}: {} is not for named fields", step.name()),
                ),
            },
        }
    }

    fn check_encoder(
        &mut self,
        at: &str,
        categories: &'a BTreeMap<String, Vec<Scalar>>,
        several: bool,
        takes_unknown: bool,
        problems: &mut Problems,
    ) {
        problems.check(
            !self.ordered,
            format!("{at}: an encoder must come before order"),
        );
        for (name, values) in categories {
            self.check_field(at, name, problems);
            problems.check(
                !values.is_empty(),
                format!("{at}: {name} has no categories"),
            );
            let distinct = (1..values.len()).all(|end| !values[..end].contains(&values[end]));
            problems.check(distinct, format!("{at}: {name} has a category twice"));
            problems.check(
                self.encoded.insert(name, several).is_none(),
                format!("{at}: {name} is encoded a second time"),
            );
            let Some(input) = self.manifest.input(name) else {
                continue;
            };
            problems.check(
                values.iter().all(|value| value.is_a(input.kind)),
                format!("{at}: a category of {name} is of another type"),
            );
            // A value without a category is refused as a request's fault, before the encoder sees
            // it.
            let all_known = !input.allowed.is_empty() || input.kind == InputType::Boolean;
            problems.check(
                takes_unknown
                    || (all_known && input.allowed.iter().all(|value| values.contains(value))),
                format!(
                    "{at}: {name} needs allowed values that all have a category, or a way to take \
                     unknown ones"
                ),
            );
        }
    }

    fn check_scaler(&self, at: &str, step: &str, scaler: Scaler<'_>, problems: &mut Problems) {
        problems.check(self.ordered, format!("{at}: {step} must come after order"));
        let order = self.manifest.order().unwrap_or_default();
        for name in scaler.features {
            problems.check(
                order.contains(name),
                format!("{at}: {name} is not in the order step"),
            );
            problems.check(
                self.encoded.get(name.as_str()) != Some(&true),
                format!("{at}: {name} is one-hot"),
            );
        }
        let width = if scaler.features.is_empty() {
            self.manifest.features().len()
        } else {
            scaler.features.len()
        };
        let [(first, left), (second, right)] = scaler.parameters;
        problems.check(
            left.len() == width && right.len() == width,
            format!("{at}: {first} and {second} need one number for each of {width} features"),
        );
        match scaler.scaling {
            Scaling::Center => problems.check(
                right.iter().all(|divisor| *divisor != 0.0),
                format!("{at}: a scale is 0"),
            ),
            Scaling::Range { range, .. } => {
                problems.check(
                    left.iter().zip(right).all(|(min, max)| min < max),
                    format!("{at}: a min is not below its max"),
                );
                problems.check(
                    range[0] < range[1],
                    format!("{at}: the range's first number is not below its second"),
                );
            }
        }
    }
}
