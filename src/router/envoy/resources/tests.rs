#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::router::envoy::DEFAULT_TIMEOUT;

fn backend(revision: &str, weight: u8, endpoints: &[&str]) -> Backend {
    Backend {
        revision: revision.to_owned(),
        weight,
        endpoints: endpoints.iter().map(|a| a.parse().unwrap()).collect(),
    }
}

fn churn(backends: Vec<Backend>) -> RouterModel {
    let route = ModelRoute {
        port: 20_000,
        backends,
        timeout: DEFAULT_TIMEOUT,
    };
    RouterModel {
        routes: BTreeMap::from([(RouteKey::new("ml", "churn"), route)]),
    }
}

fn decode<M: Named>(resource: &Resource) -> M {
    assert_eq!(resource.body.type_url, M::TYPE_URL);
    M::decode(resource.body.value.as_slice()).unwrap()
}

/// The clusters of the only route, with their weights; `None` if the router answers itself.
fn routed(resources: &Resources) -> Option<Vec<(String, u32)>> {
    let resource = &resources.of(ResourceType::Route)["ml/churn"];
    let mut configuration: RouteConfiguration = decode(resource);
    let route = configuration.virtual_hosts.remove(0).routes.remove(0);
    assert_eq!(route.route.is_none(), route.direct_response.is_some());
    let clusters = route.route?.weighted_clusters.unwrap().clusters;
    Some(
        clusters
            .into_iter()
            .map(|c| (c.name, c.weight.unwrap()))
            .collect(),
    )
}

#[test]
fn a_weight_of_zero_is_left_out_of_the_route_and_its_cluster_stays() {
    let table = [
        (
            vec![("aaaaaaaa", 100)],
            Some(vec![("ml/churn/aaaaaaaa", 100)]),
        ),
        (
            vec![("bbbbbbbb", 10), ("aaaaaaaa", 90)],
            Some(vec![("ml/churn/aaaaaaaa", 90), ("ml/churn/bbbbbbbb", 10)]),
        ),
        (
            vec![("aaaaaaaa", 100), ("bbbbbbbb", 0)],
            Some(vec![("ml/churn/aaaaaaaa", 100)]),
        ),
        (vec![("aaaaaaaa", 0)], None),
        (vec![], None),
    ];
    for (weights, expected) in table {
        let backends = weights
            .iter()
            .map(|(revision, weight)| backend(revision, *weight, &[]));
        let resources = Resources::compile(&churn(backends.collect()), None);
        let expected = expected.map(|clusters| {
            clusters
                .into_iter()
                .map(|(name, weight)| (name.to_owned(), weight))
                .collect()
        });
        assert_eq!(routed(&resources), expected, "for {weights:?}");
        assert_eq!(
            resources.of(ResourceType::Cluster).len(),
            weights.len(),
            "for {weights:?}"
        );
        assert_eq!(
            resources.of(ResourceType::Endpoints).len(),
            weights.len(),
            "for {weights:?}"
        );
        let route = &resources.of(ResourceType::Route)["ml/churn"];
        let sum: u32 = route
            .weights
            .iter()
            .map(|(_, weight)| u32::from(*weight))
            .sum();
        assert_eq!(sum, expected.map_or(0, |_| 100));
    }
}

#[test]
fn where_no_version_serves_the_router_says_when_to_try_again() {
    let resources = Resources::compile(&churn(vec![backend("aaaaaaaa", 0, &[])]), None);
    let mut routes: RouteConfiguration = decode(&resources.of(ResourceType::Route)["ml/churn"]);
    let route = routes.virtual_hosts.remove(0).routes.remove(0);
    assert_eq!(route.direct_response.unwrap().status, 503);
    let header = route.response_headers_to_add[0].header.clone().unwrap();
    assert_eq!(
        (header.key.as_str(), header.value.as_str()),
        ("retry-after", "10")
    );
}

#[test]
fn a_change_of_weight_changes_the_route_alone() {
    let compile = |stable, canary| {
        let backends = vec![
            backend("aaaaaaaa", stable, &["10.0.0.1:8080"]),
            backend("bbbbbbbb", canary, &["10.0.0.2:8080"]),
        ];
        Resources::compile(&churn(backends), None)
    };
    let (before, after) = (compile(90, 10), compile(50, 50));
    for kind in ResourceType::ALL {
        let same = before.of(kind) == after.of(kind);
        assert_eq!(same, kind != ResourceType::Route, "{kind:?}");
    }
}

#[test]
fn the_order_of_backends_and_pods_is_no_change() {
    let one = churn(vec![
        backend("aaaaaaaa", 90, &["10.0.0.1:8080", "10.0.0.2:8080"]),
        backend("bbbbbbbb", 10, &[]),
    ]);
    let other = churn(vec![
        backend("bbbbbbbb", 10, &[]),
        backend(
            "aaaaaaaa",
            90,
            &["10.0.0.2:8080", "10.0.0.1:8080", "10.0.0.2:8080"],
        ),
    ]);
    assert_eq!(
        Resources::compile(&one, None).by_type,
        Resources::compile(&other, None).by_type
    );
}

#[test]
fn pods_with_ipv6_addresses_are_written_without_brackets() {
    let resources = Resources::compile(
        &churn(vec![backend("aaaaaaaa", 100, &["[fd00::1]:8080"])]),
        None,
    );
    let assignment: ClusterLoadAssignment =
        decode(&resources.of(ResourceType::Endpoints)["ml/churn/aaaaaaaa"]);
    let endpoint = assignment.endpoints[0].lb_endpoints[0]
        .endpoint
        .clone()
        .unwrap();
    assert_eq!(
        endpoint.address.unwrap().socket_address.unwrap().address,
        "fd00::1"
    );
}

/// The whole content, in words of the wire. `tests/envoy` has a real Envoy's reading of the same.
#[test]
fn golden() {
    let route = route_configuration(
        &RouteKey::new("ml", "churn"),
        &[("aaaaaaaa".to_owned(), 90), ("bbbbbbbb".to_owned(), 10)],
        DEFAULT_TIMEOUT,
    );
    insta::assert_debug_snapshot!("route", route);
    insta::assert_debug_snapshot!("connection_manager", connection_manager("ml/churn"));
    insta::assert_debug_snapshot!("cluster", cluster("ml/churn/aaaaaaaa"));
    insta::assert_debug_snapshot!(
        "endpoints",
        load_assignment(
            "ml/churn/aaaaaaaa",
            &backend("aaaaaaaa", 90, &["10.0.0.1:8080"])
        )
    );
}

fn any_model() -> impl Strategy<Value = RouterModel> {
    let backends = prop::collection::btree_map(
        "[0-9a-f]{8}",
        (0..=100_u8, prop::collection::vec(1..9_u8, 0..3)),
        0..3,
    );
    prop::collection::btree_map("[a-c]", (20_000..20_010_u16, backends), 0..4).prop_map(|routes| {
        RouterModel {
            routes: routes
                .into_iter()
                .map(|(name, (port, backends))| {
                    let backends = backends
                        .into_iter()
                        .map(|(revision, (weight, pods))| Backend {
                            revision,
                            weight,
                            endpoints: pods
                                .into_iter()
                                .map(|pod| SocketAddr::from(([10, 0, 0, pod], 8080)))
                                .collect(),
                        })
                        .collect();
                    let route = ModelRoute {
                        port,
                        backends,
                        timeout: DEFAULT_TIMEOUT,
                    };
                    (RouteKey::new("ml", name), route)
                })
                .collect(),
        }
    })
}

proptest! {
    #[test]
    fn taking_over_from_the_previous_changes_nothing(before in any_model(), after in any_model()) {
        let previous = Resources::compile(&before, None);
        let incremental = Resources::compile(&after, Some(&previous));
        prop_assert_eq!(incremental.by_type, Resources::compile(&after, None).by_type);
    }
}
