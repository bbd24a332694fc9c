//! What pins a version's content, as status shows it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{VersionSpec, validate::is_fetched};

/// What was verified of the versions in use, and what could not be.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Verified {
    /// Of the stable version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable: Option<Verification>,
    /// Of the canary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Verification>,
}

/// How the content of one version was verified before its pods were Ready.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// The model.
    pub model: ModelVerification,
    /// The serving image.
    pub image: ImageVerification,
}

/// How a model was verified.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelVerification {
    /// Every file, by `spec.model.digest`.
    ModelDigest,
    /// Every layer, by the registry's digest in `spec.model.uri`.
    RegistryDigest,
    /// With the image that holds it, by the image's digest.
    ImageDigest,
    /// Not at all: it is mounted and has no digest, or an image of one's own reads it, which does
    /// not check one.
    Unverified,
}

/// How an image was verified.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageVerification {
    /// By the digest in its name.
    Digest,
    /// Not at all: a tag can name another image tomorrow.
    Tag,
}

impl VersionSpec {
    /// How the version is verified, where `bundled_image` is the operator's.
    pub fn verification(&self, bundled_image: &str) -> Verification {
        let image = self.serving.image.as_deref().unwrap_or(bundled_image);
        let image = if image.contains("@sha256:") {
            ImageVerification::Digest
        } else {
            ImageVerification::Tag
        };
        let model = match &self.model {
            None => ModelVerification::ImageDigest,
            Some(model) => {
                // The init container checks what it fetches, and the bundled server what it loads.
                let is_checked = is_fetched(&model.uri) || self.serving.is_bundled(bundled_image);
                match &model.digest {
                    Some(_) if is_checked => ModelVerification::ModelDigest,
                    None if is_fetched(&model.uri) => ModelVerification::RegistryDigest,
                    _ => ModelVerification::Unverified,
                }
            }
        };
        Verification { model, image }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_version_says_what_pins_it() {
        let pinned = "car@sha256:00";
        let model = |uri: &str, digest: Value| {
            let mut model = json!({"uri": uri, "version": "1"});
            if !digest.is_null() {
                model["digest"] = digest;
            }
            model
        };
        let (digest, none) = (json!("sha256:00"), Value::Null);
        for (model, image, verified) in [
            (
                model("s3://b/m", digest.clone()),
                "vllm:1",
                ["ModelDigest", "Tag"],
            ),
            (
                model("oci://r/m@sha256:00", none.clone()),
                pinned,
                ["RegistryDigest", "Digest"],
            ),
            (
                model("pvc://c/m", digest.clone()),
                "serve:2",
                ["ModelDigest", "Tag"],
            ),
            (model("pvc://c/m", digest), "vllm:1", ["Unverified", "Tag"]),
            (model("pvc://c/m", none), "serve:2", ["Unverified", "Tag"]),
            (Value::Null, pinned, ["ImageDigest", "Digest"]),
        ] {
            let version = json!({"model": model, "serving": {"image": image}});
            let version: VersionSpec = serde_json::from_value(version).unwrap();
            let found = serde_json::to_value(version.verification("serve:1")).unwrap();
            assert_eq!(
                found,
                json!({"model": verified[0], "image": verified[1]}),
                "{model}"
            );
        }
    }
}
