//! What every reconcile shares.

use std::{collections::HashMap, sync::Arc};

use kube::Client;
use kube_runtime::reflector::ObjectRef;
use parking_lot::Mutex;

use super::{
    apply::Applier, clock::Clock, events::Events, metrics::Metrics, recordings::Recordings,
};
use crate::{
    api::validate::Limits,
    k8s::Stores,
    observe::{Attention, DryRuns, Evidence, History},
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
    /// Settings that shape objects.
    pub defaults: PlatformDefaults,
    /// What the operator's user allows.
    pub limits: Limits,
    /// Where the evidence is.
    pub evidence: Evidence,
    /// Applies plans.
    pub applier: Applier,
    /// Places in the history of versions in use.
    pub history: History,
    /// Tries what new versions would need.
    pub dry_runs: DryRuns,
    /// Publishes decisions.
    pub events: Events,
    /// Since when each model has been looked at.
    pub attention: Attention,
    /// The operator's own metrics.
    pub metrics: Arc<Metrics>,
    /// What moves traffic.
    pub routers: Registry,
    /// The last decisions, to be replayed.
    pub recordings: Arc<Recordings>,
    /// Failed reconciles in a row, by model.
    pub failures: Mutex<HashMap<(String, String), u32>>,
}

impl Context {
    /// Lets go of everything remembered about a model that is gone.
    pub(super) fn forget(&self, gone: &ObjectRef<kube::core::DynamicObject>) {
        let key = (
            gone.namespace.clone().unwrap_or_default(),
            gone.name.clone(),
        );
        self.applier.forget(&key);
        self.history.forget(&key);
        self.dry_runs.forget(&key);
        self.attention.forget(&key);
        self.failures.lock().remove(&key);
        for router in self.routers.all() {
            router.forget(&key);
        }
    }
}
