//! Pushing images to a registry, for clusters whose nodes cannot be given archives.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use cluster::progress::Progress;

use super::{BuiltImage, buildah, cache_dir, lock};

/// A registry and a path in it, such as `ghcr.io/acme` or `127.0.0.1:5000/serin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry(String);

impl Registry {
    /// `HOST` or `HOST:PORT`.
    pub fn host(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }

    /// Where an image is pushed: its name below the path, its content as the tag.
    pub fn place(&self, image: &BuiltImage) -> Result<Place> {
        let name = image.reference.rsplit('/').next().unwrap_or_default();
        let name = name.split(':').next().unwrap_or_default();
        let stem = image.archive.file_stem().and_then(|stem| stem.to_str());
        let (_, tag) = stem
            .and_then(|stem| stem.rsplit_once('-'))
            .with_context(|| format!("{} names no content", image.archive.display()))?;
        Ok(Place {
            repository: format!("{}/{name}", self.0),
            tag: tag.to_owned(),
        })
    }

    /// Whether it is on this machine: docker and containerd speak plain HTTP to such a registry,
    /// too.
    fn is_loopback(&self) -> bool {
        let host = self.host();
        host.starts_with("127.")
            || host.starts_with("[::1]")
            || host.split(':').next() == Some("localhost")
    }
}

impl FromStr for Registry {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.contains("://") {
            bail!("leave the scheme out: HOST/PATH, such as ghcr.io/acme");
        }
        let Some((host, path)) = text.trim_end_matches('/').split_once('/') else {
            bail!("HOST/PATH is expected, such as ghcr.io/acme or 127.0.0.1:5000/serin");
        };
        if !host.contains(['.', ':']) && host != "localhost" {
            bail!("{host} is no host: write docker.io/{text} for Docker Hub");
        }
        let is_name = |part: &str| {
            let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            part.bytes().next().is_some_and(allowed)
                && part
                    .bytes()
                    .all(|byte| allowed(byte) || b"._-".contains(&byte))
        };
        if let Some(part) = path.split('/').find(|part| !is_name(part)) {
            bail!("{part:?} in the path: lower-case letters, digits and . _ - only, no tag");
        }
        Ok(Self(format!("{host}/{path}")))
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An image's name in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `HOST/PATH/NAME`.
    pub repository: String,
    /// The first half of its content key: another content has another tag.
    pub tag: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

/// Pushes an image with buildah, by the credentials that `buildah login` or `docker login` left.
pub fn push(image: &BuiltImage, registry: &Registry, progress: &Progress) -> Result<()> {
    buildah::ensure_installed(progress)?;
    let cache = cache_dir()?;
    let _lock = lock(&cache)?;
    let store = buildah::Store::open(&cache)?;
    let place = registry.place(image)?;
    progress.say(format!("pushing {place}"));
    store.import(&image.archive)?;
    store
        .push(&image.reference, &place, registry.is_loopback())
        .with_context(|| {
            let host = registry.host();
            format!("cannot push {place}: is `buildah login {host}` done?")
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        text.parse::<Registry>().unwrap_err().to_string()
    }

    #[test]
    fn a_registry_is_a_host_and_a_path() {
        for text in ["ghcr.io/acme", "127.0.0.1:5000/serin/dev", "localhost/a"] {
            assert_eq!(text.parse::<Registry>().unwrap().to_string(), text);
        }
        assert!(refusal("https://ghcr.io/acme").contains("scheme"));
        assert!(refusal("ghcr.io").contains("HOST/PATH"));
        assert!(refusal("acme/serin").contains("docker.io/acme/serin"));
        assert!(refusal("ghcr.io/acme:dev").contains("no tag"));
        assert!(refusal("ghcr.io/Acme").contains("lower-case"));
        assert!(refusal("ghcr.io//acme").contains("\"\""));
    }

    #[test]
    fn an_image_keeps_its_name_and_its_content_becomes_the_tag() {
        let image = BuiltImage {
            reference: "localhost/serin-serve-examples:dev".to_owned(),
            archive: "/cache/serve-examples-0123456789abcdef.tar".into(),
            rebuilt: false,
        };
        let registry: Registry = "ghcr.io/acme".parse().unwrap();
        let place = registry.place(&image).unwrap();
        assert_eq!(
            place.to_string(),
            "ghcr.io/acme/serin-serve-examples:0123456789abcdef"
        );
    }

    #[test]
    fn only_registries_on_this_machine_are_spoken_to_without_tls() {
        let is_loopback = |text: &str| text.parse::<Registry>().unwrap().is_loopback();
        assert!(is_loopback("127.0.0.1:5000/a") && is_loopback("localhost:5000/a"));
        assert!(!is_loopback("ghcr.io/a") && !is_loopback("localhost.example.com/a"));
    }
}
