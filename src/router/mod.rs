//! Routers: what moves traffic between the versions of a model.
//!
//! A router turns a route into objects or into a configuration, and reports what is in force. It
//! decides nothing: which version may have which weight is the rollout's work.
//!
//! A router is one file beside this one and one line in the list below. Its file has a function
//! `router`, which makes it:
//!
//! ```ignore
//! pub fn router(setup: &Setup) -> Arc<dyn Router>
//! ```

mod registry;
mod report;
mod route;

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use futures::future::{BoxFuture, ready};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{EvidenceSource, Gate, ModelDeployment, ModelDeploymentSpec, State, validate::Invalid},
    k8s::{Dirty, Intent, ListenError, Stores, Watches, targets::Target},
};

pub use registry::Registry;
pub use report::{
    Connections, InForce, PendingReason, Reachability, ReachabilityQuery, Report, RouterRejection,
    Services,
};
pub use route::{Route, weights};

/// Declares the module of each router, and the function that makes all of them. The first is the
/// default.
macro_rules! routers {
    (
        $(#[$first:meta])* pub mod $default:ident;
        $($(#[$doc:meta])* pub mod $name:ident;)*
    ) => {
        $(#[$first])* pub mod $default;
        $($(#[$doc])* pub mod $name;)*

        /// Makes every router of this operator.
        pub fn registered(setup: &Setup) -> Registry {
            Registry::new($default::router(setup), vec![$($name::router(setup)),*])
        }
    };
}

// One line a router. `cargo fmt` does not see modules that a macro declares: CI names their files.
routers! {
    pub mod envoy;
}

/// Flags of routers.
#[derive(clap::Args, Clone, Debug, Default)]
#[group(skip)]
pub struct Flags {
    /// Those of the bundled one.
    #[command(flatten)]
    pub envoy: envoy::Flags,
}

/// What a router is made from: the operator's own settings.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The namespace of this operator.
    pub namespace: String,
    /// The port on which every operator answers over HTTP.
    pub http_port: u16,
    /// The flags of routers.
    pub flags: Flags,
}

impl Setup {
    /// Namespace and Deployment of the bundled router's pods, whose counters are
    /// [`EvidenceSource::Envoy`].
    pub fn bundled_pods(&self) -> (String, String) {
        (self.namespace.clone(), self.flags.envoy.service.clone())
    }
}

/// What a router uses of the process that it runs in.
pub struct Host {
    /// The caches, which are complete.
    pub stores: Stores,
    /// Counts the changes of all caches.
    pub changes: watch::Receiver<u64>,
    /// Where a model is marked that is to be reconciled.
    pub dirty: Dirty,
    /// Cancelled when the process stops.
    pub stop: CancellationToken,
}

/// Evidence that comes from the serving pods, or from metrics that the user names. It goes with
/// every router.
pub const SERVER_EVIDENCE: [EvidenceSource; 4] = [
    EvidenceSource::Serving,
    EvidenceSource::Vllm,
    EvidenceSource::Triton,
    EvidenceSource::Custom,
];

/// One way to move traffic.
pub trait Router: Send + Sync {
    /// Its member of `spec.traffic`.
    fn member(&self) -> &'static str;

    /// Whether a spec chooses this router. The default router also has the models whose spec
    /// chooses none.
    fn is_chosen(&self, spec: &ModelDeploymentSpec) -> bool;

    /// The objects that a route needs, in the order in which they are applied. Pure: the same route
    /// gives the same objects.
    fn objects(&self, route: &Route<'_>) -> Vec<Intent>;

    /// What is believed to be in force for a model, by the caches.
    fn in_force(&self, stores: &Stores, model: &ModelDeployment) -> InForce;

    /// Whose counters can be read with this router, besides [`SERVER_EVIDENCE`]. A model with an
    /// objective that is judged by others is refused: with a router that counts nothing itself,
    /// each objective has to name its source.
    fn evidence(&self) -> &[EvidenceSource];

    /// What it can do. A model that asks for more is refused.
    fn capabilities(&self) -> &[Capability];

    /// How long old weights may still be in force after new ones were persisted. A version without
    /// weight keeps its pods for as long.
    fn settle(&self) -> Duration;

    /// Addresses at which the router takes requests, where a model's objects name them. None by
    /// default.
    fn addresses(&self, _: &Stores, _: &ModelDeployment) -> BTreeSet<IpAddr> {
        BTreeSet::new()
    }

    /// The port of the router for a model that has none, where models have ports. If the model's
    /// port belongs to another model as well, which has the older claim, this takes it out of the
    /// state. `was_lost` says that the model had a state that was lost. By default no model has a
    /// port.
    fn port(&self, _: &Stores, _: &ModelDeployment, _: &mut State, _was_lost: bool) -> Option<u16> {
        None
    }

    /// Whether a model's address answers, asked before the model is first called Ready. By default
    /// what [`Router::in_force`] says.
    fn reachability<'a>(&'a self, query: ReachabilityQuery<'a>) -> BoxFuture<'a, Reachability> {
        let answer = match self.in_force(query.stores, query.model) {
            InForce::Applied { .. } => Reachability::Answers,
            InForce::Pending { .. } => Reachability::Silent,
            InForce::Absent => Reachability::NoRouter,
        };
        Box::pin(ready(answer))
    }

    /// Forgets a model that is gone, by namespace and name.
    fn forget(&self, _: &(String, String)) {}

    /// Watches what the router needs besides the objects of [`Stores`], in every replica. Called
    /// once, at the start. Nothing by default.
    fn watch(&self, _: &mut Watches) {}

    /// Starts what serves the router's data plane, in every replica. Called once, when all caches
    /// are complete. The tasks end after [`Host::stop`]. Nothing by default.
    ///
    /// # Errors
    /// An address cannot be listened on.
    fn serve(&self, _: Host) -> BoxFuture<'_, Result<JoinSet<()>, ListenError>> {
        Box::pin(ready(Ok(JoinSet::new())))
    }

    /// How many processes of the data plane get their configuration from this operator. None by
    /// default.
    fn connections(&self) -> Connections {
        Connections::default()
    }

    /// The processes of the data plane that Prometheus scrapes. None by default.
    fn scrape_targets(&self) -> Vec<Target> {
        Vec::new()
    }

    /// Paths that the router answers on the operator's HTTP port. None by default.
    fn http(&self) -> axum::Router {
        axum::Router::new()
    }
}

/// What a router may be able to do, of all that a spec can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Splits requests between versions by percent.
    Weights,
}

/// What a model asks for that its router cannot do.
pub fn unsupported(router: &dyn Router, model: &ModelDeployment) -> Vec<Invalid> {
    let mut found = Vec::new();
    let known: Vec<_> = SERVER_EVIDENCE.iter().chain(router.evidence()).collect();
    for (index, objective) in model.spec.objectives.iter().enumerate() {
        let mut gates = objective.gates().into_iter();
        let unknown = |gate: &Gate| gate.kind.counts_requests() && !known.contains(&&gate.source);
        if let Some(gate) = gates.find(unknown) {
            let known: Vec<_> = known.iter().map(|source| source.name()).collect();
            found.push(Invalid {
                field: format!("spec.objectives[{index}].source"),
                remedy: format!(
                    "the router of {} has no counters of {}; name one of {}",
                    objective.name,
                    gate.source,
                    known.join(", ")
                ),
            });
        }
    }
    let splits = model
        .spec
        .rollout
        .steps
        .iter()
        .any(|step| step.weight < 100);
    if splits && !router.capabilities().contains(&Capability::Weights) {
        found.push(Invalid {
            field: "spec.rollout.steps".to_owned(),
            remedy: "the router cannot split requests; keep the step of 100 alone".to_owned(),
        });
    }
    found
}
