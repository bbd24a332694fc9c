//! The Service that clients use: its name and ports, and how a Service of another owner is taken
//! over. And the spec, when two field managers keep it.

use std::time::Duration;

use k8s_openapi::api::{
    core::v1::{Endpoints, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use serin::{api::ModelDeployment, k8s::service_of};

use crate::{
    objects::world,
    world::{A_WHILE, MODEL, World, condition, manifest, wait, with},
};

/// The names of the EndpointSlices of a Service.
async fn slices_of(world: &World, service: &str) -> Vec<String> {
    let slices = world.api::<EndpointSlice>();
    let all = slices.list(&ListParams::default()).await.unwrap();
    let of_service = all.into_iter().filter(|it| service_of(it) == Some(service));
    of_service.map(|it| it.name_any()).collect()
}

/// Name, number and protocol of the ports of a Service.
async fn ports(world: &World, service: &str) -> Vec<(String, i32, Option<String>)> {
    let service: Service = world.get(service).await.unwrap();
    let ports = service.spec.unwrap().ports.unwrap().into_iter();
    ports
        .map(|port| (port.name.unwrap(), port.port, port.app_protocol))
        .collect()
}

/// The names of the ports of an EndpointSlice.
async fn slice_ports(world: &World, slice: &str) -> Vec<String> {
    let slice: EndpointSlice = world.get(slice).await.unwrap();
    let ports = slice.ports.unwrap().into_iter();
    ports.filter_map(|port| port.name).collect()
}

#[tokio::test]
async fn another_name_replaces_the_service_and_the_old_one_leads_to_the_routers_until_then() {
    let world = world!(World::new()).with_stable("1").await;
    wait("the first name leads to the routers", async || {
        slices_of(&world, MODEL).await == ["iris-router"]
            && world.get::<Service>(MODEL).await.is_some()
    })
    .await;
    world
        .change("1", "/spec/service", json!({"name": "flowers"}))
        .await;
    wait("the new name leads to the routers", async || {
        let both = world.get::<Service>("flowers").await.is_some()
            && slices_of(&world, "flowers").await == ["flowers-router"];
        let old = world.get::<Service>(MODEL).await.is_some()
            && slices_of(&world, MODEL).await == ["iris-router"];
        assert!(old, "the old name leads to the routers until then");
        both
    })
    .await;
    let new: EndpointSlice = world.get("flowers-router").await.unwrap();
    let old: EndpointSlice = world.get("iris-router").await.unwrap();
    assert_eq!((&new.endpoints, &new.ports), (&old.endpoints, &old.ports));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(world.get::<Service>(MODEL).await.is_some());
    wait("the old name is gone", async || {
        world.get::<Service>(MODEL).await.is_none() && slices_of(&world, MODEL).await.is_empty()
    })
    .await;
    assert!(world.get::<Service>("flowers").await.is_some());
    assert_eq!(slices_of(&world, "flowers").await, ["flowers-router"]);
    world
        .until("it is Ready", |status| {
            condition(status, "Ready").status == "True"
        })
        .await;
}

#[tokio::test]
async fn ports_follow_the_spec_with_their_protocol() {
    let world = world!(World::new()).with_stable("1").await;
    wait("the Service is there", async || {
        world.get::<Service>(MODEL).await.is_some()
    })
    .await;
    let http = ("http".to_owned(), 80, None);
    assert_eq!(ports(&world, MODEL).await, std::slice::from_ref(&http));
    let h2c = Some("kubernetes.io/h2c".to_owned());
    let grpc = ("grpc".to_owned(), 9000, h2c.clone());
    let declared = json!({"name": "grpc", "port": 9000, "appProtocol": "kubernetes.io/h2c"});
    let both = json!({"ports": [{"name": "http", "port": 80}, declared]});
    world.change("1", "/spec/service", both).await;
    wait("both ports are there", async || {
        ports(&world, MODEL).await == [http.clone(), grpc.clone()]
            && slice_ports(&world, "iris-router").await == ["grpc", "http"]
    })
    .await;
    let one = json!({"ports": [declared]});
    world.change("1", "/spec/service", one).await;
    wait("the first port is gone", async || {
        ports(&world, MODEL).await == std::slice::from_ref(&grpc)
            && slice_ports(&world, "iris-router").await == ["grpc"]
    })
    .await;
}

#[tokio::test]
async fn the_second_model_of_one_service_is_refused_by_name() {
    let world = world!(World::new()).with_stable("1").await;
    wait("the first model has the name", async || {
        world.get::<Service>(MODEL).await.is_some()
    })
    .await;
    let second = with(manifest("1"), "/metadata/name", json!("tulip"));
    let second = with(second, "/spec/service", json!({"name": MODEL}));
    world.apply(&second).await.unwrap();
    let mut said = String::new();
    wait("the second model says why", async || {
        let model: ModelDeployment = world.get("tulip").await.unwrap();
        let conditions = model.status.unwrap_or_default().conditions;
        let ready = conditions.into_iter().find(|it| it.type_ == "Ready");
        ready.is_some_and(|ready| {
            said = ready.message;
            ready.reason == "NameTaken"
        })
    })
    .await;
    assert!(
        said.contains(
            "Service iris exists and belongs to ModelDeployment iris: choose another \
             spec.service.name, delete that Service, or hand it over by its annotation \
             serin.dev/adopt: tulip"
        ),
        "{said}"
    );
}

/// A Service with a selector, with the endpoints that Kubernetes gives it.
async fn foreign_service(world: &World, adopt: Option<&str>) -> Service {
    let mut annotations = json!({"team": "ml"});
    if let Some(model) = adopt {
        annotations["serin.dev/adopt"] = json!(model);
    }
    let service = json!({
        "metadata": {"name": MODEL, "annotations": annotations},
        "spec": {"ports": [{"port": 8080, "name": "web"}], "selector": {"app": "old"}},
    });
    let service = serde_json::from_value(service).unwrap();
    let params = PostParams::default();
    let services: Api<Service> = world.api();
    let made = services.create(&params, &service).await.unwrap();
    let subsets = json!([{"addresses": [{"ip": "10.244.1.1"}], "ports": [{"port": 8080}]}]);
    let endpoints = json!({"metadata": {"name": MODEL}, "subsets": subsets});
    let endpoints = serde_json::from_value(endpoints).unwrap();
    let api: Api<Endpoints> = world.api();
    api.create(&params, &endpoints).await.unwrap();
    let slice = json!({
        "metadata": {"name": "iris-x7k2p", "labels": {
            "kubernetes.io/service-name": MODEL,
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        }},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.244.1.1"]}],
        "ports": [{"name": "web", "port": 8080}],
    });
    let slice = serde_json::from_value(slice).unwrap();
    let api: Api<EndpointSlice> = world.api();
    api.create(&params, &slice).await.unwrap();
    made
}

#[tokio::test]
async fn a_service_that_is_handed_over_keeps_its_endpoints_until_the_routers_answer() {
    let world = world!(World::new());
    let foreign = foreign_service(&world, Some(MODEL)).await;
    world.hold("1");
    world.roll_out("1").await;
    world.until_canary("1", 0).await;
    tokio::time::sleep(A_WHILE).await;
    let waiting: Service = world.get(MODEL).await.unwrap();
    assert_eq!(waiting.resource_version(), foreign.resource_version());
    assert_eq!(slices_of(&world, MODEL).await, ["iris-x7k2p"]);

    world.release("1");
    world.until_serves("1").await;
    wait("the Service is taken over", async || {
        let slices = slices_of(&world, MODEL).await;
        let service: Service = world.get(MODEL).await.unwrap();
        let selector = service.spec.unwrap().selector;
        assert!(
            selector.is_some() || slices.contains(&"iris-router".to_owned()),
            "the routers are endpoints before the old ones can go"
        );
        selector.is_none() && slices == ["iris-router"]
    })
    .await;
    wait("nothing is left of the old endpoints", async || {
        let service: Service = world.get(MODEL).await.unwrap();
        let marked = service
            .annotations()
            .contains_key("serin.dev/old-endpoints");
        !marked && world.get::<Endpoints>(MODEL).await.is_none()
    })
    .await;
    let service: Service = world.get(MODEL).await.unwrap();
    let model: ModelDeployment = world.get(MODEL).await.unwrap();
    assert_eq!(
        service.owner_references()[0].uid,
        model.metadata.uid.unwrap()
    );
    assert_eq!(service.annotations()["team"], "ml");
    let address = |service: Service| service.spec.unwrap().cluster_ip;
    assert_eq!(address(service), address(foreign));
    assert_eq!(ports(&world, MODEL).await, [("http".to_owned(), 80, None)]);
    world
        .until("it is Ready", |status| {
            condition(status, "Ready").status == "True"
        })
        .await;
}

#[tokio::test]
async fn a_service_that_is_handed_over_later_is_taken_over_then() {
    let world = world!(World::new());
    foreign_service(&world, None).await;
    world.roll_out("1").await;
    let status = world.until_reason("NameTaken").await;
    let said = &condition(&status, "Ready").message;
    assert!(said.contains("serin.dev/adopt: iris"), "{said}");
    let consent = json!({"metadata": {"annotations": {"serin.dev/adopt": MODEL}}});
    let services: Api<Service> = world.api();
    let params = PatchParams::default();
    services
        .patch(MODEL, &params, &Patch::Merge(&consent))
        .await
        .unwrap();
    world
        .until("it is Ready", |status| {
            condition(status, "Ready").status == "True"
        })
        .await;
    let service: Service = world.get(MODEL).await.unwrap();
    assert_eq!(service.spec.unwrap().selector, None);
}

/// Applies a manifest without force, as a field manager. Returns generation and version.
async fn apply_as(
    world: &World,
    manager: &str,
    manifest: &Value,
) -> (Option<i64>, Option<String>, Value) {
    let models: Api<ModelDeployment> = world.api();
    let params = PatchParams::apply(manager);
    let applied = models.patch(MODEL, &params, &Patch::Apply(manifest)).await;
    let applied = applied.unwrap_or_else(|error| panic!("{manager}: {error}"));
    let objectives = serde_json::to_value(&applied.spec.objectives).unwrap();
    (
        applied.metadata.generation,
        applied.metadata.resource_version,
        objectives,
    )
}

#[tokio::test]
async fn two_managers_keep_objectives_of_one_model_without_conflict_or_difference() {
    let world = world!(World::new());
    let of_argo = |objectives: Value| {
        json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": MODEL}, "spec": {"objectives": objectives},
        })
    };
    let person = manifest("1");
    apply_as(&world, "kubectl", &person).await;
    world.until_serves("1").await;
    world
        .until("it rests", |status| {
            condition(status, "Ready").status == "True"
        })
        .await;

    // An overlay that sets one field of an objective by its name, and adds another objective.
    let overlay = of_argo(json!([
        {"name": "errors", "source": "Serving"},
        {"name": "latency", "latency": {"quantile": 0.99, "max": "1s"}},
    ]));
    let (_, _, objectives) = apply_as(&world, "argocd-controller", &overlay).await;
    assert_eq!(
        objectives,
        json!([
            {"name": "errors", "errorRate": {"max": "1%"}, "source": "Serving"},
            {"name": "latency", "latency": {"quantile": 0.99, "max": "1s"}},
        ])
    );
    world
        .until("it rests again", |status| {
            condition(status, "Ready").status == "True"
        })
        .await;
    let (generation, _, all) = apply_as(&world, "kubectl", &person).await;
    assert_eq!(all, objectives, "each leaves alone what the other set");
    assert_eq!(
        apply_as(&world, "argocd-controller", &overlay).await.0,
        generation
    );
    assert_eq!(apply_as(&world, "kubectl", &person).await.0, generation);

    // Each changes its own.
    let stricter = with(
        person,
        "/spec/objectives",
        json!([{"name": "errors", "errorRate": {"max": "0.5%"}}]),
    );
    let (_, _, all) = apply_as(&world, "kubectl", &stricter).await;
    assert_eq!(all[0]["errorRate"]["max"], "0.5%");
    assert_eq!(all[0]["source"], "Serving");
    let without = of_argo(json!([{"name": "errors", "source": "Serving"}]));
    let (_, _, all) = apply_as(&world, "argocd-controller", &without).await;
    assert_eq!(all.as_array().unwrap().len(), 1);
}
