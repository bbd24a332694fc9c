//! What the user declares.

use std::time::Duration as StdDuration;

use k8s_openapi::api::core::v1::{EnvVar, LocalObjectReference, ResourceRequirements, Toleration};
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{Percent, status::ModelDeploymentStatus};

/// One model, served under one stable Service name, rolled from version to version on evidence.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "serin.dev",
    version = "v1alpha1",
    kind = "ModelDeployment",
    plural = "modeldeployments",
    shortname = "mdep",
    category = "serin",
    namespaced,
    status = "ModelDeploymentStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Stable", type_ = "string", json_path = ".status.stable.version"),
    printcolumn(name = "Canary", type_ = "string", json_path = ".status.canary.version"),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".status.canary.weight"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Message", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 48 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name: at most 48 characters, a DNS label that starts with a letter, since `<name>-<revision>` names a Service")
)]
#[serde(rename_all = "camelCase")]
pub struct ModelDeploymentSpec {
    /// The model artefact. A change of it is a new version and starts a rollout.
    pub model: Model,

    /// How the model is served. A change of it is a new version and starts a rollout.
    #[serde(default)]
    pub serving: Serving,

    /// Pods of the serving version; a canary runs as many, so that it can take all traffic and give it all back.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: i32,

    /// How traffic reaches the versions.
    #[serde(default)]
    pub traffic: Traffic,

    /// What a new version must hold to be promoted. Each is judged by a gate of its own.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(validation = Rule::new("self.filter(o, has(o.errorRate)).size() <= 1").message("spec.objectives: errorRate is declared twice; keep one"))]
    #[x_kube(validation = Rule::new("self.filter(a, has(a.latency)).all(a, self.filter(b, has(b.latency) && b.latency.quantile == a.latency.quantile).size() == 1)")
        .message("spec.objectives: a latency quantile is declared twice; keep one"))]
    pub objectives: Vec<Objective>,

    /// How a new version is rolled out.
    #[serde(default)]
    pub rollout: Rollout,

    /// Old versions that are kept (scaled to zero) for going back to, besides those in use.
    #[serde(default = "ten")]
    #[schemars(range(min = 0, max = 100))]
    pub revision_history_limit: i32,
}

/// A model artefact, pinned.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// Where the artefact is. `pvc://CLAIM/PATH`: a directory on a PersistentVolumeClaim of the same namespace.
    /// `file:///PATH`: a directory inside the serving image (only where the operator allows the scheme).
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^(pvc://[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[^/]|file:///[^/])') && !self.contains('..')")
        .message("spec.model.uri: expected pvc://CLAIM/PATH or file:///PATH, without `..`"))]
    pub uri: String,

    /// The version, said in every answer and metric. Explicit: names that move (`latest`, `main` and the like) are refused.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
    )]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['latest','main','master','head','dev','nightly','stable','current','newest'])")
        .message("spec.model.version: name one fixed version such as 2.3.1, not a name that moves"))]
    pub version: String,

    /// `sha256:` and 64 hex digits of the artefact's manifest, which holds the digests of all its files. Verified before a pod is Ready.
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: String,
}

/// How pods serve the model. All of it belongs to the version.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Serving {
    /// The inference server's image, by tag or digest; the operator's bundled one where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.contains('@sha256:') || (self.matches(':[^/:]+$') && !self.endsWith(':latest'))")
        .message("spec.serving.image: name a tag other than `latest`, or a digest"))]
    pub image: Option<String>,

    /// When the kubelet pulls the image. Kubernetes' default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^(Always|IfNotPresent|Never)$"))]
    pub image_pull_policy: Option<String>,

    /// Secrets of this namespace with credentials for the image's registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Arguments after those that Serin gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub args: Vec<String>,

    /// Environment; a value may come from a Secret of this namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub env: Vec<EnvVar>,

    /// Resources of one pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Port on which the container answers HTTP; 8080 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,

    /// Path that answers 200 once the model is loaded, verified and warm; `/readyz` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/"))]
    pub readiness_path: Option<String>,

    /// Path that answers 200 while the process lives; `/livez` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/"))]
    pub liveness_path: Option<String>,

    /// ServiceAccount of the pods; the namespace's default where absent. Its token is never mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,

    /// Nodes that the pods may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
}

/// The traffic router, and where the evidence about traffic is read.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// The bundled Envoy router.
    #[serde(default)]
    pub envoy: EnvoyTraffic,

    /// Whose counters are judged: the router's (`Envoy`: sees what clients see) or the serving pods' own (`Serving`).
    #[serde(default)]
    pub evidence: EvidenceSource,
}

/// Settings of the bundled Envoy router.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.timeout) > duration('0s')")
    .message("spec.traffic.envoy.timeout: expected a duration above zero, such as 60s"))]
pub struct EnvoyTraffic {
    /// Longest time that one request may take before the router answers 504.
    #[serde(default = "default_timeout")]
    #[schemars(schema_with = "duration_schema")]
    pub timeout: Duration,
}

impl Default for EnvoyTraffic {
    fn default() -> Self {
        Self {
            timeout: default_timeout(),
        }
    }
}

/// Whose counters the gates read.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EvidenceSource {
    /// The bundled router's, one Envoy cluster a version.
    #[default]
    Envoy,
    /// The serving pods' own `model_requests_total` and `model_request_duration_seconds`.
    Serving,
}

/// One thing that a new version must hold. Exactly one member is set.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.latency) ? 1 : 0) + (has(self.errorRate) ? 1 : 0) == 1")
    .message("spec.objectives: each entry sets exactly one of latency and errorRate"))]
pub struct Objective {
    /// A quantile of latency stays at or below a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyObjective>,

    /// The share of answers 5xx stays at or below a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<ErrorRateObjective>,
}

/// "The `quantile` of latency is at most `max`", judged as "at most 1 − quantile of requests are slower than `max`".
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.quantile > 0.0 && self.quantile < 1.0")
    .message("spec.objectives[].latency.quantile: expected a number between 0 and 1 (both excluded), such as 0.99"))]
#[x_kube(validation = Rule::new("duration(self.max) > duration('0s')")
    .message("spec.objectives[].latency.max: expected a duration above zero, such as 250ms"))]
pub struct LatencyObjective {
    /// The quantile, between 0 and 1 (both excluded).
    pub quantile: f64,
    /// The limit. Snapped down to an edge of the latency histogram, which status then says.
    #[schemars(schema_with = "duration_schema")]
    pub max: Duration,
}

/// "At most `max` of answers are 5xx."
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.max.matches('[1-9]') && !self.max.startsWith('100')")
    .message("spec.objectives[].errorRate.max: above 0% and below 100%; an objective of 0% could never be shown to hold"))]
pub struct ErrorRateObjective {
    /// The limit, above 0% and below 100%.
    pub max: Percent,
}

/// The way from a new version's first request to all of them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Weights that the new version gets one after the other; ascending, the last one 100.
    #[serde(default = "default_steps")]
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("self[size(self) - 1].weight == 100")
        .message("spec.rollout.steps: the last step's weight must be 100"))]
    #[x_kube(validation = Rule::new("self.all(a, self.filter(b, b.weight == a.weight).size() == 1) && self.map(s, s.weight).isSorted()")
        .message("spec.rollout.steps: weights must ascend"))]
    pub steps: Vec<Step>,

    /// While true the weight is not raised; a breach still rolls back.
    #[serde(default)]
    pub paused: bool,

    /// What happens when the metrics cannot be read. Never a promotion.
    #[serde(default)]
    pub on_metrics_outage: OutagePolicy,

    /// What happens when a step has too little traffic to prove anything.
    #[serde(default)]
    pub on_insufficient_data: InsufficientDataPolicy,

    /// Time that a new version has to become Ready before it is rolled back.
    #[serde(default = "fifteen_minutes")]
    #[schemars(schema_with = "duration_schema")]
    pub progress_deadline: Duration,

    /// Time that a version keeps its pods after its last request, so that the way back stays warm.
    #[serde(default = "thirty_seconds")]
    #[schemars(schema_with = "duration_schema")]
    pub scale_down_delay: Duration,

    /// A version that was rolled back is tried again only after this value has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub retry_token: Option<String>,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            steps: default_steps(),
            paused: false,
            on_metrics_outage: OutagePolicy::default(),
            on_insufficient_data: InsufficientDataPolicy::default(),
            progress_deadline: fifteen_minutes(),
            scale_down_delay: thirty_seconds(),
            retry_token: None,
        }
    }
}

/// One stop on the way to 100 %.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Share of traffic for the new version, in percent.
    #[schemars(range(min = 1, max = 100))]
    pub weight: u8,

    /// Shortest time with readable metrics before the next step.
    #[serde(default = "five_minutes")]
    #[schemars(schema_with = "duration_schema")]
    pub min_duration: Duration,

    /// Fewest requests that the new version must have answered in this step before the next.
    #[serde(default = "twenty")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min_requests: i64,
}

/// What happens while metrics are unreachable, stale or ambiguous.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OutagePolicy {
    /// Time during which nothing moves.
    #[serde(default = "ten_minutes")]
    #[schemars(schema_with = "duration_schema")]
    pub hold: Duration,
    /// What follows: `Rollback` puts all traffic back on the stable version, `Pause` goes on holding.
    #[serde(default = "rollback")]
    #[schemars(schema_with = "outage_schema")]
    pub then: AfterPatience,
}

impl Default for OutagePolicy {
    fn default() -> Self {
        Self {
            hold: ten_minutes(),
            then: AfterPatience::Rollback,
        }
    }
}

/// What happens when a step stays without enough evidence.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InsufficientDataPolicy {
    /// Time in one step after which the policy applies.
    #[serde(default = "thirty_minutes")]
    #[schemars(schema_with = "duration_schema")]
    pub after: Duration,
    /// `Pause` goes on waiting, `Advance` takes the next step unless the version is suspect, `Rollback` gives up.
    #[serde(default)]
    pub then: AfterPatience,
}

impl Default for InsufficientDataPolicy {
    fn default() -> Self {
        Self {
            after: thirty_minutes(),
            then: AfterPatience::Pause,
        }
    }
}

/// What follows when patience has run out.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterPatience {
    /// Hold the weight, and say so.
    #[default]
    Pause,
    /// Put all traffic back on the stable version.
    Rollback,
    /// Take the next step although the proof is not complete. Never applies to a suspect version or to an outage.
    Advance,
}

impl Objective {
    /// The name under which status and events speak of this objective, such as `errorRate` or `latency-p99`.
    pub fn name(&self) -> String {
        match &self.latency {
            Some(latency) => format!("latency-p{}", trimmed(latency.quantile * 100.0)),
            None => "errorRate".to_owned(),
        }
    }
}

/// A number without needless zeros: `99`, `99.9`.
fn trimmed(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn default_steps() -> Vec<Step> {
    [10, 25, 50, 100]
        .map(|weight| Step {
            weight,
            min_duration: five_minutes(),
            min_requests: twenty(),
        })
        .to_vec()
}

/// Go's duration format without signs and with so few digits that no sum of it can overflow.
fn duration_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": r"^([0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h))+$", "maxLength": 32})
}

/// An outage may hold or roll back, never advance.
fn outage_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Pause", "Rollback"]})
}

fn one() -> i32 {
    1
}
fn ten() -> i32 {
    10
}
fn twenty() -> i64 {
    20
}
fn rollback() -> AfterPatience {
    AfterPatience::Rollback
}
fn minutes(count: u64) -> Duration {
    StdDuration::from_secs(60 * count).into()
}
fn default_timeout() -> Duration {
    minutes(1)
}
fn five_minutes() -> Duration {
    minutes(5)
}
fn ten_minutes() -> Duration {
    minutes(10)
}
fn fifteen_minutes() -> Duration {
    minutes(15)
}
fn thirty_minutes() -> Duration {
    minutes(30)
}
fn thirty_seconds() -> Duration {
    StdDuration::from_secs(30).into()
}
