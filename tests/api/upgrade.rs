//! The CRD of the release before is upgraded, with a model in the middle of a rollout behind it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use serin::{
    api::{ModelDeployment, SCHEMA, SCHEMA_ANNOTATION, crd},
    runtime::schema,
};

use crate::{
    server::{TEST, server},
    world::{manifest, wait, with},
};

/// A model that the release before has left at 25 %, in a namespace that no operator of these tests
/// looks after.
const BEFORE: &str = "from-before";

/// A CRD of the schema before this one: it has not the field `replicasFloor` of the status.
pub fn crd_of_the_release_before() -> CustomResourceDefinition {
    let mut before = serde_json::to_value(crd().unwrap()).unwrap();
    before["metadata"]["annotations"] = json!({SCHEMA_ANNOTATION: (SCHEMA - 1).to_string()});
    let status = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties";
    let fields = before.pointer_mut(status).unwrap().as_object_mut().unwrap();
    fields.remove("replicasFloor").unwrap();
    serde_json::from_value(before).unwrap()
}

/// Makes the model, with the status that the release before gave it, then upgrades the CRD as an
/// operator does.
pub async fn perform(client: &Client) {
    let models: Api<ModelDeployment> = Api::namespaced(client.clone(), "default");
    let model = with(manifest("2"), "/metadata/name", json!(BEFORE));
    let apply = PatchParams::apply("user").force();
    models
        .patch(BEFORE, &apply, &Patch::Apply(&model))
        .await
        .unwrap();
    let status = Patch::Merge(json!({"status": status_of_the_release_before()}));
    let params = PatchParams::default();
    models.patch_status(BEFORE, &params, &status).await.unwrap();
    schema::upgrade(client).await.unwrap();
}

fn status_of_the_release_before() -> Value {
    serde_json::from_str(include_str!("../golden/release/status.json")).unwrap()
}

fn schema_of(crd: &CustomResourceDefinition) -> Option<&str> {
    crd.annotations().get(SCHEMA_ANNOTATION).map(String::as_str)
}

#[tokio::test]
async fn an_upgraded_crd_keeps_every_status_and_takes_the_new_fields() {
    let Some(server) = server() else { return };
    let client = server.client(TEST);
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = crd_of_the_release_before().name_any();
    let live = crds.get(&name).await.unwrap();
    assert_eq!(schema_of(&live), Some(SCHEMA.to_string().as_str()));

    let models: Api<ModelDeployment> = Api::namespaced(client.clone(), "default");
    let model = models.get(BEFORE).await.unwrap();
    let kept = serde_json::to_value(model.status.clone().unwrap()).unwrap();
    assert_eq!(kept, status_of_the_release_before());

    // A field that the schema before would have pruned.
    let newer = json!({"status": {"replicasFloor": 7}});
    wait("the new schema is in force", async || {
        let (params, patch) = (PatchParams::default(), Patch::Merge(&newer));
        let written = models.patch_status(BEFORE, &params, &patch).await.unwrap();
        written.status.unwrap().state.replicas_floor == Some(7)
    })
    .await;

    // Once more changes nothing.
    schema::upgrade(&client).await.unwrap();
    let again = crds.get(&name).await.unwrap();
    assert_eq!(again.resource_version(), live.resource_version());

    // Nor does an operator of this release touch the CRD of a newer one.
    let mut ours = live;
    ours.annotations_mut()
        .insert(SCHEMA_ANNOTATION.to_owned(), (SCHEMA + 1).to_string());
    let params = PostParams::default();
    let newer = crds.replace(&name, &params, &ours).await.unwrap();
    schema::upgrade(&client).await.unwrap();
    let untouched = crds.get(&name).await.unwrap();
    assert_eq!(untouched.resource_version(), newer.resource_version());
    let mut back = untouched;
    back.annotations_mut()
        .insert(SCHEMA_ANNOTATION.to_owned(), SCHEMA.to_string());
    crds.replace(&name, &params, &back).await.unwrap();
}
