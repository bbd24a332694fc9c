//! The generated CRD is what the types say, and its number says which schema it is.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde_json::Value;
use serin::api::{SCHEMA, crd};
use sha2::{Digest, Sha256};

/// The number of the schema, and the SHA-256 of that schema without its descriptions.
const RECORDED: (u32, &str) = (
    4,
    "96b951c957c95895b9d33f2923b806b30e1d6c7062eb01b07895821af6a3e0f4",
);

#[test]
fn the_crd_in_the_repository_is_generated_from_the_types() {
    let generated = serde_norway::to_string(&crd().unwrap()).unwrap();
    for path in [
        "crds/serin.dev_modeldeployments.yaml",
        "charts/serin/crds/serin.dev_modeldeployments.yaml",
    ] {
        let full = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let kept = std::fs::read_to_string(&full).unwrap_or_default();
        let (first, body) = kept.split_once('\n').unwrap();
        assert!(
            first.starts_with("# Generated"),
            "{path} does not say that it is generated"
        );
        assert!(
            body == generated,
            "{path} is out of date: run `cargo xtask crds`"
        );
    }
}

/// An operator upgrades a CRD of a lower number only: a schema that changes under its number stays
/// as it was in clusters, and the API server prunes the new fields.
#[test]
fn another_schema_has_another_number() {
    let crd = serde_json::to_value(crd().unwrap()).unwrap();
    let schema = without_descriptions(&crd["spec"]["versions"]);
    let digest = format!("{:x}", Sha256::digest(schema.to_string()));
    assert_eq!(
        (SCHEMA, &digest[..]),
        RECORDED,
        "the CRD's schema has changed: raise SCHEMA in src/api/crd.rs by 1 if main or a release \
         had the old schema, then write the number and the digest on the left into RECORDED"
    );
}

/// The same, with the keys of every object in order. A property may be called `description`, too:
/// only texts go.
fn without_descriptions(node: &Value) -> Value {
    match node {
        Value::Object(map) => {
            let kept = map
                .iter()
                .filter(|(key, value)| *key != "description" || !value.is_string());
            let kept: BTreeMap<_, _> = kept
                .map(|(key, value)| (key.clone(), without_descriptions(value)))
                .collect();
            Value::Object(kept.into_iter().collect())
        }
        Value::Array(list) => list.iter().map(without_descriptions).collect(),
        other => other.clone(),
    }
}
