//! The part of Envoy's API that Serin speaks, as Protocol Buffers messages.
//!
//! Only the fields that are used are declared. Numbers and names are those of `envoyproxy/envoy`
//! `api/envoy/…/v3` (1.40). A `oneof` of which Serin uses one arm is declared as that arm, which is
//! the same on the wire. In `tests/envoy` a real Envoy prints how it understood every field.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv6Addr, SocketAddr},
};

use prost::Message;

/// A message that can be packed into an [`Any`].
pub trait Named: Message + Default {
    /// The URL by which the receiver finds the type.
    const TYPE_URL: &'static str;
}

macro_rules! named {
    ($($message:ident = $name:literal),+ $(,)?) => {$(
        impl Named for $message {
            const TYPE_URL: &'static str = concat!("type.googleapis.com/", $name);
        }
    )+};
}

named! {
    Cluster = "envoy.config.cluster.v3.Cluster",
    ClusterLoadAssignment = "envoy.config.endpoint.v3.ClusterLoadAssignment",
    Listener = "envoy.config.listener.v3.Listener",
    RouteConfiguration = "envoy.config.route.v3.RouteConfiguration",
    HttpConnectionManager =
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    Router = "envoy.extensions.filters.http.router.v3.Router",
    HttpProtocolOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    PreviousHostsPredicate = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    StatsLogger = "envoy.extensions.access_loggers.stats.v3.Config",
}

/// Declares messages; the field syntax is prost's own.
macro_rules! messages {
    ($(
        $(#[$doc:meta])*
        $message:ident { $($(#[$attr:meta])* $field:ident: $ty:ty),* $(,)? }
    )+) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Message)]
        #[allow(missing_docs, reason = "the fields are documented in Envoy's API reference")]
        pub struct $message { $($(#[$attr])* pub $field: $ty),* }
    )+};
}

// google.protobuf, google.rpc
messages! {
    /// Any message, with the name of its type.
    Any {
        #[prost(string, tag = "1")] type_url: String,
        #[prost(bytes = "vec", tag = "2")] value: Vec<u8>,
    }
    /// A span of time.
    Duration {
        #[prost(int64, tag = "1")] seconds: i64,
        #[prost(int32, tag = "2")] nanos: i32,
    }
    /// A JSON object (`google.protobuf.Struct`). Only its strings are read.
    Struct {
        #[prost(map = "string, message", tag = "1")] fields: HashMap<String, Text>,
    }
    /// A JSON value (`google.protobuf.Value`) that is a text.
    Text {
        #[prost(string, optional, tag = "3")] string_value: Option<String>,
    }
    /// Why a router rejected a response.
    Status {
        #[prost(int32, tag = "1")] code: i32,
        #[prost(string, tag = "2")] message: String,
    }
}

impl Any {
    /// Packs a message.
    pub fn pack<M: Named>(message: &M) -> Self {
        Self {
            type_url: M::TYPE_URL.to_owned(),
            value: message.encode_to_vec(),
        }
    }
}

impl From<std::time::Duration> for Duration {
    fn from(duration: std::time::Duration) -> Self {
        Self {
            seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            nanos: duration.subsec_nanos().cast_signed(),
        }
    }
}

// envoy.service.discovery.v3
messages! {
    /// What a router asks for, and its ACK or NACK of an earlier response.
    DeltaDiscoveryRequest {
        #[prost(message, optional, tag = "1")] node: Option<Node>,
        #[prost(string, tag = "2")] type_url: String,
        #[prost(string, repeated, tag = "3")] resource_names_subscribe: Vec<String>,
        #[prost(string, repeated, tag = "4")] resource_names_unsubscribe: Vec<String>,
        #[prost(map = "string, string", tag = "5")]
        initial_resource_versions: HashMap<String, String>,
        #[prost(string, tag = "6")] response_nonce: String,
        #[prost(message, optional, tag = "7")] error_detail: Option<Status>,
    }
    /// What changes for a router.
    DeltaDiscoveryResponse {
        #[prost(message, repeated, tag = "2")] resources: Vec<DiscoveryResource>,
        #[prost(string, tag = "4")] type_url: String,
        #[prost(string, tag = "5")] nonce: String,
        #[prost(string, repeated, tag = "6")] removed_resources: Vec<String>,
    }
    /// One resource of a response (`Resource` in Envoy's API).
    DiscoveryResource {
        #[prost(string, tag = "1")] version: String,
        #[prost(message, optional, tag = "2")] resource: Option<Any>,
        #[prost(string, tag = "3")] name: String,
    }
    /// The router that asks.
    Node {
        #[prost(string, tag = "1")] id: String,
        #[prost(string, tag = "2")] cluster: String,
        #[prost(message, optional, tag = "3")] metadata: Option<Struct>,
    }
}

// envoy.config.core.v3
messages! {
    /// An address.
    Address {
        #[prost(message, optional, tag = "1")] socket_address: Option<SocketAddressV3>,
    }
    /// A TCP address (`SocketAddress` in Envoy's API).
    SocketAddressV3 {
        #[prost(string, tag = "2")] address: String,
        #[prost(uint32, tag = "3")] port_value: u32,
        #[prost(bool, tag = "6")] ipv4_compat: bool,
    }
    /// Where a resource that this one refers to comes from.
    ConfigSource {
        #[prost(message, optional, tag = "3")] ads: Option<AggregatedConfigSource>,
        #[prost(message, optional, tag = "4")] initial_fetch_timeout: Option<Duration>,
        #[prost(int32, tag = "6")] resource_api_version: i32,
    }
    /// "From the stream that this message came by."
    AggregatedConfigSource {}
    /// A text that is given in place.
    DataSource {
        #[prost(string, tag = "3")] inline_string: String,
    }
    /// Limits that all HTTP versions share (`core.v3.HttpProtocolOptions`).
    CommonHttpProtocolOptions {
        #[prost(message, optional, tag = "1")] idle_timeout: Option<Duration>,
    }
    /// HTTP/1.1, with Envoy's defaults.
    Http1ProtocolOptions {}
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self {
            socket_address: Some(SocketAddressV3 {
                address: address.ip().to_string(),
                port_value: address.port().into(),
                // Of a listener on all addresses: those of IPv4, too.
                ipv4_compat: address.ip() == Ipv6Addr::UNSPECIFIED,
            }),
        }
    }
}

impl ConfigSource {
    /// The aggregated stream, waited for as long as it takes.
    pub fn ads() -> Self {
        const V3: i32 = 2;
        Self {
            ads: Some(AggregatedConfigSource {}),
            initial_fetch_timeout: Some(Duration::default()),
            resource_api_version: V3,
        }
    }
}

// envoy.config.cluster.v3, envoy.extensions.upstreams.http.v3
messages! {
    /// The pods of one version, and how to talk to them.
    Cluster {
        #[prost(string, tag = "1")] name: String,
        #[prost(int32, tag = "2")] r#type: i32,
        #[prost(message, optional, tag = "3")] eds_cluster_config: Option<EdsClusterConfig>,
        #[prost(message, optional, tag = "4")] connect_timeout: Option<Duration>,
        #[prost(int32, tag = "6")] lb_policy: i32,
        #[prost(message, optional, tag = "10")] circuit_breakers: Option<CircuitBreakers>,
        #[prost(btree_map = "string, message", tag = "36")]
        typed_extension_protocol_options: BTreeMap<String, Any>,
    }
    /// Where the endpoints come from.
    EdsClusterConfig {
        #[prost(message, optional, tag = "1")] eds_config: Option<ConfigSource>,
    }
    /// Upper bounds on what is in flight to a cluster.
    CircuitBreakers {
        #[prost(message, repeated, tag = "1")] thresholds: Vec<Thresholds>,
    }
    /// The bounds of one priority.
    Thresholds {
        #[prost(message, optional, tag = "2")] max_connections: Option<u32>,
        #[prost(message, optional, tag = "3")] max_pending_requests: Option<u32>,
        #[prost(message, optional, tag = "4")] max_requests: Option<u32>,
        #[prost(message, optional, tag = "5")] max_retries: Option<u32>,
    }
    /// How to speak HTTP to a cluster.
    HttpProtocolOptions {
        #[prost(message, optional, tag = "1")]
        common_http_protocol_options: Option<CommonHttpProtocolOptions>,
        #[prost(message, optional, tag = "3")] explicit_http_config: Option<ExplicitHttpConfig>,
    }
    /// The HTTP version.
    ExplicitHttpConfig {
        #[prost(message, optional, tag = "1")] http_protocol_options: Option<Http1ProtocolOptions>,
    }
}

/// `Cluster.DiscoveryType.EDS`
pub const DISCOVERY_EDS: i32 = 3;
/// `Cluster.LbPolicy.LEAST_REQUEST`
pub const LEAST_REQUEST: i32 = 1;

// envoy.config.endpoint.v3
messages! {
    /// The endpoints of a cluster.
    ClusterLoadAssignment {
        #[prost(string, tag = "1")] cluster_name: String,
        #[prost(message, repeated, tag = "2")] endpoints: Vec<LocalityLbEndpoints>,
    }
    /// The endpoints of one locality; Serin uses one.
    LocalityLbEndpoints {
        #[prost(message, repeated, tag = "2")] lb_endpoints: Vec<LbEndpoint>,
    }
    /// An endpoint that takes part in load balancing.
    LbEndpoint {
        #[prost(message, optional, tag = "1")] endpoint: Option<Endpoint>,
    }
    /// A pod.
    Endpoint {
        #[prost(message, optional, tag = "1")] address: Option<Address>,
    }
}

// envoy.config.listener.v3, envoy.extensions.filters
messages! {
    /// A port and what is done with its connections.
    Listener {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "2")] address: Option<Address>,
        #[prost(message, repeated, tag = "3")] filter_chains: Vec<FilterChain>,
    }
    /// The filters of a connection.
    FilterChain {
        #[prost(message, repeated, tag = "3")] filters: Vec<Filter>,
    }
    /// A network filter.
    Filter {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "4")] typed_config: Option<Any>,
    }
    /// The filter that makes requests out of bytes.
    HttpConnectionManager {
        #[prost(string, tag = "2")] stat_prefix: String,
        #[prost(message, optional, tag = "3")] rds: Option<Rds>,
        #[prost(message, repeated, tag = "5")] http_filters: Vec<HttpFilter>,
        #[prost(message, repeated, tag = "13")] access_log: Vec<AccessLog>,
        #[prost(message, optional, tag = "14")] use_remote_address: Option<bool>,
        #[prost(int32, tag = "34")] server_header_transformation: i32,
        #[prost(message, optional, tag = "41")] request_headers_timeout: Option<Duration>,
    }
    /// The route configuration of a listener, by name.
    Rds {
        #[prost(message, optional, tag = "1")] config_source: Option<ConfigSource>,
        #[prost(string, tag = "2")] route_config_name: String,
    }
    /// An HTTP filter.
    HttpFilter {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "4")] typed_config: Option<Any>,
    }
    /// The filter that forwards.
    Router {
        #[prost(bool, tag = "4")] suppress_envoy_headers: bool,
    }
}

/// `HttpConnectionManager.ServerHeaderTransformation.PASS_THROUGH`
pub const PASS_THROUGH: i32 = 2;

// envoy.config.accesslog.v3, envoy.extensions.access_loggers.stats.v3
messages! {
    /// What is logged of the requests that pass a filter.
    AccessLog {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "2")] filter: Option<AccessLogFilter>,
        #[prost(message, optional, tag = "4")] typed_config: Option<Any>,
    }
    /// Which requests are logged; one of the three.
    AccessLogFilter {
        #[prost(message, optional, tag = "1")] status_code_filter: Option<StatusCodeFilter>,
        #[prost(message, optional, tag = "6")] and_filter: Option<AndFilter>,
        #[prost(message, optional, tag = "9")] response_flag_filter: Option<ResponseFlagFilter>,
    }
    /// Requests that pass all of these.
    AndFilter {
        #[prost(message, repeated, tag = "1")] filters: Vec<AccessLogFilter>,
    }
    /// Requests that Envoy gives one of these flags.
    ResponseFlagFilter {
        #[prost(string, repeated, tag = "1")] flags: Vec<String>,
    }
    /// Requests by their status code.
    StatusCodeFilter {
        #[prost(message, optional, tag = "1")] comparison: Option<ComparisonFilter>,
    }
    /// A comparison with a number.
    ComparisonFilter {
        #[prost(int32, tag = "1")] op: i32,
        #[prost(message, optional, tag = "2")] value: Option<RuntimeUInt32>,
    }
    /// A number that Envoy's runtime may override; Serin configures no runtime.
    RuntimeUInt32 {
        #[prost(uint32, tag = "2")] default_value: u32,
        #[prost(string, tag = "3")] runtime_key: String,
    }
    /// An access logger that counts.
    StatsLogger {
        #[prost(message, repeated, tag = "4")] counters: Vec<StatsCounter>,
        #[prost(message, optional, tag = "6")] stats_scope: Option<StatsScope>,
    }
    /// What the names of counters begin with.
    StatsScope {
        #[prost(string, tag = "5")] prefix: String,
    }
    /// A counter and what each request adds to it.
    StatsCounter {
        #[prost(message, optional, tag = "1")] stat: Option<Stat>,
        #[prost(message, optional, tag = "3")] value_fixed: Option<u64>,
    }
    /// The name of a counter, and its labels.
    Stat {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, repeated, tag = "2")] tags: Vec<StatTag>,
    }
    /// A label, of which the value is a format string of Envoy's access logs.
    StatTag {
        #[prost(string, tag = "1")] name: String,
        #[prost(string, tag = "2")] value_format: String,
    }
}

/// `ComparisonFilter.Op.LE`
pub const AT_MOST: i32 = 2;
/// `ComparisonFilter.Op.NE`
pub const OTHER_THAN: i32 = 3;

// envoy.config.route.v3
messages! {
    /// The routes of a listener.
    RouteConfiguration {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, repeated, tag = "2")] virtual_hosts: Vec<VirtualHost>,
    }
    /// The routes of a set of host names; Serin uses `*`.
    VirtualHost {
        #[prost(string, tag = "1")] name: String,
        #[prost(string, repeated, tag = "2")] domains: Vec<String>,
        #[prost(message, repeated, tag = "3")] routes: Vec<Route>,
    }
    /// What is done with the requests that match; one of `route` and `direct_response`.
    Route {
        #[prost(message, optional, tag = "1")] r#match: Option<RouteMatch>,
        #[prost(message, optional, tag = "2")] route: Option<RouteAction>,
        #[prost(message, optional, tag = "7")] direct_response: Option<DirectResponseAction>,
        #[prost(message, repeated, tag = "10")] response_headers_to_add: Vec<HeaderValueOption>,
    }
    /// A header that is added.
    HeaderValueOption {
        #[prost(message, optional, tag = "1")] header: Option<HeaderValue>,
    }
    /// A header.
    HeaderValue {
        #[prost(string, tag = "1")] key: String,
        #[prost(string, tag = "2")] value: String,
    }
    /// Which requests.
    RouteMatch {
        #[prost(string, optional, tag = "1")] prefix: Option<String>,
    }
    /// Forwarding.
    RouteAction {
        #[prost(message, optional, tag = "3")] weighted_clusters: Option<WeightedCluster>,
        #[prost(message, optional, tag = "8")] timeout: Option<Duration>,
        #[prost(message, optional, tag = "9")] retry_policy: Option<RetryPolicy>,
        #[prost(message, optional, tag = "24")] idle_timeout: Option<Duration>,
    }
    /// Clusters that share the requests by weight.
    WeightedCluster {
        #[prost(message, repeated, tag = "1")] clusters: Vec<ClusterWeight>,
    }
    /// The share of one cluster.
    ClusterWeight {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "2")] weight: Option<u32>,
    }
    /// When a request is sent again.
    RetryPolicy {
        #[prost(string, tag = "1")] retry_on: String,
        #[prost(message, optional, tag = "2")] num_retries: Option<u32>,
        #[prost(message, repeated, tag = "5")] retry_host_predicate: Vec<RetryHostPredicate>,
        #[prost(int64, tag = "6")] host_selection_retry_max_attempts: i64,
        #[prost(message, optional, tag = "8")] retry_back_off: Option<RetryBackOff>,
    }
    /// Which host not to try again.
    RetryHostPredicate {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "3")] typed_config: Option<Any>,
    }
    /// The time between tries.
    RetryBackOff {
        #[prost(message, optional, tag = "1")] base_interval: Option<Duration>,
        #[prost(message, optional, tag = "2")] max_interval: Option<Duration>,
    }
    /// "Not a host that was tried before."
    PreviousHostsPredicate {}
    /// An answer of the router's own.
    DirectResponseAction {
        #[prost(uint32, tag = "1")] status: u32,
        #[prost(message, optional, tag = "2")] body: Option<DataSource>,
    }
}
