//! What the bundled router should do, in Serin's own words: the input of [`Resources::compile`](super::Resources::compile).

use std::{collections::BTreeMap, fmt, net::SocketAddr, time::Duration};

/// The time a request may take if nothing else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// The model that a route leads to: its `ModelDeployment`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// The namespace of the `ModelDeployment`.
    pub namespace: String,
    /// The name of the `ModelDeployment`.
    pub name: String,
}

impl RouteKey {
    /// The key of `namespace`/`name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// All routes of the router. Every router pod gets the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterModel {
    /// One route a model.
    pub routes: BTreeMap<RouteKey, ModelRoute>,
}

/// How the requests for one model are spread over its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRoute {
    /// The TCP port on which every router pod listens for this model.
    pub port: u16,
    /// The versions, each at most once.
    pub backends: Vec<Backend>,
    /// The longest time from the end of a request to the end of its answer; the client gets a 504 after it.
    pub timeout: Duration,
}

/// One version of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The revision: the 8 hex digits that name everything made for this version.
    pub revision: String,
    /// The share of requests in percent, 0 to 100. A version of weight 0 gets none, but the routers keep it ready.
    pub weight: u8,
    /// The ready pods.
    pub endpoints: Vec<SocketAddr>,
}

/// The name of the Envoy cluster of one version: `<namespace>/<name>/<revision>`, the label `envoy_cluster_name` of its
/// metrics.
pub fn cluster_name(route: &RouteKey, revision: &str) -> String {
    format!("{route}/{revision}")
}

/// The route (`<namespace>/<name>`) that the cluster of this name belongs to.
pub(super) fn route_name(cluster: &str) -> &str {
    cluster.rsplit_once('/').map_or(cluster, |(route, _)| route)
}
