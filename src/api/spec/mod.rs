//! What the user declares.

use std::time::Duration as StdDuration;

use kube::{CustomResource, KubeSchema, ResourceExt};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{duration::Duration, status::ModelDeploymentStatus};

mod evidence_source;
mod in_force;
mod objective;
mod objective_gates;
mod pods;
mod rollout;
mod service;
pub mod template;

use template::{PodTemplate, remedies};

pub use evidence_source::{
    CustomEvidence, CustomLatency, CustomRequests, CustomVersion, EvidenceSource, LatencyUnit,
};
pub use objective::{
    ErrorRateObjective, LatencyMargin, LatencyObjective, NoWorseThanStableObjective, Objective,
    PredictionDriftObjective, QueryObjective,
};
pub use objective_gates::{Gate, GateKind};
pub use rollout::{
    Approval, InsufficientDataPolicy, OnDeadline, OnFailure, OutagePolicy, Pause, RollbackWindow,
    Rollout, StartAt, Step,
};
pub use service::{ModelService, ModelServicePort};

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
    doc = "A model that is served under one stable Service name and rolled from version to version \
        on evidence.",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready"),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Available\")].status"
    ),
    printcolumn(name = "Stable", type_ = "string", json_path = ".status.stable.version"),
    printcolumn(name = "Canary", type_ = "string", json_path = ".status.canary.version"),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".status.canary.weight"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].message"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 48 && \
        self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name: at most 48 characters, a DNS label that starts with a letter, \
            since `<name>-<revision>` names a Service"),
    validation = Rule::new("!has(self.spec.service) || !has(self.spec.service.name) || \
        size(self.spec.service.name) != size(self.metadata.name) + 9 || \
        !self.spec.service.name.startsWith(self.metadata.name + '-') || \
        !self.spec.service.name.matches('-[0-9a-f]{8}$')")
        .message("spec.service.name: `<name>-<8 hex digits>` is the name of a version's Service; \
            choose another"),
    validation = Rule::new("has(self.spec.model) || (has(self.spec.serving) && \
        has(self.spec.serving.image) && self.spec.serving.image.contains('@sha256:'))")
        .message("spec.model: name a model, or an image that holds one, pinned by its digest: \
            spec.serving.image: HOST/REPOSITORY:TAG@sha256:…")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.rollout) || !has(self.rollout.rollbackWindow) || \
    !has(self.rollout.rollbackWindow.revisions) || self.rollout.rollbackWindow.revisions <= \
    (has(self.revisionHistoryLimit) ? self.revisionHistoryLimit : 10)")
    .message("spec.rollout.rollbackWindow.revisions: spec.revisionHistoryLimit keeps fewer \
        versions; lower it, or raise the limit"))]
pub struct ModelDeploymentSpec {
    /// The model artefact. A change of it is a new version and starts a rollout. May be absent
    /// where `serving.image` holds the model and is pinned by `@sha256:`; the version is then named
    /// by the image's tag, or else by the first 12 hex digits of its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelArtefact>,

    /// How the model is served. A change of it is a new version and starts a rollout.
    #[serde(default)]
    pub serving: Serving,

    /// Pods of the serving version. A canary runs as many, so that either version can take all
    /// traffic. A higher number takes effect at once, a lower one when no rollout is under way and
    /// the previous version is gone. At 0 the model is asleep: no version has pods, no rollout
    /// proceeds, and the address answers 503 with `Retry-After`.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,

    /// The Service under which clients call the model.
    #[serde(default)]
    pub service: ModelService,

    /// The router that moves traffic: at most one of `envoy`. The bundled Envoy with its defaults
    /// where absent.
    #[serde(default)]
    pub traffic: Traffic,

    /// The objectives that a new version must meet to be promoted, 1 to 8. Each has a name, sets
    /// exactly one of `latency`, `errorRate`, `noWorseThanStable`, `predictionDrift` and `query`,
    /// and is judged by a gate of its own.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    #[x_kube(validation = Rule::new("self.all(a, self.filter(b, b.name == a.name).size() == 1)")
        .message("spec.objectives: two objectives have the same name; rename one"))]
    #[x_kube(validation = Rule::new("self.all(a, !has(a.noWorseThanStable) || \
        !has(a.noWorseThanStable.latency) || !has(a.noWorseThanStable.errorRate) || \
        !self.exists(b, b.name == a.name + '-latency' || b.name == a.name + '-error-rate'))")
        .message("spec.objectives: a name is that of a gate of noWorseThanStable (NAME-latency, \
            NAME-error-rate); rename one"))]
    #[x_kube(validation = Rule::new("self.filter(a, has(a.errorRate) && !has(a.custom)).all(a, \
        self.filter(b, has(b.errorRate) && !has(b.custom) && (has(b.source) ? b.source : 'Envoy') \
        == (has(a.source) ? a.source : 'Envoy')).size() == 1)")
        .message("spec.objectives: errorRate is declared twice for one source; keep one"))]
    #[x_kube(validation = Rule::new("self.filter(a, has(a.latency) && !has(a.custom)).all(a, \
        self.filter(b, has(b.latency) && !has(b.custom) && b.latency.quantile == \
        a.latency.quantile && (has(b.source) ? b.source : 'Envoy') == (has(a.source) ? a.source : \
        'Envoy')).size() == 1)")
        .message("spec.objectives: a latency quantile is declared twice for one source; keep \
            one"))]
    #[x_kube(validation = Rule::new("self.filter(o, has(o.predictionDrift)).size() <= 1")
        .message("spec.objectives: predictionDrift is declared twice; keep one"))]
    pub objectives: Vec<Objective>,

    /// How a new version is rolled out.
    #[serde(default)]
    pub rollout: Rollout,

    /// Old versions that are kept, scaled to zero, for `kubectl serin undo`; versions in use are
    /// not counted.
    #[serde(default = "ten")]
    #[schemars(range(min = 0, max = 100))]
    pub revision_history_limit: i32,
}

impl ModelDeploymentSpec {
    /// Whether no version is to have pods.
    pub fn is_asleep(&self) -> bool {
        self.replicas == 0
    }

    /// Returns how long a version that another one replaced keeps its pods: as long as
    /// `spec.rollout.scaleDownDelay` says, and never less than its longest request.
    pub fn scale_down_delay(&self) -> Duration {
        self.rollout.scale_down_delay.max(self.longest_request())
    }

    /// Returns the longest time that a request may take: a version that lost its weight keeps its
    /// pods for as long.
    pub fn longest_request(&self) -> Duration {
        self.traffic.envoy.unwrap_or_default().timeout
    }

    /// Returns the pods of a version that must be Ready for a forward move
    /// (`spec.rollout.minReady`).
    pub fn pods_needed(&self) -> i32 {
        let needed = f64::from(self.replicas) * self.rollout.min_ready.share();
        ((needed - 1e-9).ceil() as i32).max(1) // 7 % of 100 is 7.000000000000001
    }
}

impl ModelDeployment {
    /// Namespace and name, the key of a model in all of the operator's maps.
    pub fn key(&self) -> (String, String) {
        (self.namespace().unwrap_or_default(), self.name_any())
    }

    /// The name of the Service under which clients call the model.
    pub fn service_name(&self) -> String {
        let declared = self.spec.service.name.clone();
        declared.unwrap_or_else(|| self.name_any())
    }
}

/// A model artefact, pinned.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.credentials) || !(self.uri.startsWith('pvc://') || \
    self.uri.startsWith('file://'))")
    .message("spec.model.credentials: pvc:// and file:// are not fetched and take none; \
        remove it"))]
#[x_kube(validation = Rule::new("has(self.digest) || self.uri.startsWith('pvc://') || \
    self.uri.startsWith('file://') || (self.uri.startsWith('oci://') && \
    self.uri.contains('@sha256:'))")
    .message("spec.model.digest: needed for what is fetched, unless the URI is pinned: \
        oci://HOST/REPOSITORY@sha256:…"))]
pub struct ModelArtefact {
    /// Where the artefact is. `pvc://CLAIM/PATH`: a directory on a PersistentVolumeClaim of the
    /// same namespace, mounted as it is. `oci://HOST/REPOSITORY:TAG` (an artefact, or an image with
    /// the model below `/models`; `@sha256:…` beside or instead of the tag pins it),
    /// `s3://BUCKET/PREFIX`, `https://HOST/PATH`, `hf://OWNER/REPOSITORY@REVISION` or `:REVISION`:
    /// fetched into the pod by an init container and verified by digest. `file:///PATH`: a
    /// directory inside the serving image, for development. The operator's settings decide which
    /// schemes and hosts are allowed.
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^(pvc://[a-z0-9]([-a-z0-9]*[a-z0-9])\
        ?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[^/]|file:///[^/]|oci://[-.A-Za-z0-9]+(:[0-9]+)?/\
        [-._a-z0-9]+(/[-._a-z0-9]+)*(:[-._A-Za-z0-9]+|(:[-._A-Za-z0-9]+)?@sha256:[0-9a-f]{64})$|\
        s3://[-._A-Za-z0-9]+/[^/?#][^?#]*$|https?://[^/@?#]+/[^?#]+$|hf://[-._A-Za-z0-9]+/\
        [-._A-Za-z0-9]+[@:][-._A-Za-z0-9]+(/[^?#]*)?$)') && !self.contains('..')")
        .message("spec.model.uri: expected pvc://CLAIM/PATH, oci://HOST/REPOSITORY:TAG, \
            s3://BUCKET/PREFIX, https://HOST/PATH, hf://OWNER/REPOSITORY@REVISION or file:///PATH, \
            without `..`, user, query or fragment"))]
    pub uri: String,

    /// The version, which every answer and metric carries. Names that move, such as `latest` or
    /// `main`, are refused.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$')")
        .message("spec.model.version: 1 to 63 letters, digits, dots, dashes and underscores, \
            starting and ending with a letter or digit"))]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in \
        ['latest','main','master','head','dev','nightly','stable','current','newest'])")
        .message("spec.model.version: name one fixed version such as 2.3.1, not a name \
            that moves"))]
    pub version: String,

    /// A Secret of this namespace with credentials for a source that is fetched; where absent, the
    /// source needs none. Its keys: `.dockerconfigjson`, or `username` and `password`, or `token`,
    /// or `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (also `AWS_SESSION_TOKEN`, `AWS_REGION`,
    /// `AWS_ENDPOINT_URL_S3`); and `ca.crt` for a private certificate authority. Only the init
    /// container sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pods::credentials")]
    pub credentials: Option<String>,

    /// `sha256:` and 64 hex digits of the artefact's own manifest, `serin-model.json`, which holds
    /// the digests of all its files. Verified before a pod is Ready. Needed for what is fetched,
    /// unless an `oci://` URI is pinned by the registry's digest. Where absent, `status.verified`
    /// says what was verified instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    #[x_kube(validation = Rule::new("self.matches('^sha256:[0-9a-f]{64}$')")
        .message("spec.model.digest: expected sha256: and 64 hex digits in lower case"))]
    pub digest: Option<String>,
}

/// How pods serve the model. All of it belongs to the version.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(template::bundled_ports()).message(remedies::PORTS))]
#[x_kube(validation = Rule::new(template::bundled_probes()).message(remedies::PROBES))]
#[x_kube(validation = Rule::new(template::bundled_variables()).message(remedies::VARIABLES))]
pub struct Serving {
    /// The inference server's image, by tag or digest; the operator's bundled image where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.contains('@') || (self.matches(':[^/:]+$') && \
        !self.endsWith(':latest'))")
        .message("spec.serving.image: name a tag other than `latest`, or a digest"))]
    #[x_kube(validation = Rule::new("self.matches('^([a-zA-Z0-9]([-.a-zA-Z0-9]*[a-zA-Z0-9])\
        ?(:[0-9]+)?/)?[a-z0-9]+([-._/]+[a-z0-9]+)*(:[A-Za-z0-9_][-.A-Za-z0-9_]{0,127})\
        ?(@sha256:[0-9a-f]{64})?$')")
        .message("spec.serving.image: expected [HOST[:PORT]/]REPOSITORY:TAG or @sha256: and 64 hex \
            digits, the repository in small letters"))]
    pub image: Option<String>,

    /// Port on which the container answers HTTP; 8080 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,

    /// Where the model is mounted, read-only, in the container `server`. `/mnt/models` for an image
    /// of one's own where absent; the bundled one finds its model by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^/[^:]+$') && !self.contains('..')")
        .message("spec.serving.modelMountPath: expected a path from the root on, such as \
            /mnt/models, without `:` and `..`"))]
    pub model_mount_path: Option<String>,

    /// A PodTemplateSpec, merged onto the pod that Serin makes by Kubernetes' strategic merge:
    /// containers, volumes and variables by name, ports by number, mounts by path. The container
    /// `server` serves the model; others run beside it. A field that Serin owns is refused by its
    /// name, and what is absent stays as Serin makes it. The API server checks the rest before a
    /// version begins; the status has its answer.
    #[serde(default, skip_serializing_if = "PodTemplate::is_empty")]
    #[schemars(schema_with = "template::schema")]
    pub template: PodTemplate,
}

impl Serving {
    /// Whether the bundled server serves: no image is named, or one of its repository.
    pub fn is_bundled(&self, bundled_image: &str) -> bool {
        let image = self.image.as_deref();
        image.is_none_or(|image| repository(image) == repository(bundled_image))
    }
}

impl Serving {
    /// Where the model's own files are mounted. `None` for the bundled image without a path: it
    /// gets the volume at `/models`, with the model in a folder of it.
    pub fn mount_path(&self, bundled_image: &str) -> Option<&str> {
        let own = (!self.is_bundled(bundled_image)).then_some(in_force::MOUNT_PATH);
        self.model_mount_path.as_deref().or(own)
    }
}

/// An image's name without tag and digest.
fn repository(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// The router that moves traffic: at most one member. The bundled one (`envoy`) where none is set.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
// Each router has a member here, and its `has` in this rule.
#[x_kube(validation = Rule::new("[has(self.envoy)].filter(named, named).size() <= 1")
    .message("spec.traffic: names more than one router; keep one"))]
pub struct Traffic {
    /// The bundled Envoy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envoy: Option<EnvoyTraffic>,
}

/// Settings of the bundled Envoy router.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EnvoyTraffic {
    /// Longest time that one request may take before the router answers 504.
    #[serde(default = "default_timeout")]
    #[schemars(schema_with = "positive_duration")]
    pub timeout: Duration,
}

impl Default for EnvoyTraffic {
    fn default() -> Self {
        Self {
            timeout: default_timeout(),
        }
    }
}

/// What a duration looks like, for error messages.
const DURATION_REMEDY: &str =
    "expected a duration of whole h, m, s or ms, such as 1h30m, 10m or 90s";
/// The same of a duration that must not be zero.
pub(in crate::api) const POSITIVE_REMEDY: &str =
    "expected a duration above zero, of whole h, m, s or ms, such as 250ms or 60s";
/// A duration as Gateway API has it (GEP-2257): no sign, no decimals, no days.
const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// The schema of a duration.
fn duration_schema(_: &mut SchemaGenerator) -> Schema {
    duration(&pods::matches(DURATION), DURATION_REMEDY)
}

/// The schema of a duration above zero.
fn positive_duration(_: &mut SchemaGenerator) -> Schema {
    let rule = format!("{} && self.matches('[1-9]')", pods::matches(DURATION));
    duration(&rule, POSITIVE_REMEDY)
}

fn duration(rule: &str, message: &str) -> Schema {
    json_schema!({
        "type": "string", "maxLength": 32,
        "x-kubernetes-validations": [{"rule": rule, "message": message}],
    })
}

fn one() -> i32 {
    1
}

fn ten() -> i32 {
    10
}

fn minutes(count: u64) -> Duration {
    StdDuration::from_secs(60 * count).into()
}

fn default_timeout() -> Duration {
    minutes(1)
}
