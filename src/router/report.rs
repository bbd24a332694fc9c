//! What a router says of a model.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Router;
use crate::{api::ModelDeployment, k8s::Stores};

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
