//! What every reconcile shares.

use std::{collections::HashMap, sync::Arc};

use kube::Client;
use kube_runtime::reflector::ObjectRef;
use parking_lot::Mutex;

use super::{
    apply::Applier, clock::Clock, events::Events, memories::TrialMemories, metrics::Metrics,
    recordings::Recordings,
};
use crate::{
    api::validate::Limits,
    k8s::Stores,
    observe::{DryRuns, EvidenceReader, History, ReconcileTracker},
    plan::PlatformDefaults,
    router::Registry,
};

/// What every reconcile shares.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The time.
    pub clock: Clock,
    /// Caches of what exists.
    pub stores: Stores,
    /// Settings of the operator that shape objects.
    pub defaults: PlatformDefaults,
    /// What the operator's settings allow in a spec.
    pub limits: Limits,
    /// Reads evidence from Prometheus.
    pub evidence: EvidenceReader,
    /// Applies plans.
    pub applier: Applier,
    /// ControllerRevisions of versions in use.
    pub history: History,
    /// Dry runs of the Deployments of new versions.
    pub dry_runs: DryRuns,
    /// Publishes decisions as Events.
    pub events: Events,
    /// When each model was reconciled.
    pub tracker: ReconcileTracker,
    /// What the gates of each trial remember.
    pub memories: TrialMemories,
    /// The operator's own metrics.
    pub metrics: Arc<Metrics>,
    /// The routers; one moves the traffic of each model.
    pub routers: Registry,
    /// The last decisions, for `serin-operator replay`.
    pub recordings: Arc<Recordings>,
    /// Failed reconciles in a row, by model.
    pub failures: Mutex<HashMap<(String, String), u32>>,
}

impl Context {
    /// Drops all memory of a model that is gone.
    pub(super) fn forget(&self, gone: &ObjectRef<kube::core::DynamicObject>) {
        let key = (
            gone.namespace.clone().unwrap_or_default(),
            gone.name.clone(),
        );
        self.applier.forget(&key);
        self.history.forget(&key);
        self.dry_runs.forget(&key);
        self.tracker.forget(&key);
        self.memories.forget(&key);
        self.failures.lock().remove(&key);
        for router in self.routers.all() {
            router.forget(&key);
        }
    }
}
