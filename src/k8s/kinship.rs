//! Which model an object belongs to.

use kube::ResourceExt;

use crate::api::{GROUP, MANAGED_BY_LABEL, MANAGER, MODEL_LABEL, ModelDeployment};

/// The relation of an object to a model that needs the object's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    /// The model's own.
    Own,
    /// It has the model's labels and no owner: left by a model that was deleted without its
    /// children.
    Orphan,
    /// It belongs to an earlier ModelDeployment of this name and is deleted with that one.
    Former,
    /// Another owner's.
    Foreign,
}

/// The relation of an object to a model.
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

/// Whether an object is this model's own, or an orphan that it adopts.
pub fn is_child<K: ResourceExt>(object: &K, model: &ModelDeployment) -> bool {
    matches!(kinship(object, model), Kinship::Own | Kinship::Orphan)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_the_models_own_an_orphan_an_earlier_models_or_foreign() {
        let model: ModelDeployment = serde_json::from_value(json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "churn", "namespace": "ml", "uid": "new"},
            "spec": {
                "model": {"uri": "file:///m", "version": "1", "digest": "sha256:0"},
                "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
            },
        }))
        .unwrap();
        let of = |namespace: &str, labels: &[(&str, &str)], owner: Option<[&str; 4]>| {
            let owner = owner.map(|[api_version, kind, name, uid]| {
                json!({
                    "apiVersion": api_version, "kind": kind, "name": name, "uid": uid,
                    "controller": true,
                })
            });
            let labels: std::collections::BTreeMap<_, _> = labels.iter().copied().collect();
            let object: Service = serde_json::from_value(json!({"metadata": {
                "name": "churn", "namespace": namespace, "labels": labels,
                "ownerReferences": owner.into_iter().collect::<Vec<_>>(),
            }}))
            .unwrap();
            kinship(&object, &model)
        };
        let ours = [(MANAGED_BY_LABEL, MANAGER), (MODEL_LABEL, "churn")];
        let owner = |uid| Some(["serin.dev/v1alpha1", "ModelDeployment", "churn", uid]);
        assert_eq!(of("ml", &ours, owner("new")), Kinship::Own);
        assert_eq!(of("ml", &[], owner("new")), Kinship::Own);
        assert_eq!(of("ml", &ours, owner("old")), Kinship::Former);
        assert_eq!(of("ml", &ours, None), Kinship::Orphan);
        assert_eq!(of("ml", &ours[..1], None), Kinship::Foreign);
        assert_eq!(of("other", &ours, None), Kinship::Foreign);
        let chart = Some(["helm.example.com/v1", "Release", "churn", "r"]);
        assert_eq!(of("ml", &ours, chart), Kinship::Foreign);
    }
}
