//! Caches of what exists. [`Watches`](super::Watches) fill them.

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, Deployment},
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube_runtime::reflector::Store;

use super::Models;

/// Caches of everything that Serin reads from the API server.
#[derive(Clone)]
pub struct Stores {
    /// The resources themselves. Decisions read the object live; this is for enqueueing, ports and
    /// routers.
    pub models: Models,
    /// The versions' Deployments.
    pub deployments: Store<Deployment>,
    /// The models' and versions' Services.
    pub services: Store<Service>,
    /// The versions' history.
    pub history: Store<ControllerRevision>,
    /// Endpoints of the models' and versions' Services.
    pub slices: Store<EndpointSlice>,
    /// The versions' pods.
    pub pods: Store<Pod>,
}
