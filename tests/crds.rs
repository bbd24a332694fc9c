//! The generated CRD is what the types say.
#![allow(clippy::unwrap_used)]

use serin::api::crd;

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
