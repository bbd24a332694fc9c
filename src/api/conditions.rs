//! Types and reasons of conditions and events. They are defined once, so that each has one
//! spelling.

/// Condition types. `Ready`, `Reconciling` and `Stalled` are those of kstatus.
pub mod types {
    /// The spec's version serves all traffic.
    pub const READY: &str = "Ready";
    /// Some version serves, and routers can reach a pod of it.
    pub const AVAILABLE: &str = "Available";
    /// Serin is working towards the spec.
    pub const RECONCILING: &str = "Reconciling";
    /// A router refuses this model's configuration. Absent while none does.
    pub const ROUTER_REFUSED: &str = "RouterRefused";
    /// Serin cannot reach the spec until a person changes something.
    pub const STALLED: &str = "Stalled";
}

/// Reasons of conditions, and of the events about the same change.
pub mod reasons {
    /// The spec's version serves all traffic.
    pub const PROMOTED: &str = "Promoted";
    /// The first version is being started.
    pub const FIRST_VERSION: &str = "FirstVersionStarting";
    /// A new version's pods are being started.
    pub const PREPARING: &str = "PreparingVersion";
    /// A new version got its first weight.
    pub const CANARY_STARTED: &str = "CanaryStarted";
    /// A new version got its next weight.
    pub const STEP_ADVANCED: &str = "StepAdvanced";
    /// The evidence is being gathered at the current weight.
    pub const GATHERING_EVIDENCE: &str = "GatheringEvidence";
    /// `spec.rollout.paused` holds the weight.
    pub const PAUSED: &str = "Paused";
    /// `spec.rollout.paused` holds the weight no longer.
    pub const RESUMED: &str = "Resumed";
    /// The evidence passes, and the step's `pause` holds the weight, until a time or a person ends
    /// it.
    pub const STEP_PAUSED: &str = "StepPaused";
    /// A person has to approve the next move: the evidence passes, or
    /// `onInsufficientData.then: AwaitApproval` leaves a step without proof to a person.
    pub const AWAITING_APPROVAL: &str = "AwaitingApproval";
    /// A person agreed.
    pub const APPROVED: &str = "Approved";
    /// The evidence fails, and `onFailure: Hold` (or the objective's `then: Hold`) leaves the
    /// decision to a person.
    pub const FAILURE_HELD: &str = "FailureHeld";
    /// A person ended the rollout; the version is refused.
    pub const ABORTED: &str = "Aborted";
    /// The steps were edited, and the version's weight with them.
    pub const STEPS_CHANGED: &str = "StepsChanged";
    /// The step lacks evidence, and the policy is to wait.
    pub const INSUFFICIENT_DATA: &str = "InsufficientData";
    /// An objective cannot be measured, so the new version gets no traffic.
    pub const NOT_MEASURABLE: &str = "NotMeasurable";
    /// The metrics cannot be trusted; nothing moves.
    pub const METRICS_OUTAGE: &str = "MetricsOutage";
    /// The metrics can be trusted again.
    pub const METRICS_BACK: &str = "MetricsBack";
    /// A version that was promoted before, within `spec.rollout.rollbackWindow`, gets all traffic
    /// once its pods are Ready.
    pub const FAST_ROLLBACK_STARTED: &str = "FastRollbackStarted";
    /// A version that was promoted before has all traffic again, without steps.
    pub const FAST_ROLLBACK: &str = "FastRollback";
    /// `spec.replicas` is 0: no version has pods.
    pub const ASLEEP: &str = "Asleep";
    /// `spec.replicas` is no longer 0, and the stable version's pods are being started.
    pub const WAKING: &str = "WakingUp";
    /// The new version was rolled back.
    pub const ROLLED_BACK: &str = "RolledBack";
    /// A newer spec replaced the version under trial.
    pub const SUPERSEDED: &str = "Superseded";
    /// A problem of the platform ended a trial. The version is not refused, and is tried again.
    pub const PLATFORM_TROUBLE: &str = "PlatformTrouble";
    /// The spec asks for a version that was rolled back before.
    pub const REFUSED: &str = "VersionRefused";
    /// The spec cannot be used; the serving version is untouched.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// A command annotation cannot be read and is ignored.
    pub const COMMAND_IGNORED: &str = "CommandIgnored";
    /// A name that Serin needs belongs to an object that Serin does not own.
    pub const NAME_TAKEN: &str = "NameTaken";
    /// A name that Serin needs belongs to an object of an earlier ModelDeployment of this name,
    /// which is being deleted.
    pub const AWAITING_DELETION: &str = "AwaitingDeletion";
    /// The status was lost, and the version in force was found again in the history.
    pub const RESTORED: &str = "StatusRestored";
    /// A ResourceQuota leaves no room for an object.
    pub const QUOTA_EXCEEDED: &str = "QuotaExceeded";
    /// An admission webhook or policy denies an object.
    pub const ADMISSION_DENIED: &str = "AdmissionDenied";
    /// The API server finds an object invalid.
    pub const OBJECT_INVALID: &str = "ObjectInvalid";
    /// The operator may not write an object.
    pub const FORBIDDEN: &str = "Forbidden";
    /// The API server refuses an object, or does not answer, several times in a row.
    pub const WRITE_REFUSED: &str = "WriteRefused";
    /// No router is Ready, so nothing answers at the model's address.
    pub const NO_ROUTER: &str = "NoRouterReady";
    /// The model's address does not take connections yet, or not at each router.
    pub const NOT_ANSWERING: &str = "AddressNotAnswering";
    /// No pod of the serving version can be reached.
    pub const NO_ENDPOINT: &str = "NoEndpoint";
    /// A router refuses its configuration: its port is in use, for example.
    pub const ROUTER_REFUSED: &str = "RouterRefused";
    /// All pods of the serving version are ready.
    pub const ALL_READY: &str = "AllPodsReady";
    /// Some pods of the serving version are not ready.
    pub const NOT_ALL_READY: &str = "NotAllPodsReady";
}
