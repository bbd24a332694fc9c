//! The addresses of artefacts.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::str::FromStr;

use reqwest::Url;

use super::error::FetchError;
use crate::artefact::{Digest, MANIFEST_FILE};

/// Where an artefact is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uri {
    /// `oci://HOST[:PORT]/REPOSITORY:TAG`, `…@sha256:…` or both.
    Oci(Oci),
    /// `s3://BUCKET/PREFIX`: a folder, or an archive.
    S3 {
        /// The bucket.
        bucket: String,
        /// The folder's or the archive's key, without slashes around it.
        key: String,
    },
    /// `https://HOST/PATH`: a folder, or an archive; `http://` where the platform allows it.
    Https(Url),
    /// `hf://OWNER/REPOSITORY@REVISION[/FOLDER]`, or `:REVISION`: a repository of the Hugging Face
    /// Hub, or of a server like it.
    Hf {
        /// `OWNER/REPOSITORY`
        repository: String,
        /// A commit, tag or branch.
        revision: String,
        /// Inside the repository; empty for its root.
        folder: String,
    },
    /// `file:///PATH`: a directory of this machine.
    File(PathBuf),
}

/// A reference to an artefact in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oci {
    /// `HOST[:PORT]`
    pub registry: String,
    /// Such as `models/iris`.
    pub repository: String,
    /// The tag, or the digest if there is no tag.
    pub reference: String,
    /// `sha256:…` of the registry's manifest, where the address pins it.
    pub digest: Option<String>,
}

impl fmt::Display for Oci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci://{}/{}", self.registry, self.repository)?;
        match &self.digest {
            Some(digest) if *digest == self.reference => write!(f, "@{digest}"),
            _ => write!(f, ":{}", self.reference),
        }
    }
}

/// Whether a path or key is an archive, and whether that is compressed.
pub(super) fn archive(path: &str) -> Option<bool> {
    let ends = |suffix: &str| path.to_ascii_lowercase().ends_with(suffix);
    if ends(".tar.gz") || ends(".tgz") {
        Some(true)
    } else {
        ends(".tar").then_some(false)
    }
}

/// The folder of an address, which may name the folder or the manifest in it.
fn folder(path: &str) -> &str {
    let path = path.trim_matches('/');
    let path = path.strip_suffix(MANIFEST_FILE).unwrap_or(path);
    path.trim_end_matches('/')
}

/// Percent-encodes all but what RFC 3986 calls unreserved, and slashes: the form that signatures
/// are made over.
pub(super) fn encode(key: &str) -> String {
    let mut encoded = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}"); // writing to a String cannot fail
        }
    }
    encoded
}

impl FromStr for Uri {
    type Err = FetchError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |expected: &str| FetchError::usage("URI", format!("expected {expected}"));
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| wrong("oci://, s3://, https://, hf:// or file://"))?;
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        if path.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(wrong("a path without `.` and `..`"));
        }
        match scheme {
            "oci" => parse_oci(rest).map(Self::Oci).ok_or_else(|| {
                wrong("oci://HOST/REPOSITORY:TAG or oci://HOST/REPOSITORY@sha256:…")
            }),
            "s3" => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                let letter =
                    |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
                if bucket.is_empty() || !bucket.bytes().all(letter) {
                    return Err(wrong("s3://BUCKET/PREFIX"));
                }
                Ok(Self::S3 {
                    bucket: bucket.to_owned(),
                    key: folder(key).to_owned(),
                })
            }
            "https" | "http" => {
                let url = Url::parse(text).ok().filter(Url::has_host);
                let mut url = url.ok_or_else(|| wrong("https://HOST/PATH"))?;
                let bare = url.username().is_empty() && url.password().is_none();
                if !bare || url.query().is_some() || url.fragment().is_some() {
                    return Err(wrong(
                        "https://HOST/PATH without user, query and fragment; credentials belong \
                         into a Secret (spec.model.credentials, --credentials)",
                    ));
                }
                let path = format!("/{}", folder(url.path()));
                url.set_path(&path);
                Ok(Self::Https(url))
            }
            "hf" => parse_hf(rest).ok_or_else(|| {
                wrong(
                    "hf://OWNER/REPOSITORY@REVISION, with a folder after it \
                                      where the artefact is not at its root",
                )
            }),
            "file" if rest.starts_with('/') && rest.len() > 1 => {
                Ok(Self::File(PathBuf::from(rest)))
            }
            "file" => Err(wrong("file:///PATH")),
            "pvc" => Err(FetchError::usage(
                "URI",
                "pvc:// is mounted by the operator and needs no fetching",
            )),
            _ => Err(wrong("oci://, s3://, https://, hf:// or file://")),
        }
    }
}

fn parse_oci(rest: &str) -> Option<Oci> {
    let (registry, rest) = rest.split_once('/')?;
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().ok()?.to_string())),
        None => (rest, None),
    };
    let (repository, tag) = match rest.rsplit_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (rest, None),
    };
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| {
                byte.is_ascii_lowercase()
                    || byte.is_ascii_digit()
                    || matches!(byte, b'.' | b'_' | b'-')
            })
    };
    let tag_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let sound = !registry.is_empty()
        && !registry.contains(['@', '?', '#', '\\'])
        && repository.split('/').all(part)
        && tag.is_none_or(|tag| !tag.is_empty() && tag.len() <= 128 && tag.bytes().all(tag_letter));
    let reference = digest.clone().or_else(|| tag.map(str::to_owned))?;
    sound.then(|| Oci {
        registry: registry.to_ascii_lowercase(),
        repository: repository.to_owned(),
        reference,
        digest,
    })
}

fn parse_hf(rest: &str) -> Option<Uri> {
    // As the hub's own tools write it, or as KServe does.
    let (repository, rest) = rest.split_once(['@', ':'])?;
    let (revision, inner) = rest.split_once('/').unwrap_or((rest, ""));
    let name = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    let (owner, repo) = repository.split_once('/')?;
    (name(owner) && name(repo) && name(revision)).then(|| Uri::Hf {
        repository: repository.to_owned(),
        revision: revision.to_owned(),
        folder: folder(inner).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn every_scheme_is_read() {
        let hex = "a".repeat(64);
        let oci = |text: &str| match parse(text) {
            Uri::Oci(oci) => (oci.registry, oci.repository, oci.reference),
            other => panic!("{other:?}"),
        };
        let strings = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(
            oci("oci://ghcr.io/team/iris:1.0"),
            strings("ghcr.io", "team/iris", "1.0")
        );
        assert_eq!(oci("oci://r:5000/iris:1"), strings("r:5000", "iris", "1"));
        let digest = format!("sha256:{hex}");
        assert_eq!(
            oci(&format!("oci://r:5000/iris@{digest}")),
            strings("r:5000", "iris", &digest)
        );
        // A digest beside a tag decides.
        assert_eq!(
            oci(&format!("oci://r/iris:1@{digest}")),
            strings("r", "iris", &digest)
        );
        assert_eq!(
            parse("s3://bucket/a/b/"),
            Uri::S3 {
                bucket: "bucket".to_owned(),
                key: "a/b".to_owned()
            }
        );
        assert_eq!(parse("https://h/a/"), parse("https://h/a/serin-model.json"));
        assert_eq!(
            parse("hf://org/model@v1.0/serin"),
            Uri::Hf {
                repository: "org/model".to_owned(),
                revision: "v1.0".to_owned(),
                folder: "serin".to_owned()
            }
        );
        assert_eq!(
            parse("hf://org/model:v1.0/serin"),
            parse("hf://org/model@v1.0/serin")
        );
        assert_eq!(
            parse("file:///models/iris"),
            Uri::File("/models/iris".into())
        );
    }

    #[test]
    fn everything_else_is_refused_with_what_was_expected() {
        for wrong in [
            "",
            "iris",
            "/models/iris",
            "ftp://h/x",
            "gopher://h",
            "pvc://claim/iris",
            "file://iris",
            "file:///",
            "file:///a/../b",
            "https://",
            "https://user:pw@h/x",
            "https://user@h/x",
            "https://h/x?sig=secret",
            "https://h/x#y",
            "https://h/a/../b",
            "oci://r/iris",
            "oci://r",
            "oci:///iris:1",
            "oci://r/IRIS:1",
            "oci://r/iris:",
            "oci://r/a//b:1",
            "oci://u:p@r/iris:1",
            "oci://r/iris@sha256:abc",
            "oci://r/../iris:1",
            "s3://",
            "s3:///key",
            "s3://bu cket/key",
            "s3://bucket/a/../b",
            "hf://org@main",
            "hf://org/model:a@b",
            "hf://org/model",
            "hf://org/model@",
            "hf://org/model@a b",
            "hf://a/b/c@main",
        ] {
            let error = wrong.parse::<Uri>().unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}");
            assert!(
                !error.to_string().contains("secret") && !error.to_string().contains("pw"),
                "{error}"
            );
        }
    }
}
