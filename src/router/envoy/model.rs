//! What the bundled router should do, as plain data: the input of
//! [`Resources::compile`](super::Resources::compile).

use std::{collections::BTreeMap, fmt, net::SocketAddr, time::Duration};

/// The default timeout of a request.
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

/// All routes. Every router pod gets the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterModel {
    /// One route a model.
    pub routes: BTreeMap<RouteKey, ModelRoute>,
}

/// How one model's requests are split between its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRoute {
    /// The TCP port on which every router pod listens for this model.
    pub port: u16,
    /// The versions, each at most once.
    pub backends: Vec<Backend>,
    /// Longest time from the end of a request to the end of its answer. After it, the client gets a
    /// 504.
    pub timeout: Duration,
}

/// One version of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The revision: the 8 hex digits that name everything made for this version.
    pub revision: String,
    /// The share of requests in percent, 0 to 100. A version of weight 0 gets none, but routers
    /// keep its cluster warm.
    pub weight: u8,
    /// The ready pods.
    pub endpoints: Vec<SocketAddr>,
}

/// The name of a version's Envoy cluster: `<namespace>/<name>/<revision>`, the label
/// `envoy_cluster_name` of its metrics.
pub fn cluster_name(route: &RouteKey, revision: &str) -> String {
    format!("{route}/{revision}")
}

/// The route (`<namespace>/<name>`) that the cluster of this name belongs to.
pub(super) fn route_name(cluster: &str) -> &str {
    cluster.rsplit_once('/').map_or(cluster, |(route, _)| route)
}
