//! Whose an object is.

use kube::ResourceExt;

use crate::api::{GROUP, MANAGED_BY_LABEL, MANAGER, MODEL_LABEL, ModelDeployment};

/// Whose an object is, as a model sees it that needs the object's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    /// The model's own.
    Own,
    /// It bears the model's labels and has no owner: left by a model that was deleted without its children.
    Orphan,
    /// It belongs to an earlier ModelDeployment of this name, and is deleted with it.
    Former,
    /// Somebody else's.
    Foreign,
}

/// Whose an object is.
pub fn kinship<K: ResourceExt>(object: &K, model: &ModelDeployment) -> Kinship {
    if object.namespace() != model.namespace() {
        return Kinship::Foreign;
    }
    let (name, uid) = (model.name_any(), model.uid().unwrap_or_default());
    let owners = object.owner_references();
    if owners.iter().any(|owner| owner.uid == uid) {
        return Kinship::Own;
    }
    let is_model = |api_version: &str| api_version.split('/').next() == Some(GROUP);
    if owners.iter().any(|owner| {
        is_model(&owner.api_version) && owner.kind == "ModelDeployment" && owner.name == name
    }) {
        return Kinship::Former;
    }
    let has = |label, value: &str| object.labels().get(label).is_some_and(|own| own == value);
    let labelled = has(MANAGED_BY_LABEL, MANAGER) && has(MODEL_LABEL, &name);
    if labelled && owners.iter().all(|owner| owner.controller != Some(true)) {
        Kinship::Orphan
    } else {
        Kinship::Foreign
    }
}

/// Whether an object is this very model's, or an orphan that it adopts.
pub fn is_child<K: ResourceExt>(object: &K, model: &ModelDeployment) -> bool {
    matches!(kinship(object, model), Kinship::Own | Kinship::Orphan)
}
