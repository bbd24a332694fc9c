//! What kustomize has to know of the CRD. It reads merge keys from an OpenAPI document that a
//! kustomization names, and replaces every list of a custom resource without one.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Map, Value, json};

/// Returns the OpenAPI document of a CRD's spec: its lists that are maps, with the key of each.
///
/// # Errors
///
/// Fails where the CRD is no JSON.
pub fn kustomize_openapi(crd: &CustomResourceDefinition) -> Result<Value, serde_json::Error> {
    let crd = serde_json::to_value(&crd.spec)?;
    let (group, kind) = (&crd["group"], &crd["names"]["kind"]);
    let mut definitions = Map::new();
    for version in crd["versions"].as_array().into_iter().flatten() {
        let schema = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut definition = json!({
            "type": "object",
            "x-kubernetes-group-version-kind":
                [{"group": group, "kind": kind, "version": version["name"]}],
        });
        if let Some(spec) = merge_keys(schema) {
            definition["properties"] = json!({"spec": spec});
        }
        let words = [group, &version["name"], kind].map(|word| word.as_str().unwrap_or_default());
        definitions.insert(words.join("."), definition);
    }
    Ok(json!({"definitions": definitions}))
}

/// The part of a schema that leads to lists with a key; `None` where there are none.
fn merge_keys(schema: &Value) -> Option<Value> {
    let keys = schema["x-kubernetes-list-map-keys"].as_array();
    if let Some([key]) = keys.map(Vec::as_slice) {
        let items = merge_keys(&schema["items"]).unwrap_or_else(|| json!({"type": "object"}));
        return Some(json!({
            "type": "array", "items": items,
            "x-kubernetes-patch-merge-key": key, "x-kubernetes-patch-strategy": "merge",
        }));
    }
    let members = schema["properties"].as_object()?.iter();
    let members: Map<_, _> = members
        .filter_map(|(name, member)| Some((name.clone(), merge_keys(member)?)))
        .collect();
    (!members.is_empty()).then(|| json!({"type": "object", "properties": members}))
}
