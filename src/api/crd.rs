//! The CustomResourceDefinition, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::ModelDeployment;

/// Annotation of the CRD with the number of its schema.
pub const SCHEMA_ANNOTATION: &str = "serin.dev/schema";
/// Number of this schema. It rises with each release that changes the schema, so that an operator
/// upgrades an older CRD and leaves a newer one alone. A CRD without the annotation (1d584f3) has
/// 1.
pub const SCHEMA: u32 = 4;

/// Formats that the API server knows; it warns about others on every apply.
const FORMATS: [&str; 6] = ["int32", "int64", "float", "double", "date-time", "byte"];

/// Returns the CRD as it is installed. An error where the types' schema is no valid CRD: a test
/// would have found it.
pub fn crd() -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut crd = serde_json::to_value(ModelDeployment::crd())?;
    drop_unknown_formats(&mut crd);
    let properties = "/spec/versions/0/schema/openAPIV3Schema/properties";
    if let Some(status) = crd.pointer_mut(&format!("{properties}/status")) {
        without_defaults(status);
    }
    if let Some(spec) = crd.pointer_mut(&format!("{properties}/spec")) {
        without_defaults(spec);
        without_nulls(spec);
        // The scale subresource reads `replicas`: where it is absent, an autoscaler sees 0 desired
        // pods and does nothing.
        spec["properties"]["replicas"]["default"] = 1.into();
    }
    crd["metadata"]["annotations"] = json!({SCHEMA_ANNOTATION: SCHEMA.to_string()});
    serde_json::from_value(crd)
}

/// Moves each default from the schema into the field's description. `kubectl apply` replaces lists
/// as a whole, so a list with defaults written into its elements would always differ from the
/// manifest. The description of a list names its default itself.
fn without_defaults(node: &mut Value) {
    let Value::Object(map) = node else {
        if let Value::Array(list) = node {
            list.iter_mut().for_each(without_defaults);
        }
        return;
    };
    let default = match map.remove("default") {
        Some(Value::Object(_)) => Some("Its members' defaults".to_owned()),
        Some(Value::String(text)) => Some(text),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(Value::Bool(flag)) => Some(flag.to_string()),
        Some(Value::Array(_) | Value::Null) | None => None,
    };
    if let (Some(default), Some(Value::String(description))) = (default, map.get_mut("description"))
        && !description.replace('\n', " ").contains("where absent")
    {
        *description = format!("{description} {default} where absent.");
    }
    map.values_mut().for_each(without_defaults);
}

/// Refuses nulls: rules ask whether a field is there.
fn without_nulls(node: &mut Value) {
    match node {
        Value::Object(map) => {
            map.remove("nullable");
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

fn drop_unknown_formats(node: &mut Value) {
    match node {
        Value::Object(map) => {
            let unknown = map
                .get("format")
                .and_then(Value::as_str)
                .is_some_and(|format| !FORMATS.contains(&format));
            if unknown {
                map.remove("format");
            }
            map.values_mut().for_each(drop_unknown_formats);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_unknown_formats),
        _ => {}
    }
}
