//! `examples/kustomize`, rendered by the real kustomize (`kubectl kustomize`) and applied.

use std::process::Command;

use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use serin::api::ModelDeployment;

use crate::{objects::world, server::kubectl, world::World};

/// What `kubectl kustomize` makes of a folder of the example; `None`, with the reason printed,
/// where there is no kubectl.
fn rendered(folder: &str) -> Option<Value> {
    let Some(kubectl) = kubectl() else {
        println!("skipped: needs kubectl beside kube-apiserver");
        return None;
    };
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kustomize");
    let mut command = Command::new(kubectl);
    command.args(["kustomize", &format!("{examples}/{folder}")]);
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{folder}: {error}");
    let manifest: Value = serde_norway::from_slice(&output.stdout).unwrap();
    Some(manifest)
}

/// The objective of a name.
fn objective<'a>(manifest: &'a Value, name: &str) -> &'a Value {
    let objectives = manifest["spec"]["objectives"].as_array().unwrap();
    let mut named = objectives.iter().filter(|it| it["name"] == name);
    named.next().unwrap()
}

#[tokio::test]
async fn an_overlay_patches_one_objective_by_name_and_a_second_apply_changes_nothing() {
    let world = world!(World::new());
    let models: Api<ModelDeployment> = world.api();
    let Some(base) = rendered("base") else { return };
    for folder in ["production", "json6902"] {
        let mut manifest = rendered(folder).unwrap();
        let objectives = manifest["spec"]["objectives"].as_array().unwrap();
        assert_eq!(objectives.len(), 2, "{folder}: {manifest}");
        let stricter = json!({"name": "errors", "errorRate": {"max": "0.1%"}});
        assert_eq!(*objective(&manifest, "errors"), stricter, "{folder}");
        let latency = objective(&base, "latency");
        assert_eq!(objective(&manifest, "latency"), latency, "{folder}");
        let server = &manifest["spec"]["serving"]["template"]["spec"]["containers"][0];
        let variables = json!([
            {"name": "SERIN_SERVE_LOG_LEVEL", "value": "warn"}, {"name": "TZ", "value": "UTC"},
        ]);
        assert_eq!(server["env"], variables, "{folder}");

        manifest["metadata"]["namespace"] = json!(world.namespace);
        manifest["metadata"]["name"] = json!(folder);
        let params = PatchParams::apply("argocd-controller");
        let mut stored = Vec::new();
        for _ in 0..2 {
            let patch = Patch::Apply(&manifest);
            let applied = models.patch(folder, &params, &patch).await.unwrap();
            stored.push((applied.metadata.generation, applied.spec));
        }
        assert_eq!(stored[0].0, Some(1), "{folder}");
        assert_eq!(stored[0], stored[1], "{folder}");
    }
}
