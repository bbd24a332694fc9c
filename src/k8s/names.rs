//! Names and labels of everything that is made for a model.

use std::collections::BTreeMap;

use crate::api::{MANAGED_BY_LABEL, MANAGER, MODEL_LABEL, REVISION_LABEL, Revision};

/// Name of a version's Deployment, Service and ControllerRevision.
pub fn version_name(model: &str, revision: &Revision) -> String {
    format!("{model}-{revision}")
}

/// Labels of every object of a model.
pub fn model_labels(model: &str) -> BTreeMap<String, String> {
    [(MANAGED_BY_LABEL, MANAGER), (MODEL_LABEL, model)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Labels of every object of one version, its pods included.
pub fn version_labels(model: &str, revision: &Revision) -> BTreeMap<String, String> {
    let mut labels = model_labels(model);
    labels.insert(REVISION_LABEL.to_owned(), revision.to_string());
    labels
}

/// Labels that select one version's pods.
pub fn version_selector(model: &str, revision: &Revision) -> BTreeMap<String, String> {
    [
        (MODEL_LABEL, model.to_owned()),
        (REVISION_LABEL, revision.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}
