//! Kubernetes' strategic merge of a pod template of the user's onto one that Serin renders.
//!
//! `k8s_openapi::DeepMerge` is no help: it merges typed values, which drop each field that is newer
//! than the crate, and it keeps both members of a union. So the merge works on JSON, with the merge
//! keys that Kubernetes' API declares for a PodSpec (`patchMergeKey` in its types). Maps merge by
//! key, lists without a merge key (`tolerations`, `args`, `capabilities.drop`) are replaced.

use serde_json::{Map, Value};

/// Lists that merge item by item, and the keys of an item. Containers of all three lists are alike.
///
/// Kubernetes merges ports by number alone, and so takes TCP and UDP of one number for the same;
/// server-side apply does not, and nor does this.
const KEYED: [(&str, &[&str]); 11] = [
    ("spec.containers", &["name"]),
    ("spec.containers.env", &["name"]),
    ("spec.containers.ports", &["containerPort", "protocol"]),
    ("spec.containers.volumeDevices", &["devicePath"]),
    ("spec.containers.volumeMounts", &["mountPath"]),
    ("spec.hostAliases", &["ip"]),
    ("spec.imagePullSecrets", &["name"]),
    ("spec.resourceClaims", &["name"]),
    ("spec.schedulingGates", &["name"]),
    ("spec.topologySpreadConstraints", &["topologyKey"]),
    ("spec.volumes", &["name"]),
];

/// Objects that may have one of these fields. A template that sets one replaces the other: a probe
/// by `exec` ours by `httpGet`.
const UNIONS: [(&str, &[&str]); 4] = [
    ("spec.containers.env", &["value", "valueFrom"]),
    ("spec.containers.livenessProbe", &HANDLERS),
    ("spec.containers.readinessProbe", &HANDLERS),
    ("spec.containers.startupProbe", &HANDLERS),
];
const HANDLERS: [&str; 4] = ["exec", "grpc", "httpGet", "tcpSocket"];

/// Merges the fields of a PodTemplateSpec onto another one.
pub(super) fn merge(onto: &mut Value, template: &Map<String, Value>) {
    if let Value::Object(onto) = onto {
        merge_fields(onto, template, "");
    }
}

fn merge_fields(onto: &mut Map<String, Value>, fields: &Map<String, Value>, at: &str) {
    if let Some((_, members)) = UNIONS.iter().find(|(path, _)| *path == at)
        && members.iter().any(|member| fields.contains_key(*member))
    {
        onto.retain(|key, _| !members.contains(&key.as_str()) || fields.contains_key(key));
    }
    for (key, value) in fields {
        let key_of_path = match key.as_str() {
            "initContainers" | "ephemeralContainers" => "containers",
            other => other,
        };
        let path = if at.is_empty() {
            key_of_path.to_owned()
        } else {
            format!("{at}.{key_of_path}")
        };
        match (onto.get_mut(key), value) {
            (Some(Value::Object(onto)), Value::Object(fields)) => {
                merge_fields(onto, fields, &path);
            }
            (Some(Value::Array(onto)), Value::Array(items)) => merge_items(onto, items, &path),
            _ => {
                onto.insert(key.clone(), value.clone());
            }
        }
    }
}

/// New items come last, in the template's order.
fn merge_items(onto: &mut Vec<Value>, items: &[Value], path: &str) {
    let Some((_, keys)) = KEYED.iter().find(|(keyed, _)| *keyed == path) else {
        *onto = items.to_vec();
        return;
    };
    for item in items {
        let same = onto.iter_mut().find(|other| {
            keys.iter()
                .all(|key| value_of(other, key) == value_of(item, key))
        });
        match (same, item) {
            (Some(Value::Object(same)), Value::Object(fields)) => merge_fields(same, fields, path),
            _ => onto.push(item.clone()),
        }
    }
}

/// The value of a merge key. Kubernetes' default of `protocol` is TCP.
fn value_of(item: &Value, key: &str) -> Value {
    match item.get(key) {
        None if key == "protocol" => Value::from("TCP"),
        found => found.cloned().unwrap_or_default(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
