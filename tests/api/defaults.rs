//! What is in force where the spec says nothing.

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{ApiResource, DynamicObject},
};
use serde_json::json;
use serin::api::ModelDeployment;

use crate::{
    objects::world,
    world::{MODEL, World, manifest, wait},
};

#[tokio::test]
async fn a_default_that_changes_restarts_no_pod_and_explain_shows_where_each_value_comes_from() {
    let mut world = world!(World::new()).with_stable("1").await;
    let resource = ApiResource::erase::<ModelDeployment>(&());
    let models: Api<DynamicObject> =
        Api::namespaced_with(world.client.clone(), &world.namespace, &resource);
    let stored = models.get(MODEL).await.unwrap();
    assert_eq!(
        stored.data["spec"],
        manifest("1")["spec"],
        "as it was written"
    );

    let stable = world.status().await.state.stable.unwrap();
    let name = format!("{MODEL}-{}", stable.revision);
    let before: Deployment = world.get(&name).await.unwrap();
    world.kill_operator();
    world.serving_image = "localhost/serin-serve:2";
    world.start_operator();
    world.change("1", "/spec/replicas", json!(3)).await; // no new version
    wait("the new operator acts", async || {
        let deployment: Deployment = world.get(&name).await.unwrap();
        deployment.spec.replicas == Some(3)
    })
    .await;
    let after: Deployment = world.get(&name).await.unwrap();
    assert_eq!(after.spec.template, before.spec.template);
    let state = world.status().await.state;
    assert_eq!((state.stable, state.canary), (Some(stable), None));

    let said = world.kubectl_serin(&["explain", MODEL]).await.unwrap();
    let lines: Vec<_> = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for line in [
        "spec replicas 3",
        "operator serving.image localhost/serin-serve:1",
        "default serving.port 8080",
        "default service.name iris",
        "default service.ports[http] port: 80",
        "spec traffic.envoy.timeout 1s",
        "spec rollout.steps[weight 10] minDuration: 1s, minRequests: 20",
        "default rollout.minReady 100%",
        "default rollout.rollbackWindow.within 168h",
    ] {
        assert!(lines.iter().any(|found| found == line), "{line}:\n{said}");
    }

    world.hold("2");
    world.roll_out("2").await;
    let canary = world.until_canary("2", 0).await.state.canary.unwrap();
    let name = format!("{MODEL}-{}", canary.revision);
    wait("version 2 has pods", async || {
        world.get::<Deployment>(&name).await.is_some()
    })
    .await;
    let new: Deployment = world.get(&name).await.unwrap();
    let pod = new.spec.template.spec.unwrap();
    let image = pod.containers[0].image.as_deref();
    assert_eq!(
        image,
        Some("localhost/serin-serve:2"),
        "it chose none either"
    );
}
