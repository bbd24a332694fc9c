#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ResourceType::{Cluster, Endpoints, Listener, Route};

use super::*;
use crate::router::envoy::{
    model::{Backend, ModelRoute, RouteKey, RouterModel},
    proto::Status,
};

/// A router that does as Envoy does: subscribes to what it learns of, and acknowledges.
#[derive(Default)]
struct FakeRouter {
    session: Session,
    log: Vec<String>,
    clusters: BTreeMap<String, String>,
    listeners: BTreeMap<String, String>,
    named: [BTreeMap<String, String>; 4],
}

fn request(kind: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        ..Default::default()
    }
}

fn subscribe(kind: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..request(kind)
    }
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

fn nack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        error_detail: Some(Status {
            code: 13,
            message: "bad".to_owned(),
        }),
        ..ack(response)
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|r| r.name.as_str()).collect()
}

impl FakeRouter {
    fn connect(known: &[(ResourceType, &BTreeMap<String, String>)]) -> Self {
        let mut router = Self::default();
        for kind in [Cluster, Listener] {
            let versions = known
                .iter()
                .find(|(k, _)| *k == kind)
                .map(|(_, held)| (*held).clone());
            router.session.handle(&DeltaDiscoveryRequest {
                initial_resource_versions: versions.unwrap_or_default().into_iter().collect(),
                ..request(kind)
            });
        }
        router
    }

    /// Answers until the session has nothing to say; logs each response as `Type +name -name`.
    fn settle(&mut self, resources: &RouterModel) -> Vec<String> {
        self.session
            .set_resources(Arc::new(Resources::compile(resources, None)));
        while let Some(response) = self.session.next_response() {
            self.take(&response);
        }
        std::mem::take(&mut self.log)
    }

    fn take(&mut self, response: &DeltaDiscoveryResponse) {
        let kind = ResourceType::from_type_url(&response.type_url).unwrap();
        let added = response.resources.iter().map(|r| format!(" +{}", r.name));
        let removed = response
            .removed_resources
            .iter()
            .map(|name| format!(" -{name}"));
        self.log.push(format!(
            "{kind:?}{}",
            added.chain(removed).collect::<String>()
        ));
        for resource in &response.resources {
            self.named[kind as usize].insert(resource.name.clone(), resource.version.clone());
        }
        for name in &response.removed_resources {
            self.named[kind as usize].remove(name);
        }
        self.session.handle(&ack(response));
        let dependent = match kind {
            Cluster => Endpoints,
            Listener => Route,
            _ => return,
        };
        let held = match kind {
            Cluster => &mut self.clusters,
            _ => &mut self.listeners,
        };
        let mut follow_up = request(dependent);
        for resource in &response.resources {
            if held
                .insert(resource.name.clone(), resource.version.clone())
                .is_none()
            {
                follow_up
                    .resource_names_subscribe
                    .push(resource.name.clone());
            }
        }
        for name in &response.removed_resources {
            held.remove(name);
            follow_up.resource_names_unsubscribe.push(name.clone());
        }
        self.session.handle(&follow_up);
    }
}

fn model(routes: &[(&str, &[(&str, u8)])]) -> RouterModel {
    let routes = routes.iter().zip(20_000..).map(|((name, backends), port)| {
        let backends = backends.iter().map(|(revision, weight)| Backend {
            revision: (*revision).to_owned(),
            weight: *weight,
            endpoints: Vec::new(),
        });
        let route = ModelRoute {
            port,
            backends: backends.collect(),
            timeout: Duration::from_secs(60),
        };
        (RouteKey::new("ml", *name), route)
    });
    RouterModel {
        routes: routes.collect(),
    }
}

#[test]
fn nothing_is_sent_before_the_first_resources() {
    let mut router = FakeRouter::connect(&[]);
    assert_eq!(router.session.next_response(), None);
}

#[test]
fn a_fresh_router_hears_once_that_there_is_nothing() {
    let mut router = FakeRouter::connect(&[]);
    assert_eq!(router.settle(&model(&[])), ["Cluster", "Listener"]);
    assert_eq!(router.settle(&model(&[])), Vec::<String>::new());
}

#[test]
fn a_rollout_is_made_before_broken() {
    let mut router = FakeRouter::connect(&[]);
    let first = router.settle(&model(&[("churn", &[("a", 100)])]));
    assert_eq!(
        first,
        [
            "Cluster +ml/churn/a",
            "Endpoints +ml/churn/a",
            "Listener +ml/churn",
            "Route +ml/churn"
        ]
    );
    let canary = router.settle(&model(&[("churn", &[("a", 90), ("b", 10)])]));
    assert_eq!(
        canary,
        [
            "Cluster +ml/churn/b",
            "Endpoints +ml/churn/b",
            "Route +ml/churn"
        ]
    );
    let promoted = router.settle(&model(&[("churn", &[("a", 0), ("b", 100)])]));
    assert_eq!(promoted, ["Route +ml/churn"]);
    // In one step: new weights and versions that go.
    let replaced = router.settle(&model(&[("churn", &[("c", 100)])]));
    assert_eq!(
        replaced,
        [
            "Cluster +ml/churn/c",
            "Endpoints +ml/churn/c",
            "Route +ml/churn",
            "Cluster -ml/churn/a -ml/churn/b"
        ]
    );
    let deleted = router.settle(&model(&[]));
    assert_eq!(deleted, ["Listener -ml/churn", "Cluster -ml/churn/c"]);
}

#[test]
fn routes_wait_for_the_endpoints_of_their_clusters() {
    let mut router = FakeRouter::connect(&[]);
    router.settle(&model(&[("churn", &[("a", 100)])]));
    let canary = Resources::compile(&model(&[("churn", &[("a", 90), ("b", 10)])]), None);
    let session = &mut router.session;
    session.set_resources(Arc::new(canary));

    let clusters = session.next_response().unwrap();
    assert_eq!(names(&clusters), ["ml/churn/b"]);
    assert_eq!(session.next_response(), None, "endpoints not asked for");
    session.handle(&subscribe(Endpoints, &["ml/churn/b"]));
    let endpoints = session.next_response().unwrap();
    assert_eq!(names(&endpoints), ["ml/churn/b"]);
    assert_eq!(session.next_response(), None, "endpoints not acknowledged");
    session.handle(&ack(&endpoints));
    assert_eq!(session.next_response(), None, "cluster not acknowledged");
    session.handle(&ack(&clusters));
    let response = session.next_response().unwrap();
    assert_eq!(names(&response), ["ml/churn"]);
}

#[test]
fn what_is_asked_for_again_is_sent_again() {
    let mut router = FakeRouter::connect(&[]);
    router.settle(&model(&[("churn", &[("a", 100)])]));
    let session = &mut router.session;
    session.handle(&subscribe(Endpoints, &["ml/churn/a"]));
    let response = session.next_response().unwrap();
    assert_eq!(names(&response), ["ml/churn/a"]);
    session.handle(&ack(&response));
    assert_eq!(session.next_response(), None);
}

#[test]
fn a_router_that_waits_for_the_endpoints_of_a_version_that_is_gone_gets_an_empty_list() {
    let mut router = FakeRouter::connect(&[]);
    router.settle(&model(&[("churn", &[("a", 100)])]));
    let session = &mut router.session;
    let publish = |session: &mut Session, backends: &[(&str, u8)]| {
        session.set_resources(Arc::new(Resources::compile(
            &model(&[("churn", backends)]),
            None,
        )));
    };
    publish(session, &[("a", 100), ("b", 0)]);
    let clusters = session.next_response().unwrap();
    publish(session, &[("a", 100)]);
    assert_eq!(
        session.next_response(),
        None,
        "the router is busy with clusters"
    );
    session.handle(&subscribe(Endpoints, &["ml/churn/b"]));
    let endpoints = session.next_response().unwrap();
    assert_eq!(names(&endpoints), ["ml/churn/b"]);
    session.handle(&ack(&endpoints));
    session.handle(&ack(&clusters));
    let removal = session.next_response().unwrap();
    assert_eq!(removal.removed_resources, ["ml/churn/b"]);
    session.handle(&ack(&removal));
    assert_eq!(session.next_response(), None);
}

#[test]
fn a_route_that_does_not_exist_is_said_to_be_gone() {
    let mut router = FakeRouter::connect(&[]);
    router.settle(&model(&[]));
    router.session.handle(&subscribe(Route, &["ml/x"]));
    let response = router.session.next_response().unwrap();
    assert_eq!(response.removed_resources, ["ml/x"]);
}

#[test]
fn changes_during_a_flight_are_sent_after_it_as_one() {
    let mut router = FakeRouter::connect(&[]);
    router.settle(&model(&[("churn", &[("a", 90), ("b", 10)])]));
    let session = &mut router.session;
    let publish = |session: &mut Session, a, b| {
        let model = model(&[("churn", &[("a", a), ("b", b)])]);
        session.set_resources(Arc::new(Resources::compile(&model, None)));
    };
    let taken = |session: &mut Session| match &session.take_events()[..] {
        [] => None,
        [Event::RouteTaken(route)] => Some(route.weights.clone()),
        more => panic!("{more:?}"),
    };
    publish(session, 75, 25);
    let first = session.next_response().unwrap();
    publish(session, 50, 50);
    publish(session, 0, 100);
    assert_eq!(session.next_response(), None);
    session.take_events();
    session.handle(&ack(&first));
    let quarter = vec![("a".to_owned(), 75), ("b".to_owned(), 25)];
    assert_eq!(taken(session), Some(quarter));
    let second = session.next_response().unwrap();
    session.handle(&ack(&first));
    assert_eq!(taken(session), None, "an old nonce is no acknowledgement");
    session.handle(&ack(&second));
    assert_eq!(taken(session), Some(vec![("b".to_owned(), 100)]));
    assert_eq!(session.next_response(), None);
}

/// A router that says what `known` has.
fn reconnect(known: &FakeRouter) -> FakeRouter {
    let versions = |kind: ResourceType| &known.named[kind as usize];
    let mut router =
        FakeRouter::connect(&[(Cluster, versions(Cluster)), (Listener, versions(Listener))]);
    router.clusters = known.clusters.clone();
    router.listeners = known.listeners.clone();
    for kind in [Endpoints, Route] {
        router.session.handle(&DeltaDiscoveryRequest {
            resource_names_subscribe: versions(kind).keys().cloned().collect(),
            initial_resource_versions: versions(kind).clone().into_iter().collect(),
            ..request(kind)
        });
    }
    assert_eq!(
        router.session.next_response(),
        None,
        "nothing published yet"
    );
    router
}

#[test]
fn a_router_that_comes_back_gets_only_endpoints_if_nothing_changed() {
    let stable = model(&[("churn", &[("a", 100)]), ("fraud", &[("f", 100)])]);
    let mut before = FakeRouter::connect(&[]);
    before.settle(&stable);
    let mut after = reconnect(&before);
    assert_eq!(after.settle(&stable), ["Endpoints +ml/churn/a +ml/fraud/f"]);
    let known = after.session.take_events();
    after.settle(&stable);
    assert_eq!(after.session.take_events(), [], "and known once");
    assert_eq!(
        known.len(),
        2,
        "the weights of both models are known at once: {known:?}"
    );
}

#[test]
fn a_router_that_comes_back_catches_up_in_order() {
    let mut before = FakeRouter::connect(&[]);
    before.settle(&model(&[
        ("churn", &[("a", 100)]),
        ("fraud", &[("f", 100)]),
    ]));
    let mut after = reconnect(&before);
    // While the operator was away churn moved on and fraud was deleted.
    assert_eq!(
        after.settle(&model(&[("churn", &[("b", 100)])])),
        [
            "Cluster +ml/churn/b",
            "Endpoints +ml/churn/b",
            "Listener -ml/fraud",
            "Cluster -ml/fraud/f",
            "Route +ml/churn",
            "Cluster -ml/churn/a",
        ]
    );
}

#[test]
fn a_bad_resource_does_not_hold_up_the_good_ones() {
    let mut router = FakeRouter::connect(&[]);
    router.settle(&model(&[("churn", &[("a", 100)])]));
    let session = &mut router.session;
    let both = model(&[("churn", &[("a", 100)]), ("fraud", &[]), ("spam", &[])]);
    session.set_resources(Arc::new(Resources::compile(&both, None)));
    let together = session.next_response().unwrap();
    assert_eq!(names(&together), ["ml/fraud", "ml/spam"]);
    session.handle(&nack(&together));

    let fraud = session.next_response().unwrap();
    assert_eq!(names(&fraud), ["ml/fraud"]);
    session.handle(&nack(&fraud));
    let spam = session.next_response().unwrap();
    assert_eq!(names(&spam), ["ml/spam"]);
    session.handle(&ack(&spam));
    assert_eq!(
        session.next_response(),
        None,
        "what was rejected alone waits"
    );

    session.take_events();
    session.retry_rejected();
    let again = session.next_response().unwrap();
    assert_eq!(names(&again), ["ml/fraud"]);
    session.handle(&ack(&again));
    let recovered = Event::Recovered {
        kind: Listener,
        name: "ml/fraud".to_owned(),
    };
    assert_eq!(session.take_events(), [recovered]);
}

#[test]
fn a_rejected_route_keeps_the_clusters_that_the_last_good_one_needs() {
    let mut router = FakeRouter::connect(&[]);
    router.settle(&model(&[("churn", &[("a", 100), ("b", 0)])]));
    let session = &mut router.session;
    session.set_resources(Arc::new(Resources::compile(
        &model(&[("churn", &[("b", 100)])]),
        None,
    )));
    let route = session.next_response().unwrap();
    assert_eq!(names(&route), ["ml/churn"]);
    session.handle(&nack(&route));
    assert_eq!(session.next_response(), None, "cluster a is still in use");
    session.retry_rejected();
    let route = session.next_response().unwrap();
    session.handle(&ack(&route));
    let removal = session.next_response().unwrap();
    assert_eq!(removal.removed_resources, ["ml/churn/a"]);
}

#[test]
fn a_type_that_is_not_served_is_ignored() {
    let mut session = Session::default();
    session.set_resources(Arc::default());
    session.handle(&DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".to_owned(),
        ..Default::default()
    });
    assert_eq!(session.next_response(), None);
}
