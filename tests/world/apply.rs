//! Server-side apply, as far as Serin's applies need it.

use serde_json::{Map, Value, json};

use crate::kinds::Kind;

/// Sets every field of `wanted`; lists whose elements have names are merged by them, others are
/// replaced.
pub fn merge(live: &mut Value, wanted: &Value) {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            for (field, value) in wanted {
                merge(live.entry(field.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(live), Value::Array(wanted)) if are_named(wanted) => {
            let old = std::mem::take(live);
            for element in wanted {
                let same = old.iter().find(|old| identity(old) == identity(element));
                let mut next = same.cloned().unwrap_or(Value::Null);
                merge(&mut next, element);
                live.push(next);
            }
        }
        (live, wanted) => *live = wanted.clone(),
    }
}

/// A JSON merge patch (RFC 7386): a null removes the field, a list is replaced.
pub fn merge_patch(live: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *live = patch.clone();
        return;
    };
    if !live.is_object() {
        *live = Value::Object(Map::new());
    }
    let Value::Object(live) = live else { return };
    for (field, value) in patch {
        if value.is_null() {
            live.remove(field);
        } else {
            merge_patch(live.entry(field.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Removes fields that were applied before, are no longer wanted, and have no other owner.
pub fn withdraw(live: &mut Value, before: &Value, wanted: &Value, others: &[&Value]) {
    let (Value::Object(live), Value::Object(before)) = (live, before) else {
        return;
    };
    let nothing = Map::new();
    let wanted = wanted.as_object().unwrap_or(&nothing);
    for (field, old) in before {
        let kept_by: Vec<&Value> = others.iter().filter_map(|other| other.get(field)).collect();
        match (wanted.get(field), live.get_mut(field)) {
            (Some(wanted), Some(live)) => withdraw(live, old, wanted, &kept_by),
            (None, Some(_)) if kept_by.is_empty() => {
                live.remove(field);
            }
            _ => {}
        }
    }
}

fn are_named(list: &[Value]) -> bool {
    !list.is_empty() && list.iter().all(|element| identity(element).is_some())
}

fn identity(element: &Value) -> Option<&Value> {
    element.get("uid").or_else(|| element.get("name"))
}

/// Some of the defaults that an API server fills in: a strict comparison would write for ever.
pub fn set_defaults(kind: Kind, object: &mut Value) {
    match kind {
        Kind::Deployment => {
            let spec = &mut object["spec"];
            fill(spec, "revisionHistoryLimit", json!(10));
            fill(spec, "progressDeadlineSeconds", json!(600));
            fill(
                spec,
                "strategy",
                json!({"type": "RollingUpdate",
                        "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
            );
            let pod = &mut spec["template"]["spec"];
            fill(pod, "restartPolicy", json!("Always"));
            fill(pod, "dnsPolicy", json!("ClusterFirst"));
            for container in pod["containers"].as_array_mut().into_iter().flatten() {
                fill(
                    container,
                    "terminationMessagePath",
                    json!("/dev/termination-log"),
                );
                fill(container, "imagePullPolicy", json!("IfNotPresent"));
            }
        }
        Kind::Service => {
            let spec = &mut object["spec"];
            fill(spec, "clusterIP", json!("10.96.0.10"));
            fill(spec, "sessionAffinity", json!("None"));
            fill(spec, "type", json!("ClusterIP"));
        }
        _ => {}
    }
}

fn fill(object: &mut Value, field: &str, value: Value) {
    if object.get(field).is_none_or(Value::is_null) {
        object[field] = value;
    }
}
