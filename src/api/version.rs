//! What makes a version, and the name it gets from it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Model, ModelDeploymentSpec, Serving};

/// The first 8 hex digits of a version's digest; they name everything that is made for it.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[serde(transparent)]
pub struct Revision(pub String);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All that belongs to a version: artefact, serving image, configuration. Kept in a ControllerRevision, so that a
/// version can be rebuilt when the spec has long moved on.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VersionSpec {
    /// The artefact.
    pub model: Model,
    /// How it is served. An absent image is filled in once, when the version is first made: an upgrade of the operator
    /// brings a new default to new versions and leaves old ones alone.
    pub serving: Serving,
}

impl VersionSpec {
    /// The version that a spec asks for.
    pub fn of(spec: &ModelDeploymentSpec) -> Self {
        Self {
            model: spec.model.clone(),
            serving: spec.serving.clone(),
        }
    }

    /// The revision: a digest of the declaration, so equal declarations are the same version wherever they are applied.
    /// `replicas`, `objectives`, `rollout` and `traffic` are no part of it: changing them rolls nothing out.
    pub fn revision(&self) -> Revision {
        // serde_json writes struct fields in declaration order and maps of BTreeMap in key order: the text is canonical.
        let text = serde_json::to_vec(self).unwrap_or_default();
        let digest = Sha256::digest(&text);
        let [a, b, c, d, ..]: [u8; 32] = digest.into();
        Revision(format!("{:08x}", u32::from_be_bytes([a, b, c, d])))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn version(json: serde_json::Value) -> VersionSpec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_revision_follows_the_declaration_and_nothing_else() {
        let model = serde_json::json!({"uri": "file:///m", "version": "1", "digest": "sha256:00"});
        let a = version(serde_json::json!({"model": model, "serving": {}}));
        let b = version(serde_json::json!({"model": model, "serving": {"port": 9000}}));
        assert_eq!(a.revision(), a.clone().revision());
        assert_ne!(a.revision(), b.revision());
        assert_eq!(a.revision().0.len(), 8);
    }
}
