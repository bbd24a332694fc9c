//! A change of the resource by a verb: annotations, spec fields and the sentence for the user.

use std::collections::BTreeMap;

use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::CliError;
use crate::api::{
    CanaryVersion, ModelDeployment, State, VersionRef,
    commands::{Command, REQUESTED_BY},
};

/// A change of the resource, and its effect.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    /// Annotations to be set, or removed where `None`.
    annotations: BTreeMap<String, Option<String>>,
    /// A merge patch of `spec`.
    spec: Value,
    /// The effect, as a sentence for the user.
    pub(super) sentence: String,
}

impl Change {
    /// No write is needed.
    pub(super) fn nothing(sentence: String) -> Self {
        Self {
            annotations: BTreeMap::new(),
            spec: Value::Null,
            sentence,
        }
    }

    /// Sets a command's annotation.
    pub(super) fn command(command: &Command, sentence: String) -> Self {
        let annotation = command.annotation().to_owned();
        Self {
            annotations: [(annotation, Some(command.value()))].into(),
            ..Self::nothing(sentence)
        }
    }

    /// Changes fields of the spec.
    pub(super) fn spec(patch: Value, sentence: String) -> Self {
        Self {
            spec: patch,
            ..Self::nothing(sentence)
        }
    }

    /// Also removes an annotation.
    pub(super) fn removing(mut self, annotation: &str) -> Self {
        self.annotations.insert(annotation.to_owned(), None);
        self
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.annotations.is_empty() && self.spec.is_null()
    }

    /// Returns the merge patch, whose precondition is the resource's version.
    pub(super) fn patch(&self, model: &ModelDeployment, by: Option<&str>) -> Value {
        let mut annotations = json!(self.annotations);
        annotations[REQUESTED_BY] = json!(by);
        let mut patch = json!({"metadata": {
            "resourceVersion": model.resource_version(),
            "annotations": annotations,
        }});
        if !self.spec.is_null() {
            patch["spec"] = self.spec.clone();
        }
        patch
    }
}

/// Returns the merge patch (RFC 7386) that turns `old` into `new`.
pub(super) fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return new.clone();
    };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, new) in new {
        match old.get(key) {
            Some(old) if old == new => {}
            Some(old) => {
                patch.insert(key.clone(), difference(old, new));
            }
            None => {
                patch.insert(key.clone(), new.clone());
            }
        }
    }
    Value::Object(patch)
}

/// Returns the state that the operator wrote last. Fails where there is none.
pub(super) fn state(model: &ModelDeployment) -> Result<&State, CliError> {
    let status = model.status.as_ref().ok_or_else(|| {
        CliError::Pointless(format!(
            "the operator has not reconciled {} yet; is it running? `kubectl get pods -A -l \
             app.kubernetes.io/name=serin`",
            model.name_any()
        ))
    })?;
    Ok(&status.state)
}

/// Returns the version on trial and the one that it would replace. Fails without a trial, with why
/// there is nothing to `verb`.
pub(super) fn trial<'a>(
    model: &'a ModelDeployment,
    verb: &str,
) -> Result<(&'a CanaryVersion, &'a VersionRef), CliError> {
    let state = state(model)?;
    let why = match (&state.canary, &state.stable) {
        (Some(canary), Some(stable)) => return Ok((canary, stable)),
        (Some(first), None) => format!(
            "version {} is the first, and gets all traffic by itself once its pods are Ready",
            first.version
        ),
        (None, Some(stable)) => format!(
            "version {} serves all traffic and no other is on trial; to start one, change \
             spec.model",
            stable.version
        ),
        (None, None) => "no version has been started yet".to_owned(),
    };
    Err(CliError::Pointless(format!("nothing to {verb}: {why}")))
}
