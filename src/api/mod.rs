//! The custom resource `ModelDeployment`: spec, status, conditions, and the validation of the spec.

pub mod commands;
pub mod conditions;
mod crd;
mod decision;
mod duration;
mod kustomize;
pub mod percent;
pub mod promql;
pub mod spec;
pub mod status;
mod trial_memory;
pub mod validate;
pub mod variables;
mod verified;
pub mod version;

pub use commands::Commands;
pub use crd::{SCHEMA, SCHEMA_ANNOTATION, crd};
pub use decision::{DecisionRecord, ObjectiveRecord, Verdict, remember};
pub use duration::Duration;
pub use kustomize::kustomize_openapi;
pub use percent::Percent;
pub use spec::template::{FETCH, PodTemplate, SERVER};
pub use spec::{
    Approval, CustomEvidence, CustomLatency, CustomRequests, CustomVersion, EnvoyTraffic,
    ErrorRateObjective, EvidenceSource, Gate, GateKind, InsufficientDataPolicy, LatencyMargin,
    LatencyObjective, LatencyUnit, ModelArtefact, ModelDeployment, ModelDeploymentSpec,
    ModelService, ModelServicePort, NoWorseThanStableObjective, Objective, OnDeadline, OnFailure,
    OutagePolicy, Pause, PredictionDriftObjective, QueryObjective, RollbackWindow, Rollout,
    Serving, StartAt, Step, Traffic,
};
pub use status::{
    Approved, CanaryVersion, GateRecord, ModelDeploymentStatus, ObservedTime, Phase,
    PostponedVersion, Progress, RefusedVersion, RetiringVersion, State, UnmeasuredObjective,
    VersionRef,
};
pub use trial_memory::{GateMemory, TrialMemory};
pub use verified::{ImageVerification, ModelVerification, Verification, Verified};
pub use version::{Cache, Fetch, Revision, VersionSpec};

/// API group of every type in this module.
pub const GROUP: &str = "serin.dev";
/// Label that holds the name of the ModelDeployment an object was made for.
pub const MODEL_LABEL: &str = "serin.dev/model";
/// Label that holds the revision (8 hex digits) an object was made for.
pub const REVISION_LABEL: &str = "serin.dev/revision";
/// Label that says which operator made an object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Annotation of a Service by which its owner hands it over to the ModelDeployment that it names.
pub const ADOPT_ANNOTATION: &str = "serin.dev/adopt";
/// Value of [`MANAGED_BY_LABEL`], and the field manager of every object that Serin applies.
pub const MANAGER: &str = "serin";
