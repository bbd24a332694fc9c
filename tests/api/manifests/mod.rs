//! Invalid manifests, each with the field that its error names. Each is refused by the schema, by
//! the CEL rules, or by the operator, which repeats the checks of CEL.

mod bounds;
mod pods;
mod table;

use std::fmt::Write as _;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::Deserialize;
use serde_json::{Value, json};
use serin::api::{
    ModelDeployment,
    validate::{Limits, SCHEMES, validate},
};

use crate::{
    objects::world,
    world::{World, canary, condition, manifest, stable, wait, with},
};

use self::table::{
    By::{ApiServer, Operator, Schema},
    right, table,
};

/// A model whose durations or percentages are none: it cannot be stored, nor read.
const UNREADABLE: &str = "unreadable";

/// The operator's error for it.
fn operator_refuses(manifest: &Value, allowed_schemes: &[&str]) -> Result<(), String> {
    let allowed_schemes = allowed_schemes.iter().map(ToString::to_string).collect();
    let limits = Limits {
        allowed_schemes,
        bundled_image: "localhost/serin-serve:1".to_owned(),
    };
    let model: ModelDeployment = match serde_json::from_value(manifest.clone()) {
        Ok(model) => model,
        Err(error) => return Err(format!("{UNREADABLE}: {error}")),
    };
    let errors = validate(&model, &limits);
    let text: Vec<_> = errors.iter().map(ToString::to_string).collect();
    if text.is_empty() {
        Ok(())
    } else {
        Err(text.join("; "))
    }
}

#[test]
fn the_operator_refuses_what_the_rules_refuse_and_accepts_what_is_right() {
    for row in table()
        .into_iter()
        .filter(|row| ![Schema, ApiServer].contains(&row.by))
    {
        let manifest = with(manifest("1"), row.pointer, row.value.clone());
        let what = format!("{} = {}", row.pointer, row.value);
        let error = operator_refuses(&manifest, &["file"]).expect_err(&what);
        if !error.starts_with(UNREADABLE) {
            let of_field = error.contains(row.field.trim_end_matches("[0]"));
            assert!(of_field, "{what}: {error}");
        }
    }
    for manifest in right() {
        assert_eq!(operator_refuses(&manifest, &SCHEMES), Ok(()), "{manifest}");
    }
}

/// The ModelDeployments of `examples`.
fn examples() -> Vec<Value> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let mut found = Vec::new();
    for folder in [folder.to_owned(), format!("{folder}/demo")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "yaml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let documents = serde_norway::Deserializer::from_str(&text);
                found.extend(documents.map(|one| Value::deserialize(one).unwrap()));
            }
        }
    }
    found.retain(|object| object["kind"] == "ModelDeployment");
    found
}

#[tokio::test]
async fn valid_manifests_are_accepted_and_a_second_apply_changes_nothing() {
    let world = world!(World::new());
    let models: Api<ModelDeployment> = world.api();
    let examples = examples();
    assert!(examples.len() >= 6, "{}", examples.len());
    for mut manifest in right().into_iter().chain(examples) {
        manifest["metadata"]["namespace"] = json!(world.namespace);
        let name = manifest["metadata"]["name"].as_str().unwrap().to_owned();
        // As `kubectl apply --server-side` does, and as `kubectl apply` does where the manifest
        // differs from what is stored.
        let on_server = (PatchParams::apply("kubectl"), Patch::Apply(&manifest));
        let by_client = (PatchParams::default(), Patch::Merge(&manifest));
        let mut generations = Vec::new();
        for (params, patch) in [&on_server, &on_server, &by_client] {
            let applied = models.patch(&name, params, patch).await;
            let applied = applied.unwrap_or_else(|error| panic!("{manifest}: {error}"));
            generations.push(applied.metadata.generation);
        }
        assert_eq!(generations, [Some(1); 3], "{manifest}");
        models
            .delete(&name, &DeleteParams::default())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn every_wrong_manifest_is_refused_with_the_field_and_starts_nothing() {
    let world = world!(World::new());
    let models: Api<ModelDeployment> = world.api();
    let mut said = String::new();
    for row in table() {
        let what = shortened(&format!("{} = {}", row.pointer, row.value));
        let manifest = with(manifest("1"), row.pointer, row.value.clone());
        let model: kube::core::DynamicObject = serde_json::from_value(manifest).unwrap();
        let error = if let Err(error) = create(&world, &model).await {
            assert!(![Operator, ApiServer].contains(&row.by), "{what}: {error}");
            error
        } else {
            let let_through = [Operator, ApiServer].contains(&row.by);
            assert!(let_through, "{:?} let it through: {what}", row.by);
            told_by_operator(&models, &model.name_any()).await
        };
        assert!(error.contains(row.field), "{what}: {error}");
        for bare in ["should match", "no such", "rule evaluation error"] {
            assert!(!error.contains(bare), "{what}: {error}");
        }
        writeln!(said, "{:?}: {what}\n    {error}", row.by).unwrap();
    }
    assert_eq!(
        world
            .api::<Deployment>()
            .list(&ListParams::default())
            .await
            .unwrap()
            .items,
        []
    );
    assert_eq!(
        world
            .api::<Service>()
            .list(&ListParams::default())
            .await
            .unwrap()
            .items,
        []
    );
    // Other minor versions say some of it in other words.
    let version = world.client.apiserver_version().await.unwrap();
    if version.git_version.starts_with("v1.36.") {
        insta::assert_snapshot!("wrong_manifests", said);
    }
}

/// kubectl asks the API server for it, and server-side apply always does.
#[tokio::test]
async fn a_router_or_another_field_that_does_not_exist_is_refused_by_its_name() {
    let world = world!(World::new());
    let models: Api<ModelDeployment> = world.api();
    for (pointer, value, field) in [
        (
            "/spec/traffic",
            json!({"envoy": {}, "gateway": {}}),
            ".spec.traffic.gateway",
        ),
        (
            "/spec/rollout/bakingTime",
            json!("10m"),
            ".spec.rollout.bakingTime",
        ),
    ] {
        let manifest = with(manifest("1"), pointer, value);
        let params = PatchParams::apply("kubectl");
        let applied = models
            .patch("iris", &params, &Patch::Apply(&manifest))
            .await;
        let error = applied.unwrap_err().to_string();
        assert!(
            error.contains(&format!("{field}: field not declared in schema")),
            "{error}"
        );
    }
}

/// The first 200 characters: values that are too long need not stand in the snapshot whole.
fn shortened(text: &str) -> String {
    let mut shortened: String = text.chars().take(200).collect();
    if shortened.len() < text.len() {
        shortened.push('…');
    }
    shortened
}

/// Creates a manifest as it is, without the types of the client; says why it was refused.
async fn create(world: &World, model: &kube::core::DynamicObject) -> Result<(), String> {
    let resource = kube::core::ApiResource::erase::<ModelDeployment>(&());
    let models: Api<kube::core::DynamicObject> =
        Api::namespaced_with(world.client.clone(), &world.namespace, &resource);
    match models.create(&PostParams::default(), model).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(error) => panic!("{error}"),
    }
}

/// What the operator says of a model that it cannot use; the model is gone afterwards.
async fn told_by_operator(models: &Api<ModelDeployment>, name: &str) -> String {
    let mut message = String::new();
    wait("the operator says why", async || {
        let status = models.get(name).await.unwrap().status.unwrap_or_default();
        if status.conditions.is_empty() {
            return false;
        }
        let ready = condition(&status, "Ready");
        assert_eq!(
            (ready.status.as_str(), ready.reason.as_str()),
            ("False", "InvalidSpec"),
            "{}",
            ready.message
        );
        assert_eq!(condition(&status, "Stalled").status, "True");
        message.clone_from(&ready.message);
        true
    })
    .await;
    models.delete(name, &DeleteParams::default()).await.unwrap();
    message
}

#[tokio::test]
async fn a_wrong_change_leaves_the_serving_version_untouched_and_a_canary_without_weight() {
    let world = world!(World::new()).with_stable("1").await;
    world.roll_out("2").await;
    world.until_canary("2", 10).await;
    let revision = world.status().await.state.stable.unwrap().revision;
    let deployment = format!("iris-{revision}");
    let before: Deployment = world.get(&deployment).await.unwrap();

    // Only the operator knows what its platform allows.
    let wrong = with(manifest("2"), "/spec/model/uri", json!("s3://bucket/iris"));
    world.apply(&wrong).await.unwrap();
    let status = world.until_reason("InvalidSpec").await;
    assert_eq!((stable(&status), canary(&status)), (Some("1"), None));
    let message = &condition(&status, "Ready").message;
    assert!(
        message.contains("spec.model.uri: the scheme s3:// is not allowed here"),
        "{message}"
    );
    assert!(message.contains("Version 1 serves on"), "{message}");
    let after: Deployment = world.get(&deployment).await.unwrap();
    assert_eq!(after.metadata.generation, before.metadata.generation);

    world.roll_out("2").await;
    world.until_canary("2", 10).await;
}
