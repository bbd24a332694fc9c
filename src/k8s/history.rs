//! The history of a model's versions, by its ControllerRevisions.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt;
use serde::{Deserialize, Serialize, de::Error as _};
use serde_json::Value;

use super::{Stores, is_child};
use crate::api::{ModelDeployment, REVISION_LABEL, Revision, State, VersionRef, VersionSpec};

/// Annotation of a ControllerRevision whose version is or was in force: its number in the order of
/// those, from 1. The highest number of a model is the version in force.
pub const REIGN_ANNOTATION: &str = "serin.dev/in-force";
/// Annotation of a ControllerRevision whose version was in force: until when, in RFC 3339. A
/// version that is in force, or was rolled back since, has none.
pub const UNTIL_ANNOTATION: &str = "serin.dev/in-force-until";
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
    /// Its pods as they were rendered when it was recorded.
    pub template: Value,
    /// See [`REIGN_ANNOTATION`]. `None` if it was never in force, or was rolled back since.
    pub reign: Option<i64>,
    /// See [`UNTIL_ANNOTATION`].
    pub until: Option<Timestamp>,
    /// The ControllerRevision's data, unchanged.
    pub data: Value,
}

impl KnownVersion {
    /// Reads a version from its ControllerRevision.
    ///
    /// # Errors
    /// The data is not that of a version, or has no pods.
    pub fn read(object: &ControllerRevision) -> Result<Self, serde_json::Error> {
        let data = object.data.0.clone();
        let reign = object.annotations().get(REIGN_ANNOTATION);
        let until = object.annotations().get(UNTIL_ANNOTATION);
        let template = data.get(TEMPLATE_FIELD).cloned();
        Ok(Self {
            number: object.revision.unwrap_or(0),
            spec: serde_json::from_value(data.clone())?,
            template: template.ok_or_else(|| serde_json::Error::missing_field(TEMPLATE_FIELD))?,
            reign: reign.and_then(|reign| reign.parse().ok()),
            until: until.and_then(|until| until.parse().ok()),
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
        version: version.spec.name(),
    })
}

/// A version's last time as the stable one.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct StableBefore {
    /// How many promotions ago it was replaced: 1 for the version before the present one.
    pub back: u32,
    /// Until when it was the stable one.
    pub until: Timestamp,
}

/// When a version was the stable one that the spec may go back to. `None` where it never was, was
/// rolled back since, is not older than the stable version, or is not known to have been.
pub fn stable_before(
    known: &BTreeMap<Revision, KnownVersion>,
    state: &State,
    revision: &Revision,
) -> Option<StableBefore> {
    let (version, stable) = (known.get(revision)?, &state.stable.as_ref()?.revision);
    let reign = version.reign?;
    let is_older = version.number < known.get(stable)?.number;
    let was_refused = state
        .refused
        .iter()
        .any(|refused| refused.revision == *revision);
    if !is_older || was_refused {
        return None;
    }
    let between = known.iter().filter(|(other, version)| {
        *other != revision && *other != stable && version.reign > Some(reign)
    });
    // The state has it until the annotation can have been written.
    let retiring = state
        .retiring
        .iter()
        .find(|retiring| retiring.revision == *revision);
    let until = retiring.and_then(|retiring| retiring.stable_until);
    Some(StableBefore {
        back: u32::try_from(between.count())
            .unwrap_or(u32::MAX)
            .saturating_add(1),
        until: until.or(version.until)?,
    })
}

fn revision_of<K: ResourceExt>(object: &K) -> Option<Revision> {
    object
        .labels()
        .get(REVISION_LABEL)
        .map(|label| Revision(label.clone()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A version of the history: its number, its place among those in force, and until when it
    /// was.
    fn version(number: i64, reign: Option<i64>, until: Option<&str>) -> (Revision, KnownVersion) {
        let spec = json!({
            "model": {"uri": "file:///m", "version": "1", "digest": "sha256:0"}, "serving": {},
            "template": {},
        });
        let mut object: ControllerRevision = serde_json::from_value(json!({
            "metadata": {"annotations": {}}, "revision": number, "data": spec,
        }))
        .unwrap();
        let reign = reign.map(|reign| (REIGN_ANNOTATION, reign.to_string()));
        let until = until.map(|until| (UNTIL_ANNOTATION, until.to_owned()));
        let both = reign.into_iter().chain(until);
        let both = both.map(|(name, value)| (name.to_owned(), value));
        object.metadata.annotations = Some(both.collect());
        (
            Revision(number.to_string()),
            KnownVersion::read(&object).unwrap(),
        )
    }

    const DAY: &str = "2026-11-20T00:00:00Z";

    #[test]
    fn a_version_was_stable_before_if_it_was_in_force_and_not_refused_since() {
        let known: BTreeMap<_, _> = [
            version(1, Some(1), Some(DAY)),
            version(2, None, None),
            version(3, Some(3), Some(DAY)),
            version(4, Some(2), Some(DAY)),
            version(5, Some(4), None),
            version(6, Some(5), None), // stable
            version(7, Some(0), Some(DAY)),
        ]
        .into();
        let mut state: State = serde_json::from_value(json!({
            "stable": {"revision": "6", "version": "6"},
            "retiring": [{
                "revision": "5", "scaleDownAt": DAY, "stableUntil": "2026-11-21T00:00:00Z",
            }],
        }))
        .unwrap();
        let back = |state: &State, number: i64| {
            let revision = Revision(number.to_string());
            stable_before(&known, state, &revision).map(|before| before.back)
        };
        assert_eq!(back(&state, 5), Some(1), "its time is still in the state");
        assert_eq!(back(&state, 3), Some(2));
        assert_eq!(
            back(&state, 4),
            Some(3),
            "by the order of their time, not by their age"
        );
        assert_eq!(back(&state, 1), Some(4));
        assert_eq!(back(&state, 2), None, "it never was in force");
        assert_eq!(back(&state, 6), None, "it is the stable one");
        assert_eq!(back(&state, 7), None, "it is newer than the stable one");
        assert_eq!(back(&state, 8), None, "there is no record of it");
        state.retiring.clear();
        assert_eq!(
            back(&state, 5),
            None,
            "nothing says until when it was in force"
        );
        let refused = json!([{"revision": "3", "version": "3", "at": DAY, "reason": ""}]);
        state.refused = serde_json::from_value(refused).unwrap();
        assert_eq!(back(&state, 3), None, "it was rolled back since");
    }
}
