//! Caches of what exists. The watches that fill them are the runtime's.

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, Deployment},
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube_runtime::reflector::{self, Store};

use super::Models;

/// Caches of everything that Serin reads from the API server.
#[derive(Clone)]
pub struct Stores {
    /// The resources themselves. Decisions read the object live; this is for enqueueing, ports and
    /// the router.
    pub models: Models,
    /// The versions' Deployments.
    pub deployments: Store<Deployment>,
    /// The models' and versions' Services.
    pub services: Store<Service>,
    /// The versions' history.
    pub history: Store<ControllerRevision>,
    /// Endpoints of the models' and versions' Services.
    pub slices: Store<EndpointSlice>,
    /// Endpoints of the routers.
    pub routers: Store<EndpointSlice>,
    /// The versions' pods.
    pub pods: Store<Pod>,
}

impl Stores {
    /// Resolves once every cache has seen everything that exists.
    pub async fn synced(&self) -> Result<(), reflector::store::WriterDropped> {
        self.models.told().wait_until_ready().await?;
        self.deployments.wait_until_ready().await?;
        self.services.wait_until_ready().await?;
        self.history.wait_until_ready().await?;
        self.slices.wait_until_ready().await?;
        self.routers.wait_until_ready().await?;
        self.pods.wait_until_ready().await
    }
}
