//! The content of a version, and the revision that is computed from it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ModelArtefact, ModelDeploymentSpec, Serving};

/// The first 8 hex digits of a version's digest. Every object made for the version has them in its
/// name.
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

/// All that belongs to a version: artefact, serving image, configuration. A ControllerRevision
/// keeps it, so that a version can be rebuilt after the spec has changed.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VersionSpec {
    /// The artefact; absent where the serving image holds the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelArtefact>,
    /// How it is served. An absent image and an absent port are filled in once, when the version is
    /// made: the new defaults of an upgraded operator apply to new versions only.
    pub serving: Serving,
    /// How the artefact is fetched into pods; absent for schemes that are not fetched. Not declared
    /// and not part of the revision: filled in from the platform's settings when the version is
    /// made, so that a change of the settings leaves running pods alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Fetch>,
}

/// The platform's settings for fetching artefacts, at the time a version was made.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Fetch {
    /// The image of the init container: the bundled serving image, also beside an inference server
    /// of the user's own.
    pub image: String,
    /// Hosts and private networks that a fetch may connect to, in the syntax of `serin-serve fetch
    /// --allow-host`.
    pub hosts: Vec<String>,
    /// Largest artefact, in bytes.
    pub max_size: u64,
    /// Where fetched artefacts are cached for later pods; absent disables the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// Size limit of the cache, in bytes. Above it, the least recently used artefacts are evicted;
    /// absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_limit: Option<u64>,
}

/// A volume that caches artefacts by digest.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Cache {
    /// A directory of the node. Pods that mount one are outside of the `restricted` Pod Security
    /// Standard.
    HostPath(String),
    /// A PersistentVolumeClaim of the model's namespace.
    Claim(String),
}

impl VersionSpec {
    /// The version that a spec declares.
    pub fn of(spec: &ModelDeploymentSpec) -> Self {
        Self {
            model: spec.model.clone(),
            serving: spec.serving.clone(),
            fetch: None,
        }
    }

    /// The name that people see: the model's version, else what pins the image.
    pub fn name(&self) -> String {
        version_name(self.model.as_ref(), &self.serving)
    }

    /// The revision: a digest of the declaration, so equal declarations are the same version in
    /// every cluster. `replicas`, `objectives`, `rollout` and `traffic` are not part of it:
    /// changing them starts no rollout.
    pub fn revision(&self) -> Revision {
        let declared = Self {
            fetch: None,
            ..self.clone()
        };
        // serde_json writes struct fields in declaration order and BTreeMaps in key order, so the
        // text is canonical.
        let text = serde_json::to_vec(&declared).unwrap_or_default();
        let digest = Sha256::digest(&text);
        let [a, b, c, d, ..]: [u8; 32] = digest.into();
        Revision(format!("{:08x}", u32::from_be_bytes([a, b, c, d])))
    }
}

impl ModelDeploymentSpec {
    /// The name of the spec's version: `spec.model.version`. Without a model it is the image's tag,
    /// or else the first 12 hex digits of its digest.
    pub fn version_name(&self) -> String {
        version_name(self.model.as_ref(), &self.serving)
    }
}

fn version_name(model: Option<&ModelArtefact>, serving: &Serving) -> String {
    if let Some(model) = model {
        return model.version.clone();
    }
    let image = serving.image.as_deref().unwrap_or_default();
    let (name, digest) = image.split_once("@sha256:").unwrap_or((image, ""));
    match name.rsplit_once(':') {
        Some((_, tag)) if is_version(tag) => tag.to_owned(),
        _ => digest.chars().take(12).collect(),
    }
}

/// Whether a text can be a version: a value of a label.
pub fn is_version(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn version(json: serde_json::Value) -> VersionSpec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_revision_depends_only_on_the_declaration() {
        let model = serde_json::json!({"uri": "file:///m", "version": "1", "digest": "sha256:00"});
        let a = version(serde_json::json!({"model": model, "serving": {}}));
        let b = version(serde_json::json!({"model": model, "serving": {"port": 9000}}));
        assert_eq!(a.revision(), a.clone().revision());
        assert_ne!(a.revision(), b.revision());
        assert_eq!(a.revision().0.len(), 8);
    }

    /// What is not written has no default in a version: a default that changes would give every
    /// version another revision, and roll it out again.
    #[test]
    fn a_version_is_what_the_user_wrote() {
        for serving in [
            serde_json::json!({}),
            serde_json::json!({"image": "vllm:1"}),
            serde_json::json!({"port": 9000, "modelMountPath": "/m"}),
        ] {
            let model =
                serde_json::json!({"uri": "pvc://m/1", "version": "1", "digest": "sha256:00"});
            let written = serde_json::json!({"model": model, "serving": serving});
            let mut spec = written.clone();
            spec["objectives"] = serde_json::json!([]);
            let spec: ModelDeploymentSpec = serde_json::from_value(spec).unwrap();
            let version = serde_json::to_value(VersionSpec::of(&spec)).unwrap();
            assert_eq!(version, written);
        }
    }

    #[test]
    fn an_image_that_holds_its_model_is_named_by_its_tag_or_its_digest() {
        let hex = "0123456789abcdef".repeat(4);
        for (image, name) in [
            (format!("r:5000/car:1.4@sha256:{hex}"), "1.4"),
            (format!("r:5000/car@sha256:{hex}"), "0123456789ab"),
            (
                format!("car:{}@sha256:{hex}", "a".repeat(64)),
                "0123456789ab",
            ),
        ] {
            let pinned = version(serde_json::json!({"serving": {"image": image}}));
            assert_eq!(pinned.name(), name, "{image}");
        }
    }

    /// Objects in clusters have these names: a release that computed another revision would roll
    /// out every model again.
    #[test]
    fn revisions_of_earlier_releases_are_unchanged() {
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
