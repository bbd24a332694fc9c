//! What a router says of a model.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube_runtime::reflector::ObjectRef;
use serde::{Deserialize, Serialize};

use super::Router;
use crate::{
    api::{MODEL_LABEL, ModelDeployment, REVISION_LABEL, conditions::reasons},
    k8s::{Stores, is_child, ready_addresses, service_of},
};

/// A Service whose name the spec no longer has is deleted so long after its successor began to lead
/// to the routers, so that every node knows the successor by then. kube-proxy takes about a second,
/// 30 s with very many Services.
const REPLACED_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// What a router is believed to do for a model.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum InForce {
    /// It routes by the state that answered this generation of the model's spec.
    Applied {
        /// The generation.
        generation: i64,
    },
    /// All or a part of it does not.
    Pending {
        /// Why.
        why: PendingReason,
    },
    /// It does not know the model.
    #[default]
    Absent,
}

/// Why a router does not follow a model.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum PendingReason {
    /// Processes of the router reject a part of the model's configuration.
    Rejected {
        /// The first of them, by name.
        rejections: Vec<RouterRejection>,
        /// How many more there are.
        #[serde(default)]
        more: usize,
    },
    /// A sentence in the router's own words.
    #[serde(untagged)]
    Words(String),
}

/// What one process of a router rejects.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RouterRejection {
    /// The name of its pod.
    pub router: String,
    /// What it rejects, such as `listener`.
    pub what: String,
    /// The port of that, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its message.
    pub words: String,
}

/// What is known of a model's router: a part of the snapshot that a decision sees.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// See [`Router::in_force`].
    pub in_force: InForce,
    /// See [`Router::addresses`].
    pub addresses: BTreeSet<IpAddr>,
    /// See [`Router::settle`]. 10 s where a recording does not say.
    pub settle: Duration,
    /// What is known of the Services that clients use.
    #[serde(skip_serializing_if = "Services::is_empty")]
    pub services: Services,
}

/// The Services of a model besides those of its versions, by the caches.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Services {
    /// Those that exist, with the names of their ports.
    pub known: BTreeMap<String, BTreeSet<String>>,
    /// Names of Services that do not exist, of which the model has EndpointSlices: a crash between
    /// the writes of both leaves them.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub missing: BTreeSet<String>,
    /// The time until the one of the spec's name has replaced those of other names. `None` if there
    /// are none, or as long as it does not exist or leads nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced_in: Option<Duration>,
    /// Whether a version has been stable for long enough that each router answers for the model.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub answered: bool,
}

impl Services {
    /// Whether the model has no Service.
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads the caches. `settle` is how long a router may take to follow a state.
    fn of(stores: &Stores, model: &ModelDeployment, settle: Duration, now: Timestamp) -> Self {
        let (namespace, name) = model.key();
        let own = stores.services.state_filter(|service| {
            service.labels().get(MODEL_LABEL) == Some(&name)
                && service.metadata.namespace.as_ref() == Some(&namespace)
                && !service.labels().contains_key(REVISION_LABEL)
                && is_child(service, model)
        });
        let known: BTreeMap<_, _> = own
            .iter()
            .map(|service| (service.name_any(), port_names(service)))
            .collect();
        let wanted = model.service_name();
        let slices = stores.slices.state_filter(|slice| {
            slice.labels().get(MODEL_LABEL) == Some(&name)
                && slice.metadata.namespace.as_ref() == Some(&namespace)
                && is_child(slice, model)
        });
        let named = slices.iter().filter_map(|slice| service_of(slice));
        let missing: BTreeSet<_> = named
            .filter(|name| *name != wanted && !known.contains_key(*name))
            .map(str::to_owned)
            .collect();
        let others = !missing.is_empty() || known.keys().any(|name| *name != wanted);
        let since = (others && known.contains_key(&wanted))
            .then(|| leads_since(stores, &namespace, &wanted))
            .flatten();
        let replaced_in = since.map(|since| {
            Duration::try_from(REPLACED_AFTER - now.duration_since(since)).unwrap_or_default()
        });
        Self {
            known,
            missing,
            replaced_in,
            answered: is_answered(model, settle, now),
        }
    }
}

/// Since when a Service has existed and led somewhere, by our caches.
fn leads_since(stores: &Stores, namespace: &str, name: &str) -> Option<Timestamp> {
    let key = ObjectRef::new(name).within(namespace);
    let made = stores.services.get(&key)?.creation_timestamp()?.0;
    let slices = stores.slices.state_filter(|slice| {
        service_of(slice) == Some(name)
            && slice.metadata.namespace.as_deref() == Some(namespace)
            && ready_addresses(slice).next().is_some()
    });
    let wired = slices.iter().filter_map(|slice| slice.creation_timestamp());
    Some(wired.map(|at| at.0).min()?.max(made))
}

/// Whether a version is stable, and none became so within `settle`.
fn is_answered(model: &ModelDeployment, settle: Duration, now: Timestamp) -> bool {
    let Some(state) = model.status.as_ref().map(|status| &status.state) else {
        return false;
    };
    let settle = SignedDuration::try_from(settle).unwrap_or(SignedDuration::MAX);
    let mut promotions = state
        .decisions
        .iter()
        .filter(|record| record.action == reasons::PROMOTED);
    state.stable.is_some() && promotions.all(|record| now.duration_since(record.at) >= settle)
}

fn port_names(service: &Service) -> BTreeSet<String> {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_ref()).into_iter();
    ports
        .flatten()
        .filter_map(|port| port.name.clone())
        .collect()
}

impl Default for Report {
    fn default() -> Self {
        Self {
            in_force: InForce::default(),
            addresses: BTreeSet::new(),
            settle: Duration::from_secs(10),
            services: Services::default(),
        }
    }
}

impl Report {
    /// What a router says of a model now.
    pub fn of(
        router: &dyn Router,
        stores: &Stores,
        model: &ModelDeployment,
        now: Timestamp,
    ) -> Self {
        Self {
            in_force: router.in_force(stores, model),
            addresses: router.addresses(stores, model),
            settle: router.settle(),
            services: Services::of(stores, model, router.settle(), now),
        }
    }
}

/// Whether a model's address answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// The address and every router behind it take connections, or the time to wait for that is
    /// over.
    Answers,
    /// The address, or a router behind it, takes no connections yet.
    Silent,
    /// No router has been Ready since the model was created, so the address leads nowhere.
    NoRouter,
}

/// A question for the reachability of a model's address.
#[derive(Clone, Copy)]
pub struct ReachabilityQuery<'a> {
    /// The caches.
    pub stores: &'a Stores,
    /// The model.
    pub model: &'a ModelDeployment,
    /// Since when its version has had all its pods.
    pub available_since: Timestamp,
    /// The current time.
    pub now: Timestamp,
    /// Whether the model's state changes with the write that waits for this answer. Routers cannot
    /// know the new state yet.
    pub moves: bool,
}

/// How many processes of a data plane this operator serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Processes that are connected.
    pub connected: usize,
    /// Configurations that they have rejected since this operator started.
    pub rejections: u64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_recording_made_before_these_facts_is_read_and_new_ones_come_back() {
        let words = "router envoy-1 rejects the listener on port 10000";
        let rejected = PendingReason::Rejected {
            rejections: vec![RouterRejection {
                router: "envoy-1".to_owned(),
                what: "listener".to_owned(),
                port: Some(10_000),
                words: "cannot bind".to_owned(),
            }],
            more: 2,
        };
        let recorded = json!({"rejected": {
            "rejections": [{"router": "envoy-1", "what": "listener", "port": 10_000,
                "words": "cannot bind"}],
            "more": 2,
        }});
        for (why, recorded) in [
            (PendingReason::Words(words.to_owned()), json!(words)),
            (rejected, recorded),
        ] {
            let in_force = InForce::Pending { why };
            let recorded = json!({"pending": {"why": recorded}});
            assert_eq!(serde_json::to_value(&in_force).unwrap(), recorded);
            let read: InForce = serde_json::from_value(recorded).unwrap();
            assert_eq!(read, in_force);
        }
    }
}
