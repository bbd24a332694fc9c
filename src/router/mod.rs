//! Routers: what moves traffic between the versions of a model.
//!
//! A router is one file below this module, and one line where the process is put together
//! (`runtime/operator.rs`). It turns a route into objects or into a configuration, and says what it
//! has taken over. It decides nothing: which version may have which weight is the rollout's work.

pub mod envoy;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};

use crate::{
    api::{EvidenceSource, ModelDeployment, Revision, State, validate::Invalid},
    k8s::{Intent, Stores, owned},
};

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
    /// The objects that a route needs, in the order in which they are applied. Pure: the same route
    /// gives the same objects.
    fn objects(&self, route: &Route<'_>) -> Vec<Intent>;

    /// What is believed to be in force for a model, by the caches.
    fn in_force(&self, stores: &Stores, model: &ModelDeployment) -> InForce;

    /// Whose counters can be read with this router, besides [`SERVER_EVIDENCE`]. A model that asks
    /// for others is refused.
    fn evidence(&self) -> &[EvidenceSource];

    /// What it can do. A model that asks for more is refused.
    fn capabilities(&self) -> &[Capability];

    /// How long old weights may still be in force after new ones were persisted. So long a version
    /// without weight keeps its pods.
    fn settle(&self) -> Duration;

    /// Addresses at which the router takes requests, where a model's objects name them. None by
    /// default.
    fn addresses(&self, _: &Stores, _: &ModelDeployment) -> BTreeSet<IpAddr> {
        BTreeSet::new()
    }

    /// The port of the router that a model without one gets, where models have ports. Takes a port
    /// out of a state that another model has a better right to. `was_lost` says that the model had
    /// a state, and that it was lost. By default no model has a port.
    fn port(&self, _: &Stores, _: &ModelDeployment, _: &mut State, _was_lost: bool) -> Option<u16> {
        None
    }

    /// Whether a model's address answers, asked before the model is first called Ready. By default
    /// what
    /// [`Router::in_force`] says.
    fn reachability<'a>(&'a self, asked: Asked<'a>) -> BoxFuture<'a, Reachability> {
        let answer = match self.in_force(asked.stores, asked.model) {
            InForce::Applied { .. } => Reachability::Answers,
            InForce::Pending { .. } => Reachability::Silent,
            InForce::Absent => Reachability::NoRouter,
        };
        Box::pin(std::future::ready(answer))
    }

    /// Lets go of what is remembered of a model that is gone, by namespace and name.
    fn forget(&self, _: &(String, String)) {}
}

/// What a router may be able to do, of all that a spec can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Splits requests between versions by percent.
    Weights,
}

/// What a router is believed to do for a model.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum InForce {
    /// It routes by the state that answered this generation of the model's spec.
    Applied {
        /// The generation.
        generation: i64,
    },
    /// It does not, or a part of it does not, and this is why: a sentence for the status.
    Pending {
        /// The sentence.
        why: String,
    },
    /// It knows nothing of the model.
    #[default]
    Absent,
}

/// What is known of a model's router: a part of what a decision sees.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// See [`Router::in_force`].
    pub in_force: InForce,
    /// See [`Router::addresses`].
    pub addresses: BTreeSet<IpAddr>,
    /// See [`Router::settle`]; 10 s where a recording does not say.
    pub settle: Duration,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            in_force: InForce::default(),
            addresses: BTreeSet::new(),
            settle: Duration::from_secs(10),
        }
    }
}

impl Report {
    /// What a router says of a model now.
    pub fn of(router: &dyn Router, stores: &Stores, model: &ModelDeployment) -> Self {
        Self {
            in_force: router.in_force(stores, model),
            addresses: router.addresses(stores, model),
            settle: router.settle(),
        }
    }
}

/// Whether a model's address answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// It takes connections, and so does every router; or it has been waited for in vain, long
    /// enough.
    Answers,
    /// It does not yet, or a router does not.
    Silent,
    /// It leads nowhere: no router has been Ready since the model was made.
    NoRouter,
}

/// Whose address is asked for.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The caches.
    pub stores: &'a Stores,
    /// The model.
    pub model: &'a ModelDeployment,
    /// Since when its version has had all its pods.
    pub available_since: Timestamp,
    /// The time.
    pub now: Timestamp,
    /// Whether its state changes right now, so that routers cannot know it yet.
    pub moves: bool,
}

/// One model's route: what a router makes objects from.
pub struct Route<'a> {
    /// The model.
    pub model: &'a ModelDeployment,
    /// The state as persisted: the versions and their weights.
    pub state: &'a State,
    /// What is known of the router.
    pub report: &'a Report,
    owner: OwnerReference,
}

impl<'a> Route<'a> {
    /// The route of a model; none of one that the API server has not made yet.
    pub fn new(model: &'a ModelDeployment, state: &'a State, report: &'a Report) -> Option<Self> {
        Some(Self {
            model,
            state,
            report,
            owner: model.controller_owner_ref(&())?,
        })
    }

    /// The name of the model, and of the Service that clients use.
    pub fn name(&self) -> String {
        self.model.name_any()
    }

    /// Name, namespace, labels, and the owner whose deletion takes the object along.
    pub fn metadata(&self, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
        owned(self.model, &self.owner, name, labels)
    }
}

/// The versions of a state, each with its share of the requests in percent, and the canary first:
/// none to a canary that has no endpoint. Versions that retire are known without weight, so that
/// requests under way end in peace. Empty where no version serves.
pub fn weights(
    state: &State,
    has_endpoints: impl FnOnce(&Revision) -> bool,
) -> Vec<(Revision, u8)> {
    let Some(stable) = &state.stable else {
        return Vec::new();
    };
    let mut weights = Vec::new();
    let mut left = 100_u8;
    if let Some(canary) = &state.canary {
        let weight = if has_endpoints(&canary.revision) {
            canary.weight
        } else {
            0
        };
        left = left.saturating_sub(weight);
        weights.push((canary.revision.clone(), weight));
    }
    weights.push((stable.revision.clone(), left));
    for version in &state.retiring {
        if weights.iter().all(|(known, _)| *known != version.revision) {
            weights.push((version.revision.clone(), 0));
        }
    }
    weights
}

/// What a model asks for that its router cannot do.
pub fn unsupported(router: &dyn Router, model: &ModelDeployment) -> Vec<Invalid> {
    let mut found = Vec::new();
    let evidence = model.spec.traffic.evidence;
    if !SERVER_EVIDENCE.contains(&evidence) && !router.evidence().contains(&evidence) {
        let known = SERVER_EVIDENCE.iter().chain(router.evidence());
        let known: Vec<_> = known
            .filter_map(|source| {
                serde_json::to_value(source)
                    .ok()?
                    .as_str()
                    .map(str::to_owned)
            })
            .collect();
        found.push(Invalid {
            field: "spec.traffic.evidence".to_owned(),
            remedy: format!(
                "the router yields none of it; name one of {}",
                known.join(", ")
            ),
        });
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
