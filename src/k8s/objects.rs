//! The kinds of objects that Serin makes.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, Deployment},
        core::v1::Service,
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::ResourceExt;

use crate::api::{ModelDeployment, REVISION_LABEL, Revision};

/// Name of the serving port on containers and Services.
pub const HTTP_PORT_NAME: &str = "http";

/// One object, and the reason for it.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The object as Serin wants it: only the fields that Serin owns.
    pub object: Object,
    /// The reason, for the log.
    pub reason: &'static str,
}

/// The kinds of objects that Serin makes.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // a dozen of them live for a moment
pub enum Object {
    /// History.
    ControllerRevision(ControllerRevision),
    /// A name: the model's, or one version's.
    Service(Service),
    /// One version's pods.
    Deployment(Deployment),
    /// Endpoints of the model's Service: the routers.
    EndpointSlice(EndpointSlice),
}

impl Object {
    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::ControllerRevision(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::Deployment(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
        }
    }

    /// Kind and name.
    pub fn key(&self) -> String {
        let kind = match self {
            Self::ControllerRevision(_) => "ControllerRevision",
            Self::Service(_) => "Service",
            Self::Deployment(_) => "Deployment",
            Self::EndpointSlice(_) => "EndpointSlice",
        };
        let name = self.metadata().name.as_deref().unwrap_or_default();
        format!("{kind}/{name}")
    }

    /// The version that the object was made for, if for one.
    pub fn revision(&self) -> Option<Revision> {
        self.metadata()
            .labels
            .as_ref()?
            .get(REVISION_LABEL)
            .map(|label| Revision(label.clone()))
    }
}

/// Metadata with this name and these labels, in the model's namespace. `owner` is the owner with
/// whose deletion the object is deleted.
pub fn owned(
    model: &ModelDeployment,
    owner: &OwnerReference,
    name: String,
    labels: BTreeMap<String, String>,
) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: model.namespace(),
        labels: Some(labels),
        owner_references: Some(vec![owner.clone()]),
        ..ObjectMeta::default()
    }
}
