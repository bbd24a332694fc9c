//! What makes a version, and the name it gets from it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ModelArtefact, ModelDeploymentSpec, Serving};

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
    pub model: ModelArtefact,
    /// How it is served. An absent image is filled in once, when the version is first made: an upgrade of the operator
    /// brings a new default to new versions and leaves old ones alone.
    pub serving: Serving,
    /// How the artefact is fetched into pods, for schemes that are. Never declared, and no part of the revision: the platform's
    /// settings of the day are filled in as the image is, so that a change of them leaves running pods alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Fetch>,
}

/// The platform's settings for fetching artefacts, as a version was made with them.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Fetch {
    /// The image of the init container: the bundled serving image, also beside an inference server of the user's own.
    pub image: String,
    /// Hosts and private networks that may be connected to, in the words of `serin-serve fetch --allow-host`.
    pub hosts: Vec<String>,
    /// Largest artefact, in bytes.
    pub max_size: u64,
    /// Where artefacts are kept for the pods to come; nowhere where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// Most bytes that the cache keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_limit: Option<u64>,
}

/// A volume that keeps artefacts by digest.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Cache {
    /// A directory of the node. Pods that mount one are outside of the `restricted` Pod Security Standard.
    HostPath(String),
    /// A PersistentVolumeClaim of the model's namespace.
    Claim(String),
}

impl VersionSpec {
    /// The version that a spec asks for.
    pub fn of(spec: &ModelDeploymentSpec) -> Self {
        Self {
            model: spec.model.clone(),
            serving: spec.serving.clone(),
            fetch: None,
        }
    }

    /// The revision: a digest of the declaration, so equal declarations are the same version wherever they are applied.
    /// `replicas`, `objectives`, `rollout` and `traffic` are no part of it: changing them rolls nothing out.
    pub fn revision(&self) -> Revision {
        let declared = Self {
            fetch: None,
            ..self.clone()
        };
        // serde_json writes struct fields in declaration order and maps of BTreeMap in key order: the text is canonical.
        let text = serde_json::to_vec(&declared).unwrap_or_default();
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

    /// Names of objects in clusters: a release that gives an old declaration another name would roll every model out anew.
    #[test]
    fn revisions_of_earlier_releases_stay() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (uri, revision) in [
            ("pvc://models/iris/1", "2c6a771f"),
            ("file:///models/iris/1", "ae2d4931"),
        ] {
            let model = serde_json::json!({"uri": uri, "version": "1", "digest": digest});
            let declared = version(serde_json::json!({"model": model, "serving": {}}));
            assert_eq!(declared.revision().0, revision);
            let fetch = serde_json::json!({"image": "serve:1", "hosts": [], "maxSize": 1});
            let kept = version(serde_json::json!({"model": model, "serving": {}, "fetch": fetch}));
            assert_eq!(kept.revision(), declared.revision());
        }
    }
}
