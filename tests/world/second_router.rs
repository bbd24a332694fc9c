//! A second router, for tests only, with the tests that every router must pass.
//!
//! Its two objects carry a model's weights, as the two Ingresses of a canary do: the Service of the
//! model's name says which version is stable, and `<name>-canary` which one is on trial, and with
//! how much weight. The world's routers send requests by them. A new router of Serin is such a
//! file.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use kube::ResourceExt;
use kube_runtime::reflector::ObjectRef;
use serde_json::json;
use serin::{
    api::{EvidenceSource, ModelDeployment, ModelDeploymentSpec, Revision, State as Persisted},
    k8s::{Intent, Object, Stores, endpoints, model_labels},
    router::{
        Capability, InForce, PendingReason, Reachability, ReachabilityQuery, Registry, Report,
        Route, Router, Setup,
        envoy::{self, Backend, DEFAULT_TIMEOUT, ModelRoute, RouteKey, RouterModel},
        unsupported,
    },
};
use tokio::time::Instant;

use crate::{
    faults::{Fault, Faults, Window},
    kinds::{Key, Kind},
    model_ref::IRIS,
    operator::Routing,
    replicas::Replicas,
    run::play_by,
    story::Story,
    tests::on_all_cores,
    world::{State, World},
};

/// Annotations: the revision, its weight, the generation of the spec, and why the data plane
/// refuses the object.
const BACKEND: &str = "two-services.test/backend";
const WEIGHT: &str = "two-services.test/weight";
const GENERATION: &str = "two-services.test/generation";
const REFUSED: &str = "two-services.test/refused";

/// The name of an objective that chooses the router.
const CHOOSES: &str = "by-two-services";

/// The router.
struct TwoServices(Option<Arc<World>>);

/// The router, and what its data plane does.
const TWO_SERVICES: Routing = Routing {
    router: |world| Arc::new(TwoServices(Some(world.clone()))),
    routes,
};

impl Router for TwoServices {
    fn member(&self) -> &'static str {
        "twoServices"
    }

    /// A router of Serin has a member of `spec.traffic`; this one makes do with a name.
    fn is_chosen(&self, spec: &ModelDeploymentSpec) -> bool {
        spec.objectives
            .iter()
            .any(|objective| objective.name == CHOOSES)
    }

    fn objects(&self, route: &Route<'_>) -> Vec<Intent> {
        let Some(stable) = &route.state.stable else {
            return Vec::new();
        };
        let (on_trial, weight) = match &route.state.canary {
            Some(canary) => (&canary.revision, canary.weight),
            None => (&stable.revision, 0),
        };
        // In this order: after a promotion the version that was on trial is stable before it loses
        // its weight.
        let names = [route.name(), format!("{}-canary", route.name())];
        let all = if route.state.phase.is_without_traffic() {
            0
        } else {
            100
        };
        let parts = [(&stable.revision, all - weight), (on_trial, weight)];
        let objects = names.into_iter().zip(parts);
        objects
            .map(|(name, (revision, weight))| Intent {
                object: Object::Service(service(route, name, revision, weight)),
                reason: "a part of the requests",
            })
            .collect()
    }

    fn in_force(&self, stores: &Stores, model: &ModelDeployment) -> InForce {
        let (namespace, name) = model.key();
        let mut generations = Vec::new();
        for name in [name.clone(), format!("{name}-canary")] {
            let key = ObjectRef::new(&name).within(&namespace);
            let Some(service) = stores.services.get(&key) else {
                return InForce::Absent;
            };
            if let Some(why) = service.annotations().get(REFUSED) {
                let why = PendingReason::Words(why.clone());
                return InForce::Pending { why };
            }
            let generation = service.annotations().get(GENERATION);
            generations.extend(generation.and_then(|text| text.parse::<i64>().ok()));
        }
        let generation = generations.into_iter().min();
        generation.map_or(InForce::Absent, |generation| InForce::Applied {
            generation,
        })
    }

    fn evidence(&self) -> &[EvidenceSource] {
        &[EvidenceSource::Envoy] // as the world counts requests
    }

    fn capabilities(&self) -> &[Capability] {
        &[Capability::Weights]
    }

    fn settle(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn port(&self, _: &Stores, _: &ModelDeployment, state: &mut Persisted, _: bool) -> Option<u16> {
        state.listener_port.is_none().then_some(80)
    }

    fn reachability<'a>(&'a self, query: ReachabilityQuery<'a>) -> BoxFuture<'a, Reachability> {
        let (namespace, name) = query.model.key();
        let key = RouteKey::new(namespace, name);
        let takes_it = |router: &RouterModel| router.routes.contains_key(&key);
        let world = self.0.as_ref().unwrap();
        let all = world.with(|state| state.routers.iter().all(takes_it));
        Box::pin(std::future::ready(if all {
            Reachability::Answers
        } else {
            Reachability::Silent
        }))
    }
}

fn service(route: &Route<'_>, name: String, revision: &Revision, weight: u8) -> Service {
    let mut metadata = route.metadata(name, model_labels(&route.name()));
    let generation = route.model.metadata.generation.unwrap_or(0);
    let annotations = [
        (BACKEND, revision.to_string()),
        (WEIGHT, weight.to_string()),
        (GENERATION, generation.to_string()),
    ];
    metadata.annotations = Some(
        annotations
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
    );
    Service {
        metadata,
        spec: Some(ServiceSpec {
            ports: Some(vec![ServicePort {
                name: Some("http".to_owned()),
                port: 80,
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// What routers do by the objects that an operator's caches show.
fn routes(stores: &Stores) -> RouterModel {
    let mut routes = RouterModel::default();
    for model in stores.models.state() {
        let (namespace, name) = model.key();
        let part = |service: &str| {
            let key = ObjectRef::new(service).within(&namespace);
            let service = stores.services.get(&key)?;
            let revision = Revision(service.annotations().get(BACKEND)?.clone());
            let weight: u8 = service.annotations().get(WEIGHT)?.parse().ok()?;
            let endpoints = endpoints(stores, &namespace, &name, &revision);
            Some((
                revision,
                weight,
                endpoints.into_iter().map(Into::into).collect::<Vec<_>>(),
            ))
        };
        let Some((stable, its_weight, its_endpoints)) = part(&name) else {
            continue;
        };
        let canary = part(&format!("{name}-canary"));
        // Asleep, no version has weight.
        let all = match canary.as_ref().map_or(0, |(_, weight, _)| *weight) + its_weight {
            0 => 0,
            _ => 100,
        };
        let canary =
            canary.filter(|(canary, _, endpoints)| *canary != stable && !endpoints.is_empty());
        let weight = canary.as_ref().map_or(0, |(_, weight, _)| *weight);
        let parts = canary
            .into_iter()
            .chain([(stable, all - weight, its_endpoints)]);
        let backends = parts.map(|(revision, weight, endpoints)| Backend {
            revision: revision.0,
            weight,
            endpoints,
        });
        let route = ModelRoute {
            port: 80,
            backends: backends.collect(),
            timeout: DEFAULT_TIMEOUT,
        };
        routes
            .routes
            .insert(RouteKey::new(namespace.clone(), name.clone()), route);
    }
    routes
}

fn model() -> ModelDeployment {
    serde_json::from_value(json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": "iris", "namespace": "ml", "uid": "u", "generation": 3},
        "spec": {
            "model": {"uri": "file:///m", "version": "1", "digest": "sha256:0"},
            "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
        },
    }))
    .unwrap()
}

/// Backend and weight of both objects, for a state.
fn split(state: serde_json::Value) -> Vec<(String, String)> {
    let (model, report) = (model(), Report::default());
    let state: Persisted = serde_json::from_value(state).unwrap();
    let route = Route::new(&model, &state, &report).unwrap();
    let objects = TwoServices(None).objects(&route).into_iter();
    objects
        .map(|intent| {
            let Object::Service(service) = intent.object else {
                panic!("{:?}", intent.object)
            };
            let annotation = |name: &str| service.annotations()[name].clone();
            (annotation(BACKEND), annotation(WEIGHT))
        })
        .collect()
}

#[test]
fn objects_carry_the_weights_of_the_state() {
    let pair = |backend: &str, weight: &str| (backend.to_owned(), weight.to_owned());
    let stable = json!({"revision": "aaaaaaaa", "version": "1"});
    assert_eq!(split(json!({})), []);
    for weight in [0, 10, 50, 100] {
        let canary = json!({
            "revision": "bbbbbbbb", "version": "2", "weight": weight,
            "since": "2026-01-01T00:00:00Z",
        });
        assert_eq!(
            split(json!({"stable": stable, "canary": canary})),
            [
                pair("aaaaaaaa", &(100 - weight).to_string()),
                pair("bbbbbbbb", &weight.to_string())
            ]
        );
    }
    let retiring = json!([{"revision": "bbbbbbbb", "scaleDownAt": "2026-01-01T00:00:00Z"}]);
    assert_eq!(
        split(json!({"stable": stable, "retiring": retiring})),
        [pair("aaaaaaaa", "100"), pair("aaaaaaaa", "0")]
    );
}

#[test]
fn evidence_of_the_server_is_accepted_with_every_router() {
    let mut model = model();
    let refused = |model: &ModelDeployment| -> Vec<String> {
        let faults = unsupported(&TwoServices(None), model).into_iter();
        faults.map(|fault| fault.to_string()).collect()
    };
    for evidence in [
        EvidenceSource::Envoy,
        EvidenceSource::Serving,
        EvidenceSource::Vllm,
        EvidenceSource::Triton,
        EvidenceSource::Custom,
    ] {
        model.spec.objectives[0].source = Some(evidence);
        assert_eq!(refused(&model), Vec::<String>::new());
    }
    model.spec.objectives[0].source = Some(EvidenceSource::Istio);
    assert_eq!(
        refused(&model),
        [
            "spec.objectives[0].source: the router of errors has no counters of Istio; name one of \
             Serving, VLLM, Triton, Custom, Envoy"
        ]
    );
}

/// A router that counts nothing itself: an objective must name its source.
struct Uncounted;

impl Router for Uncounted {
    fn member(&self) -> &'static str {
        "uncounted"
    }

    fn is_chosen(&self, _: &ModelDeploymentSpec) -> bool {
        false
    }

    fn objects(&self, _: &Route<'_>) -> Vec<Intent> {
        Vec::new()
    }

    fn in_force(&self, _: &Stores, _: &ModelDeployment) -> InForce {
        InForce::Absent
    }

    fn evidence(&self) -> &[EvidenceSource] {
        &[]
    }

    fn capabilities(&self) -> &[Capability] {
        &[Capability::Weights]
    }

    fn settle(&self) -> Duration {
        Duration::ZERO
    }
}

#[test]
fn with_a_router_that_counts_nothing_each_objective_names_its_source() {
    let mut model = model();
    model.spec.objectives = serde_json::from_value(json!([
        {"name": "drift", "predictionDrift": {}},
        {"name": "errors", "errorRate": {"max": "1%"}},
        {"name": "errors-of-pods", "errorRate": {"max": "1%"}, "source": "Serving"},
    ]))
    .unwrap();
    let refused = unsupported(&Uncounted, &model);
    let refused: Vec<_> = refused.iter().map(ToString::to_string).collect();
    assert_eq!(
        refused,
        [
            "spec.objectives[1].source: the router of errors has no counters of Envoy; name one of \
             Serving, VLLM, Triton, Custom"
        ]
    );
}

/// One router moves the traffic of each model: the one that the spec chooses, else the first. A
/// spec that chooses two is refused.
#[test]
fn the_spec_of_a_model_chooses_its_router() {
    let bundled = envoy::router(&Setup::default());
    let routers = Registry::new(bundled, vec![Arc::new(TwoServices(None))]);
    let mut model = model();
    assert_eq!(routers.of(&model.spec).member(), "envoy");
    model.spec.traffic = serde_json::from_value(json!({"envoy": {}})).unwrap();
    assert_eq!(routers.of(&model.spec).member(), "envoy");
    assert_eq!(routers.ambiguity(&model.spec), None);
    CHOOSES.clone_into(&mut model.spec.objectives[0].name);
    let two = routers.ambiguity(&model.spec).map(|two| two.to_string());
    assert_eq!(
        two.as_deref(),
        Some("spec.traffic: names more than one router (envoy, twoServices); keep one")
    );
    model.spec.traffic = serde_json::from_value(json!({})).unwrap();
    assert_eq!(routers.of(&model.spec).member(), "twoServices");
    assert_eq!(routers.ambiguity(&model.spec), None);
}

/// All checks of the world, with this router.
#[test]
fn every_story_ends_well() {
    on_all_cores(Story::count() as u64, |index| {
        let story = Story::number(index as usize);
        let name = story.name;
        let outcome = play_by(TWO_SERVICES, index, [story], Faults::none(index));
        let log = outcome.journal.join("\n");
        assert_eq!(outcome.findings, Vec::<String>::new(), "{name}\n{log}");
    });
}

/// Between the two objects, too.
#[test]
fn a_crash_between_any_two_writes_changes_nothing() {
    for name in [
        "a version is promoted",
        "a version that fails is rolled back",
    ] {
        let mut stories = (0..Story::count()).map(Story::number);
        let story = stories.find(|story| story.name == name).unwrap();
        let whole = play_by(TWO_SERVICES, 1, [story.clone()], Faults::none(1));
        assert_eq!(whole.findings, Vec::<String>::new());
        on_all_cores(2 * whole.writes, |job| {
            let fault = Fault::KillAt {
                write: job / 2 + 1,
                after: job % 2 == 1,
                away: 0,
            };
            let kill = Window {
                fault,
                from_ms: 0,
                to_ms: 600_000,
            };
            let faults = Faults::of(1, vec![kill]);
            let outcome = play_by(TWO_SERVICES, 1, [story.clone()], faults);
            let log = outcome.journal.join("\n");
            assert_eq!(outcome.findings, Vec::<String>::new(), "{fault:?}\n{log}");
            assert_eq!(outcome.end, whole.end, "{fault:?}\n{log}");
        });
    }
}

/// Edits of the objects while a version is held at 50 %, and the expected state five seconds later.
#[test]
fn drift_deletion_and_foreign_edits_are_repaired() {
    let canary = Key::new(Kind::Service, "ml", "iris-canary");
    let stable = Key::new(Kind::Service, "ml", "iris");
    let weights = |state: &State| -> Vec<String> {
        let of = |key| {
            let live = state.objects.get(key)?;
            live["metadata"]["annotations"][WEIGHT]
                .as_str()
                .map(str::to_owned)
        };
        [of(&stable), of(&canary)].into_iter().flatten().collect()
    };
    let annotate = |state: &mut State, key: &Key, name: &str, value: serde_json::Value| {
        "another-manager".clone_into(&mut state.objects.actor);
        state
            .objects
            .edit(key, |live| live["metadata"]["annotations"][name] = value);
    };
    let held = |state: &State| {
        IRIS.of(&state.objects)
            .is_some_and(|model| model["status"]["canary"]["weight"] == 50)
    };
    let mut stories = (0..Story::count()).map(Story::number);
    let story = stories
        .find(|story| story.name == "21: paused and resumed")
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::routed(TWO_SERVICES, 1, [story], Faults::none(1));
        let mut replicas = Replicas::new(world.clone(), 1);
        let begin = Instant::now();
        let mut held_for = 0;
        for second in 1..200 {
            world.with(|state| state.step(second));
            replicas.look(second, &[]);
            world.with(|state| {
                if !held(state) {
                    return;
                }
                held_for += 1;
                if held_for % 5 == 0 {
                    assert_eq!(weights(state), ["50", "50"], "{held_for} s");
                }
                match held_for {
                    10 => annotate(state, &canary, WEIGHT, json!("0")),
                    15 => annotate(state, &stable, BACKEND, json!("ffffffff")),
                    20 => {
                        let live = state.objects.get(&stable).unwrap();
                        assert_ne!(live["metadata"]["annotations"][BACKEND], "ffffffff");
                        annotate(state, &canary, "example.com/team", json!("ours"));
                    }
                    25 => {
                        let kept = state.objects.get(&canary).unwrap();
                        assert_eq!(kept["metadata"]["annotations"]["example.com/team"], "ours");
                        state.objects.delete(&canary).unwrap();
                    }
                    30 => drop(state.objects.delete(&stable).unwrap()),
                    35 => annotate(
                        state,
                        &canary,
                        REFUSED,
                        json!("The gateway has no listener."),
                    ),
                    40 => {
                        let status = &IRIS.of(&state.objects).unwrap()["status"];
                        let conditions = status["conditions"].as_array().unwrap();
                        let said = |one: &&serde_json::Value| one["type"] == "RouterRefused";
                        let said = conditions.iter().find(said).expect("a condition");
                        assert_eq!(said["message"], "The gateway has no listener.");
                    }
                    _ => {}
                }
            });
            tokio::time::sleep_until(begin + Duration::from_secs(second)).await;
        }
        assert!(held_for > 40, "held for {held_for} s");
    });
}
