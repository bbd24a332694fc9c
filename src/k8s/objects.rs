//! The kinds of objects that Serin makes.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{apps::v1::ControllerRevision, core::v1::Service, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde_json::Value;

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

/// One version's Deployment. Its pod template is JSON, so that a field which is newer than the
/// operator reaches the API server.
#[derive(Serialize, Clone, Debug)]
pub struct VersionDeployment {
    /// Name, labels, owner.
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: VersionDeploymentSpec,
}

/// The fields of a DeploymentSpec that Serin sets.
#[derive(Serialize, Clone, Debug)]
pub struct VersionDeploymentSpec {
    /// Pods of the version.
    pub replicas: i32,
    /// Labels of these pods.
    pub selector: LabelSelector,
    /// The PodTemplateSpec.
    pub template: Value,
}

/// An object as a request has it, with `apiVersion` and `kind`.
///
/// # Errors
/// It cannot be written as JSON.
pub fn body<K: Resource<DynamicType = ()>>(
    wanted: &impl Serialize,
) -> Result<Value, serde_json::Error> {
    let mut body = serde_json::to_value(wanted)?;
    body["apiVersion"] = Value::from(K::api_version(&()).into_owned());
    body["kind"] = Value::from(K::kind(&()).into_owned());
    Ok(body)
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
    Deployment(VersionDeployment),
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
