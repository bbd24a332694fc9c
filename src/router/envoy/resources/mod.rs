//! [`RouterModel`] → xDS resources: a pure function, so that every operator replica gives every
//! router the same answer.
//!
//! A model has one Listener and one RouteConfiguration (`<namespace>/<name>`), and each version one
//! Cluster and one ClusterLoadAssignment (`<namespace>/<name>/<revision>`). The listener refers to
//! its routes by name (RDS): a change of weight replaces the routes alone, so no listener drains
//! and no connection closes.
//!
//! # Choices, and why
//! - **Retries** only where the request has provably not reached a model: the connection failed,
//!   the stream was refused, or the connection was gone before the request's headers were sent. A
//!   prediction may have side effects (a log, a bill), so the client gets any later error. Each
//!   retry goes to a pod that was not tried before, if there is one.
//! - **Idle upstream connections close after 1.5 s**, before common model servers close theirs
//!   (gunicorn 2 s, uvicorn and Node 5 s), so a request never races a server that hangs up. A new
//!   connection inside a cluster costs 0.2 ms.
//! - **Endpoints that leave** are removed at once, with their idle connections. Requests under way
//!   complete in the 5 s for which a terminating pod still serves. Envoy does this by default as
//!   long as there is no active health check (then it needs `ignore_health_on_host_removal`).
//!   `close_connections_on_host_set_change` would close the connections of every *other* pod as
//!   well.
//! - **No health checks and no outlier ejection**: Kubernetes decides readiness, and ejecting a
//!   canary's failing pods would hide the errors that the rollout has to see.
//! - **Circuit breakers** are set to 65,536: the model server limits its own work (429), and
//!   Envoy's default of 1,024 requests in flight would answer 503s that look like the model's.
//! - **Answers that break off** are errors of the version. Envoy counts a 200 when its headers
//!   arrive, before the body is complete, and none of its own counters shows the difference: those
//!   of resets and closed connections include failures before the headers (retried, or counted as
//!   503) and clients that hang up. So an access logger counts, by cluster, the answers that ended
//!   with a flag of [`BROKEN_OFF`]. A body that ends with its connection has no end that could be
//!   missing.
//! - **Headers are the server's own**: no `x-envoy-*` on answers, and `server` is passed through.
//!   `x-envoy-*` of clients, which could switch retries on, are removed from requests, since every
//!   client counts as external.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    model::{Backend, ModelRoute, RouteKey, RouterModel, cluster_name},
    proto::{
        AT_MOST, AccessLog, AccessLogFilter, AndFilter, Any, CircuitBreakers, Cluster,
        ClusterLoadAssignment, ClusterWeight, CommonHttpProtocolOptions, ComparisonFilter,
        ConfigSource, DISCOVERY_EDS, DataSource, DirectResponseAction, EdsClusterConfig, Endpoint,
        ExplicitHttpConfig, Filter, FilterChain, HeaderValue, HeaderValueOption,
        Http1ProtocolOptions, HttpConnectionManager, HttpFilter, HttpProtocolOptions,
        LEAST_REQUEST, LbEndpoint, Listener, LocalityLbEndpoints, Named, OTHER_THAN, PASS_THROUGH,
        PreviousHostsPredicate, Rds, ResponseFlagFilter, RetryBackOff, RetryHostPredicate,
        RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, Router, RuntimeUInt32,
        Stat, StatTag, StatsCounter, StatsLogger, StatsScope, StatusCodeFilter, Thresholds,
        VirtualHost, WeightedCluster,
    },
};

/// A pod that takes longer than this to accept a connection counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// See idle connections in the module's text.
const UPSTREAM_IDLE_TIMEOUT: Duration = Duration::from_millis(1500);
/// Timeout for a client to send all its headers.
const REQUEST_HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream without data ends this long after the route's timeout would have ended it.
const STREAM_IDLE_GRACE: Duration = Duration::from_secs(5);
/// Most connections and requests to one version at once.
const CIRCUIT_BREAKER: u32 = 65_536;
/// Most retries to one version at once.
const MAX_RETRIES: u32 = 1024;
/// Response flags of Envoy's access logs for answers that break off through the version or its
/// timeout: the connection ended, the stream was reset, what arrived was no HTTP, the route's
/// timeout passed. Not `DC` (the client hung up) and not `SI` (the client does not read).
const BROKEN_OFF: [&str; 4] = ["UC", "UR", "UPE", "UT"];
/// After this many seconds a client may try a model again that no version serves: a pod that is
/// woken up takes about as long to start.
const RETRY_AFTER_SECONDS: u32 = 10;
const RETRY_ON: &str = "connect-failure,refused-stream,reset-before-request";

/// The types of resources, in the order in which they must reach a router: a resource comes before
/// those that refer to it.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResourceType {
    /// A version, with timeouts and limits (CDS).
    Cluster,
    /// The pods of a version (EDS).
    Endpoints,
    /// The port of a model (LDS).
    Listener,
    /// The weights of a model (RDS).
    Route,
}

impl ResourceType {
    /// All types, in order.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Route];

    /// The name of the type on the wire.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => Cluster::TYPE_URL,
            Self::Endpoints => ClusterLoadAssignment::TYPE_URL,
            Self::Listener => Listener::TYPE_URL,
            Self::Route => RouteConfiguration::TYPE_URL,
        }
    }

    /// Its name in a sentence.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cluster => "version",
            Self::Endpoints => "endpoints",
            Self::Listener => "listener",
            Self::Route => "weights",
        }
    }

    /// The type of that name, if it is one of ours.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

/// One resource as it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Its name, unique in its type.
    pub name: String,
    /// A digest of its content: equal content has an equal version in every operator process.
    pub version: String,
    /// The content.
    pub body: Any,
    /// For a route, the revisions that have weight with their weights, sorted. Empty for other
    /// types.
    pub weights: Vec<(String, u8)>,
}

impl Resource {
    fn new<M: Named>(name: String, message: &M, weights: Vec<(String, u8)>) -> Arc<Self> {
        let body = Any::pack(message);
        let digest = Sha256::digest(&body.value);
        let version = digest
            .iter()
            .take(8)
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        Arc::new(Self {
            name,
            version,
            body,
            weights,
        })
    }

    /// An empty list of endpoints, for a router that asks for those of a version that is gone.
    pub(super) fn no_endpoints(cluster: &str) -> Arc<Self> {
        let nothing = ClusterLoadAssignment {
            cluster_name: cluster.to_owned(),
            endpoints: Vec::new(),
        };
        Self::new(cluster.to_owned(), &nothing, Vec::new())
    }
}

/// Everything that the routers should have, ready to be sent.
#[derive(Debug, Default)]
pub struct Resources {
    by_type: [BTreeMap<String, Arc<Resource>>; 4],
    /// Listeners for routers whose kernel has IPv6.
    ipv6_listeners: BTreeMap<String, Arc<Resource>>,
    compiled: BTreeMap<RouteKey, Arc<Compiled>>,
}

/// The resources of one model, with what they were made from.
#[derive(Debug)]
struct Compiled {
    source: ModelRoute,
    resources: Vec<(ResourceType, Arc<Resource>)>,
    ipv6_listener: Arc<Resource>,
}

impl Resources {
    /// Makes the resources of `model`. Routes that are equal in `previous` are copied from it,
    /// which makes a change of one route in thousands cheap and has no other effect.
    pub fn compile(model: &RouterModel, previous: Option<&Self>) -> Self {
        let mut resources = Self::default();
        for (key, route) in &model.routes {
            let compiled = previous
                .and_then(|previous| previous.compiled.get(key))
                .filter(|compiled| compiled.source == *route)
                .cloned()
                .unwrap_or_else(|| Arc::new(compile_route(key, route)));
            for (kind, resource) in &compiled.resources {
                resources.by_type[*kind as usize]
                    .insert(resource.name.clone(), Arc::clone(resource));
            }
            let ipv6 = Arc::clone(&compiled.ipv6_listener);
            resources.ipv6_listeners.insert(ipv6.name.clone(), ipv6);
            resources.compiled.insert(key.clone(), compiled);
        }
        resources
    }

    /// The resources of one type, by name. Listeners are those for IPv4 alone.
    pub fn of(&self, kind: ResourceType) -> &BTreeMap<String, Arc<Resource>> {
        &self.by_type[kind as usize]
    }

    /// The same for a router with or without IPv6.
    pub fn for_router(
        &self,
        kind: ResourceType,
        has_ipv6: bool,
    ) -> &BTreeMap<String, Arc<Resource>> {
        if has_ipv6 && kind == ResourceType::Listener {
            return &self.ipv6_listeners;
        }
        self.of(kind)
    }
}

fn compile_route(key: &RouteKey, route: &ModelRoute) -> Compiled {
    let name = key.to_string();
    let mut weights: Vec<_> = route
        .backends
        .iter()
        .filter(|backend| backend.weight > 0)
        .map(|backend| (backend.revision.clone(), backend.weight))
        .collect();
    weights.sort();

    let mut resources = Vec::with_capacity(2 + 2 * route.backends.len());
    for backend in &route.backends {
        let name = cluster_name(key, &backend.revision);
        let cluster = Resource::new(name.clone(), &cluster(&name), Vec::new());
        let endpoints = Resource::new(name.clone(), &load_assignment(&name, backend), Vec::new());
        resources.push((ResourceType::Cluster, cluster));
        resources.push((ResourceType::Endpoints, endpoints));
    }
    let listener = |any: IpAddr| {
        let listener = listener(&name, SocketAddr::new(any, route.port));
        Resource::new(name.clone(), &listener, Vec::new())
    };
    let ipv4_listener = listener(Ipv4Addr::UNSPECIFIED.into());
    let ipv6_listener = listener(Ipv6Addr::UNSPECIFIED.into());
    resources.push((ResourceType::Listener, ipv4_listener));
    let routes = route_configuration(key, &weights, route.timeout);
    resources.push((ResourceType::Route, Resource::new(name, &routes, weights)));
    Compiled {
        source: route.clone(),
        resources,
        ipv6_listener,
    }
}

fn cluster(name: &str) -> Cluster {
    let http = HttpProtocolOptions {
        common_http_protocol_options: Some(CommonHttpProtocolOptions {
            idle_timeout: Some(UPSTREAM_IDLE_TIMEOUT.into()),
        }),
        explicit_http_config: Some(ExplicitHttpConfig {
            http_protocol_options: Some(Http1ProtocolOptions {}),
        }),
    };
    Cluster {
        name: name.to_owned(),
        r#type: DISCOVERY_EDS,
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ConfigSource::ads()),
        }),
        connect_timeout: Some(CONNECT_TIMEOUT.into()),
        // Predictions differ in cost: the less busy of two random pods is better than round robin.
        lb_policy: LEAST_REQUEST,
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: Some(CIRCUIT_BREAKER),
                max_pending_requests: Some(CIRCUIT_BREAKER),
                max_requests: Some(CIRCUIT_BREAKER),
                max_retries: Some(MAX_RETRIES),
            }],
        }),
        typed_extension_protocol_options: BTreeMap::from([(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            Any::pack(&http),
        )]),
    }
}

fn load_assignment(name: &str, backend: &Backend) -> ClusterLoadAssignment {
    // Sorted, so that another order of the same pods is no change.
    let mut addresses = backend.endpoints.clone();
    addresses.sort();
    addresses.dedup();
    let lb_endpoints = addresses
        .into_iter()
        .map(|address| LbEndpoint {
            endpoint: Some(Endpoint {
                address: Some(address.into()),
            }),
        })
        .collect();
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints }],
    }
}

fn listener(name: &str, address: SocketAddr) -> Listener {
    Listener {
        name: name.to_owned(),
        address: Some(address.into()),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".to_owned(),
                typed_config: Some(Any::pack(&connection_manager(name))),
            }],
        }],
    }
}

fn connection_manager(name: &str) -> HttpConnectionManager {
    let router = Router {
        suppress_envoy_headers: true,
    };
    HttpConnectionManager {
        stat_prefix: name.to_owned(),
        rds: Some(Rds {
            config_source: Some(ConfigSource::ads()),
            route_config_name: name.to_owned(),
        }),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".to_owned(),
            typed_config: Some(Any::pack(&router)),
        }],
        use_remote_address: Some(true),
        server_header_transformation: PASS_THROUGH,
        request_headers_timeout: Some(REQUEST_HEADERS_TIMEOUT.into()),
        access_log: vec![counter_of_broken_answers()],
    }
}

/// Counts the answers that broke off after their headers, by cluster, as
/// `envoy_cluster_upstream_rq_broken_off`. A 5xx is an error already, and a 429 is shed load
/// whether its body is complete or not.
fn counter_of_broken_answers() -> AccessLog {
    let status = |op, code| AccessLogFilter {
        status_code_filter: Some(StatusCodeFilter {
            comparison: Some(ComparisonFilter {
                op,
                value: Some(RuntimeUInt32 {
                    default_value: code,
                    runtime_key: "serin.unused".to_owned(),
                }),
            }),
        }),
        ..AccessLogFilter::default()
    };
    let flags = AccessLogFilter {
        response_flag_filter: Some(ResponseFlagFilter {
            flags: BROKEN_OFF.map(str::to_owned).to_vec(),
        }),
        ..AccessLogFilter::default()
    };
    let counter = StatsCounter {
        stat: Some(Stat {
            name: "upstream_rq_broken_off".to_owned(),
            tags: vec![StatTag {
                name: "envoy.cluster_name".to_owned(),
                value_format: "%UPSTREAM_CLUSTER%".to_owned(),
            }],
        }),
        value_fixed: Some(1),
    };
    AccessLog {
        name: "envoy.access_loggers.stats".to_owned(),
        filter: Some(AccessLogFilter {
            and_filter: Some(AndFilter {
                filters: vec![flags, status(AT_MOST, 499), status(OTHER_THAN, 429)],
            }),
            ..AccessLogFilter::default()
        }),
        typed_config: Some(Any::pack(&StatsLogger {
            counters: vec![counter],
            stats_scope: Some(StatsScope {
                prefix: "cluster".to_owned(),
            }),
        })),
    }
}

fn route_configuration(
    key: &RouteKey,
    weights: &[(String, u8)],
    timeout: Duration,
) -> RouteConfiguration {
    let name = key.to_string();
    let everything = RouteMatch {
        prefix: Some("/".to_owned()),
    };
    let route = if weights.is_empty() {
        // Envoy rejects clusters whose weights sum to 0.
        Route {
            r#match: Some(everything),
            direct_response: Some(DirectResponseAction {
                status: 503,
                body: Some(DataSource {
                    inline_string: format!("model {name} is asleep, or no version is ready yet\n"),
                }),
            }),
            route: None,
            response_headers_to_add: vec![HeaderValueOption {
                header: Some(HeaderValue {
                    key: "retry-after".to_owned(),
                    value: RETRY_AFTER_SECONDS.to_string(),
                }),
            }],
        }
    } else {
        Route {
            r#match: Some(everything),
            route: Some(forward(key, weights, timeout)),
            direct_response: None,
            response_headers_to_add: Vec::new(),
        }
    };
    RouteConfiguration {
        virtual_hosts: vec![VirtualHost {
            name: name.clone(),
            domains: vec!["*".to_owned()],
            routes: vec![route],
        }],
        name,
    }
}

fn forward(key: &RouteKey, weights: &[(String, u8)], timeout: Duration) -> RouteAction {
    let clusters = weights
        .iter()
        .map(|(revision, weight)| ClusterWeight {
            name: cluster_name(key, revision),
            weight: Some((*weight).into()),
        })
        .collect();
    RouteAction {
        weighted_clusters: Some(WeightedCluster { clusters }),
        timeout: Some(timeout.into()),
        retry_policy: Some(RetryPolicy {
            retry_on: RETRY_ON.to_owned(),
            num_retries: Some(2),
            retry_host_predicate: vec![RetryHostPredicate {
                name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
                typed_config: Some(Any::pack(&PreviousHostsPredicate {})),
            }],
            // A draw prefers idle pods, and dead pods are idle: beside one living pod, 3 of 4 draws
            // hit a dead one. If there is no other pod, the last draw counts.
            host_selection_retry_max_attempts: 30,
            retry_back_off: Some(RetryBackOff {
                base_interval: Some(Duration::from_millis(10).into()),
                max_interval: Some(Duration::from_millis(100).into()),
            }),
        }),
        // Envoy's own (5 min) would cut a longer timeout short, and outlast a short one.
        idle_timeout: Some(timeout.saturating_add(STREAM_IDLE_GRACE).into()),
    }
}

#[cfg(test)]
mod tests;
