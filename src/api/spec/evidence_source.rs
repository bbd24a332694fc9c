//! Which counters an objective is judged by.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Whose counters judge `latency`, `errorRate` and `noWorseThanStable`; the bundled router's own
/// (`Envoy`) where absent, which count what clients see. The serving pods' own miss the requests to
/// a pod that cannot be reached. Each source is read under the metric names of the project that
/// exports it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EvidenceSource {
    /// The bundled router's own, one Envoy cluster a version.
    #[default]
    Envoy,
    /// The serving pods' own `model_requests_total` and `model_request_duration_seconds`.
    Serving,
    /// Istio: what the callers' sidecars and the gateways report of the workloads `NAME-REVISION`.
    Istio,
    /// Istio in ambient mode: what the waypoint reports of them.
    IstioAmbient,
    /// Linkerd: what the proxies beside the serving pods report.
    Linkerd,
    /// ingress-nginx: the Ingress that has the ModelDeployment's name, and its canary Ingress.
    IngressNginx,
    /// Traefik: the Services `NAME-REVISION`.
    Traefik,
    /// vLLM's own counters in the serving pods; latency is the time to the first token.
    #[serde(rename = "VLLM")]
    Vllm,
    /// Triton's own counters in the serving pods; latency is the time to the first response.
    Triton,
    /// The metrics named in the objective's `custom`.
    Custom,
}

impl EvidenceSource {
    /// Its name in a spec.
    pub fn name(self) -> &'static str {
        match self {
            Self::Envoy => "Envoy",
            Self::Serving => "Serving",
            Self::Istio => "Istio",
            Self::IstioAmbient => "IstioAmbient",
            Self::Linkerd => "Linkerd",
            Self::IngressNginx => "IngressNginx",
            Self::Traefik => "Traefik",
            Self::Vllm => "VLLM",
            Self::Triton => "Triton",
            Self::Custom => "Custom",
        }
    }
}

impl std::fmt::Display for EvidenceSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Metrics of your own. Prometheus must keep the target label `namespace`: only series of the
/// ModelDeployment's own namespace are read.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.requests) || has(self.latency)")
    .message("spec.objectives[].custom: name requests, latency or both"))]
pub struct CustomEvidence {
    /// The counter of answers; needed for `errorRate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<CustomRequests>,

    /// The histogram of durations; needed for `latency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<CustomLatency>,

    /// The label that separates the two versions' series; where absent, the pods that export them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<CustomVersion>,

    /// Further labels that the series must have, with their values; none where absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels_schema")]
    pub labels: BTreeMap<String, String>,
}

/// A counter of answers, with a label for the outcome.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CustomRequests {
    /// The counter's name, such as `http_requests_total`.
    #[schemars(length(max = 200))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z_:][a-zA-Z0-9_:]*$')")
        .message("expected the name of a metric: letters, digits, _ and :, no digit first"))]
    pub metric: String,
    /// The label that holds the outcome of a request, such as `code`.
    #[schemars(length(max = 100))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z_][a-zA-Z0-9_]*$')")
        .message("expected the name of a label: letters, digits and _, no digit first"))]
    pub label: String,
    /// The label's values for bad answers; a trailing `*` matches any ending. `5*` where absent.
    #[serde(default = "server_errors")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 64)))]
    pub bad: Vec<String>,
    /// The label's values for answers that do not count. `429`, which is shed load, where absent.
    #[serde(default = "shed_load")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(max = 32), inner(length(min = 1, max = 64)))]
    pub ignored: Vec<String>,
}

/// A histogram of durations.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!self.metric.endsWith('_bucket')")
    .message("spec.objectives[].custom.latency.metric: name the histogram without its ending \
        _bucket"))]
pub struct CustomLatency {
    /// The histogram's name without its ending `_bucket`, such as `http_request_duration_seconds`.
    #[schemars(length(max = 200))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z_:][a-zA-Z0-9_:]*$')")
        .message("expected the name of a metric: letters, digits, _ and :, no digit first"))]
    pub metric: String,
    /// The unit of its buckets; seconds where absent.
    #[serde(default)]
    pub unit: LatencyUnit,
}

/// A unit of time.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LatencyUnit {
    /// Seconds, as Prometheus advises.
    #[default]
    Seconds,
    /// Thousandths of a second.
    Milliseconds,
    /// Millionths of a second.
    Microseconds,
}

impl LatencyUnit {
    /// How many of the unit make a second.
    pub fn per_second(self) -> f64 {
        match self {
            Self::Seconds => 1.0,
            Self::Milliseconds => 1e3,
            Self::Microseconds => 1e6,
        }
    }
}

/// The label that names a series' version.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.value.contains('{{revision}}')")
    .message("spec.objectives[].custom.version.value: without {{revision}} the two versions \
        cannot be told apart"))]
pub struct CustomVersion {
    /// The label, such as `service`.
    #[schemars(length(max = 100))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z_][a-zA-Z0-9_]*$')")
        .message("expected the name of a label: letters, digits and _, no digit first"))]
    pub label: String,
    /// Its value for a version, in which `{{name}}`, `{{namespace}}` and `{{revision}}` are filled
    /// in: `{{name}}-{{revision}}` is the name of the version's Deployment and of its Service.
    #[schemars(length(min = 1, max = 200))]
    pub value: String,
}

fn labels_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 8,
        "additionalProperties": {"type": "string", "maxLength": 200},
        "x-kubernetes-validations": [{
            "rule": "self.all(l, l.matches('^[a-zA-Z_][a-zA-Z0-9_]*$') && !(l in \
                ['namespace', 'le']))",
            "message": "a label's name is letters, digits and _, and neither namespace nor le",
        }],
    })
}

fn server_errors() -> Vec<String> {
    vec!["5*".to_owned()]
}

fn shed_load() -> Vec<String> {
    vec!["429".to_owned()]
}
