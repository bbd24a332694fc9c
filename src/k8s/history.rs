//! The history of a model's versions, by its ControllerRevisions.

use std::collections::BTreeMap;

use k8s_openapi::api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec};
use kube::ResourceExt;
use serde_json::Value;

use super::{Stores, is_child};
use crate::api::{ModelDeployment, REVISION_LABEL, Revision, VersionRef, VersionSpec};

/// Annotation of a ControllerRevision whose version is or was in force: its number in the order of
/// those, from 1. The highest number of a model is the version in force.
pub const REIGN_ANNOTATION: &str = "serin.dev/in-force";
/// Field of a ControllerRevision's data with the pods of the version, beside the fields of
/// [`VersionSpec`].
pub const TEMPLATE_FIELD: &str = "template";

/// A version as its ControllerRevision keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownVersion {
    /// Its place in the history, from 1.
    pub number: i64,
    /// Artefact, serving image and configuration.
    pub spec: VersionSpec,
    /// Its pods as they were rendered when it was recorded. Absent in records of release 1d584f3.
    pub template: Option<PodTemplateSpec>,
    /// See [`REIGN_ANNOTATION`]. `None` if it was never in force.
    pub reign: Option<i64>,
    /// The ControllerRevision's data, unchanged.
    pub data: Value,
}

impl KnownVersion {
    /// Reads a version from its ControllerRevision.
    ///
    /// # Errors
    /// The data is not that of a version.
    pub fn read(object: &ControllerRevision) -> Result<Self, serde_json::Error> {
        let data = object.data.0.clone();
        let template = data.get(TEMPLATE_FIELD).cloned();
        let reign = object.annotations().get(REIGN_ANNOTATION);
        Ok(Self {
            number: object.revision.unwrap_or(0),
            spec: serde_json::from_value(data.clone())?,
            template: template.map(serde_json::from_value).transpose()?,
            reign: reign.and_then(|reign| reign.parse().ok()),
            data,
        })
    }
}

/// The versions that this model's ControllerRevisions keep.
pub fn known_versions(
    stores: &Stores,
    model: &ModelDeployment,
) -> BTreeMap<Revision, KnownVersion> {
    let cached = stores.history.state();
    cached
        .iter()
        .filter_map(|object| known_version(object, model))
        .collect()
}

/// The version that a ControllerRevision of this model keeps. One that cannot be read is skipped
/// and logged.
pub fn known_version(
    object: &ControllerRevision,
    model: &ModelDeployment,
) -> Option<(Revision, KnownVersion)> {
    if !is_child(object, model) {
        return None;
    }
    let revision = revision_of(object)?;
    match KnownVersion::read(object) {
        Ok(version) => Some((revision, version)),
        Err(error) => {
            let name = object.name_any();
            tracing::warn!(name, %error, "a ControllerRevision holds no version");
            None
        }
    }
}

/// The version in force, by the history: the last one that a status named as stable. It is what
/// serves after a status was lost.
pub fn in_force(known: &BTreeMap<Revision, KnownVersion>) -> Option<VersionRef> {
    let reigned = known.iter().filter(|(_, version)| version.reign.is_some());
    let (revision, version) = reigned.max_by_key(|(_, version)| version.reign)?;
    Some(VersionRef {
        revision: revision.clone(),
        version: version.spec.model.version.clone(),
    })
}

fn revision_of<K: ResourceExt>(object: &K) -> Option<Revision> {
    object
        .labels()
        .get(REVISION_LABEL)
        .map(|label| Revision(label.clone()))
}
