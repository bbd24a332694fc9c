//! The values of the spec that are in force, and where each comes from.
//!
//! The spec with all defaults written out is compared with the one that the API server stores, so
//! that no field has to be listed here.

use serde_json::Value;

use super::Page;
use crate::{
    api::{EvidenceSource, ModelDeployment, ModelDeploymentSpec, Objective, SERVER, crd},
    k8s::KnownVersion,
};

/// Fields whose default the installation sets.
const BY_OPERATOR: [&str; 1] = ["serving.image"];
/// Fields by which an element of a list is called, where it has one of them.
const KEYS: [&str; 2] = ["name", "weight"];
/// Most characters of one value.
const LONGEST: usize = 160;

/// Where a value in force comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The user wrote it.
    Spec,
    /// The operator's default.
    Default,
    /// A setting of the installation.
    Operator,
}

impl Origin {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Spec => "spec",
            Self::Default => "default",
            Self::Operator => "operator",
        }
    }
}

/// One value in force, or one element of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) origin: Origin,
    /// Its path, relative to the spec.
    pub(super) path: String,
    pub(super) value: String,
}

/// Writes the section. `stored` is the spec as the API server stores it, `record` the spec's
/// version, if it is recorded.
pub(super) fn write(
    page: &mut Page,
    model: &ModelDeployment,
    stored: &Value,
    record: Option<&KnownVersion>,
) {
    page.heading("In force");
    page.paragraph(
        "spec: you wrote it. operator: set by the installation. default: as this plug-in's release \
         has it; an operator of another release has its own.",
    );
    for row in rows(model, stored, record) {
        page.value(row.origin.name(), &row.path, &row.value);
    }
}

/// All values in force, by path.
pub(super) fn rows(
    model: &ModelDeployment,
    stored: &Value,
    record: Option<&KnownVersion>,
) -> Vec<Row> {
    let crd = crd().ok().and_then(|crd| serde_json::to_value(crd).ok());
    let schema = crd
        .as_ref()
        .and_then(|crd| crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec"));
    let mut walk = Walk {
        objectives: &model.spec.objectives,
        rows: Vec::new(),
    };
    walk.value(
        &in_force(model, record),
        Some(stored),
        schema.unwrap_or(&Value::Null),
        "",
    );
    walk.rows
}

/// The spec in force as JSON.
fn in_force(model: &ModelDeployment, record: Option<&KnownVersion>) -> Value {
    let declared = &model.spec;
    let mut model = model.clone();
    if let Some(record) = record {
        // The version runs with what its record has, whatever the defaults are now.
        model.spec.serving = record.spec.serving.clone();
    }
    let mut spec = serde_json::to_value(model.spec_in_force()).unwrap_or_default();
    let serving = &mut spec["serving"];
    if serving.get("image").is_none() {
        serving["image"] =
            "the installation's (chart: serving.image), recorded once the version starts".into();
    }
    if serving.get("modelMountPath").is_none()
        && let Some(path) = mount_path(declared, record)
    {
        serving["modelMountPath"] = path.into();
    }
    spec
}

/// Where the model is mounted, if it is. Without a record only the operator knows which image is
/// the bundled one.
fn mount_path(spec: &ModelDeploymentSpec, record: Option<&KnownVersion>) -> Option<String> {
    if let Some(KnownVersion { template, .. }) = record {
        let find = |list: &Value, name: &str| {
            let mut items = list.as_array()?.iter();
            items.find(|item| item["name"] == name).cloned()
        };
        let server = find(&template["spec"]["containers"], SERVER)?;
        let mount = find(&server["volumeMounts"], "model")?;
        return mount["mountPath"].as_str().map(str::to_owned);
    }
    let model = spec.model.as_ref()?;
    if model.uri.starts_with("file://") {
        return None;
    }
    Some(match spec.serving.mount_path("") {
        None => "where the bundled image finds it".to_owned(),
        Some(path) => format!("{path}, unless the image is the bundled one"),
    })
}

struct Walk<'a> {
    objectives: &'a [Objective],
    rows: Vec<Row>,
}

impl Walk<'_> {
    fn value(&mut self, value: &Value, stored: Option<&Value>, schema: &Value, path: &str) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let stored = stored.and_then(|stored| stored.get(name));
                    self.value(
                        value,
                        stored,
                        &schema["properties"][name],
                        &join(path, name),
                    );
                }
                let unknown = stored.and_then(Value::as_object).into_iter().flatten();
                let unknown =
                    unknown.filter(|(name, value)| !fields.contains_key(*name) && !is_empty(value));
                for (name, value) in unknown {
                    let value = format!("{} (unknown to this plug-in's release)", text(value));
                    self.row(Origin::Spec, join(path, name), value);
                }
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for (index, item) in items.iter().enumerate() {
                    let stored = stored.and_then(|stored| stored.get(index));
                    self.element(index, item, stored, path);
                }
            }
            leaf => self.leaf(leaf, stored, schema, path),
        }
    }

    fn leaf(&mut self, value: &Value, stored: Option<&Value>, schema: &Value, path: &str) {
        let Some(stored) = stored else {
            let origin = if BY_OPERATOR.contains(&path) {
                Origin::Operator
            } else {
                Origin::Default
            };
            return self.row(origin, path.to_owned(), text(value));
        };
        let mut value = text(stored);
        if schema.get("default") == Some(stored) {
            value.push_str(", also stored where you wrote none");
        }
        self.row(Origin::Spec, path.to_owned(), value);
    }

    /// One element of a list: what was written, then what is in force by default.
    fn element(&mut self, index: usize, item: &Value, stored: Option<&Value>, path: &str) {
        let mut leaves = Vec::new();
        flatten(item, stored, "", &mut leaves);
        let key = KEYS.into_iter().find(|key| item.get(key).is_some());
        let label = match key {
            Some("name") => text(&item["name"]),
            Some(key) => format!("{key} {}", text(&item[key])),
            None => index.to_string(),
        };
        leaves.retain(|(path, _, _)| key != Some(path));
        let list = |written: bool| {
            let leaves = leaves.iter().filter(|(_, _, is)| *is == written);
            let leaves = leaves.map(|(path, value, _)| format!("{path}: {value}"));
            leaves.collect::<Vec<_>>().join(", ")
        };
        let (written, by_default) = (list(true), list(false));
        let mut value = match stored {
            None => by_default,
            Some(_) if by_default.is_empty() => written,
            Some(_) if written.is_empty() => format!("default {by_default}"),
            Some(_) => format!("{written}; default {by_default}"),
        };
        if path == "objectives"
            && let Some(objective) = self.objectives.get(index)
        {
            value = format!("{value}; judged by {}", judge(objective));
        }
        let origin = match stored {
            Some(_) => Origin::Spec,
            None => Origin::Default,
        };
        self.row(origin, format!("{path}[{label}]"), value);
    }

    fn row(&mut self, origin: Origin, path: String, value: String) {
        self.rows.push(Row {
            origin,
            path,
            value,
        });
    }
}

/// The leaves below a value: path, text, and whether it was written.
fn flatten(
    value: &Value,
    stored: Option<&Value>,
    path: &str,
    leaves: &mut Vec<(String, String, bool)>,
) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let stored = stored.and_then(|stored| stored.get(name));
                flatten(value, stored, &join(path, name), leaves);
            }
        }
        leaf => leaves.push((
            path.to_owned(),
            text(stored.unwrap_or(leaf)),
            stored.is_some(),
        )),
    }
}

/// What judges an objective.
fn judge(objective: &Objective) -> &'static str {
    if objective.prediction_drift.is_some() {
        return "model_predictions_total of the serving pods";
    }
    if objective.query.is_some() {
        return "its own query";
    }
    match objective.source.unwrap_or_default() {
        EvidenceSource::Envoy => "the bundled router's counters",
        EvidenceSource::Serving => "the serving pods' counters",
        EvidenceSource::Istio => "Istio's sidecars and gateways",
        EvidenceSource::IstioAmbient => "Istio's waypoint",
        EvidenceSource::Linkerd => "Linkerd's proxies",
        EvidenceSource::IngressNginx => "ingress-nginx",
        EvidenceSource::Traefik => "Traefik",
        EvidenceSource::Vllm => "vLLM's counters",
        EvidenceSource::Triton => "Triton's counters",
        EvidenceSource::Custom => "the metrics that it names",
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// A value as one line of at most [`LONGEST`] characters.
fn text(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(|item| !item.is_object()) => {
            items.iter().map(text).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= LONGEST {
        return text;
    }
    let kept: String = text.chars().take(LONGEST - 1).collect();
    format!("{kept}…")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
