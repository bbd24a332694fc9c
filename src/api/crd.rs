//! The CustomResourceDefinition, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::ModelDeployment;

/// Formats that the API server knows; it warns about others on every apply.
const FORMATS: [&str; 6] = ["int32", "int64", "float", "double", "date-time", "byte"];

/// The CRD as it is installed.
pub fn crd() -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut crd = serde_json::to_value(ModelDeployment::crd())?;
    drop_unknown_formats(&mut crd);
    serde_json::from_value(crd)
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
