//! `oci://HOST/REPOSITORY:TAG` or `@sha256:…`: artefacts in a registry, as `oras push` or other OCI
//! tools store them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::client::Client;
use super::credentials::{Credentials, Secret};
use super::download;
use super::error::FetchError;
use super::layout::{Archive, Layout, Wanted};
use super::listing::is_inside;
use super::remote::{Access, Remote};
use super::uri::Oci;
use crate::artefact::{Digest, MANIFEST_FILE};

/// Largest manifest, index or token answer; the specification says 4 MiB.
const MAX_DOCUMENT: u64 = 4 << 20;
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.oci.image.index.v1+json";
/// The annotation that names a layer's file.
const TITLE: &str = "org.opencontainers.image.title";

/// How a registry wants requests to authenticate, as far as known.
#[derive(Debug)]
pub struct Session {
    pair: Option<(String, Secret)>,
    token: Option<Secret>,
    scope: String,
    header: Mutex<Option<HeaderValue>>,
}

/// Types of the configuration of a container image; artefacts have others.
const IMAGE_CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

#[derive(Deserialize)]
struct Manifest {
    config: Option<Config>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    /// Of an index.
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    media_type: String,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Reads the artefact's manifest, and finds where its files are.
pub(super) async fn open(
    client: &Client,
    source: &Oci,
    credentials: &Credentials,
) -> Result<Layout, FetchError> {
    let registry = Registry::new(client, source, credentials)?;
    let mut manifest = registry
        .manifest(client, &source.reference, source.digest.as_deref())
        .await?;
    if manifest.layers.is_empty()
        && let Some(one) = one_of(&manifest.manifests)
    {
        let digest = one.digest.clone();
        manifest = registry.manifest(client, &digest, Some(&digest)).await?;
    } else if !manifest.manifests.is_empty() {
        return Err(FetchError::Content(format!(
            "{source} is an index of {} manifests; name one of them by its digest",
            manifest.manifests.len()
        )));
    }
    registry.layout(source, manifest)
}

/// The only manifest of an index, or the only one for this machine.
fn one_of(manifests: &[Descriptor]) -> Option<&Descriptor> {
    if let [only] = manifests {
        return Some(only);
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut fitting = manifests.iter().filter(|one| {
        let platform = one.platform.as_ref();
        platform.is_some_and(|it| it.os == "linux" && it.architecture == architecture)
    });
    fitting.next().filter(|_| fitting.next().is_none())
}

struct Registry {
    base: Url,
    access: Access,
}

impl Registry {
    fn new(client: &Client, source: &Oci, credentials: &Credentials) -> Result<Self, FetchError> {
        // Docker Hub answers under another name than it is called by.
        let (host, entry) = match source.registry.as_str() {
            "docker.io" | "index.docker.io" => ("registry-1.docker.io", "index.docker.io"),
            other => (other, other),
        };
        let unusable = || FetchError::usage("URI", format!("{host:?} is no registry's host"));
        let secure = Url::parse(&format!("https://{host}/")).map_err(|_| unusable())?;
        let port = secure.port();
        let name = secure.host_str().ok_or_else(unusable)?;
        let scheme = if client.is_plain(name, port.or(Some(80))) {
            "http"
        } else {
            "https"
        };
        let base = Url::parse(&format!("{scheme}://{host}/v2/{}/", source.repository))
            .map_err(|_| unusable())?;
        let pair = credentials
            .registries
            .as_ref()
            .and_then(|registries| registries.find(entry, &source.repository))
            .or(credentials.basic.as_ref())
            .cloned();
        let session = Session {
            pair,
            token: credentials.token.clone(),
            scope: format!("repository:{}:pull", source.repository),
            header: Mutex::new(None),
        };
        Ok(Self {
            base,
            access: Access::Registry(Arc::new(session)),
        })
    }

    fn remote(&self, path: &str) -> Result<Remote, FetchError> {
        let url = self
            .base
            .join(path)
            .map_err(|_| FetchError::usage("URI", format!("{path:?} is no reference")))?;
        Ok(Remote {
            url,
            access: self.access.clone(),
        })
    }

    async fn manifest(
        &self,
        client: &Client,
        reference: &str,
        digest: Option<&str>,
    ) -> Result<Manifest, FetchError> {
        let remote = self.remote(&format!("manifests/{reference}"))?;
        let bytes = download::to_memory(client, &remote, Some(ACCEPT), MAX_DOCUMENT).await?;
        let found = Digest::of(&bytes).to_string();
        if let Some(digest) = digest.filter(|digest| *digest != found) {
            return Err(FetchError::Content(format!(
                "the registry's manifest has {found}, but {digest} was asked for"
            )));
        }
        parse_manifest(reference, &bytes)
    }

    fn layout(&self, source: &Oci, manifest: Manifest) -> Result<Layout, FetchError> {
        let config = manifest.config.map(|config| config.media_type);
        let is_image = config.is_some_and(|config| IMAGE_CONFIGS.contains(&config.as_str()));
        let mut files = BTreeMap::new();
        let mut archives = Vec::new();
        for layer in manifest.layers {
            let sha256: Digest = layer.digest.parse().map_err(|_| {
                FetchError::Content(format!(
                    "a layer of {source} has the digest {:?}; expected sha256",
                    layer.digest
                ))
            })?;
            let remote = self.remote(&format!("blobs/{sha256}"))?;
            let title = layer.annotations.get(TITLE);
            let tar = layer.media_type.contains(".tar") || layer.media_type.ends_with("/x-tar");
            if tar {
                let gzip = match layer.media_type.rsplit(['+', '.', '-']).next() {
                    Some("gzip") => true,
                    Some("tar") => false,
                    other => {
                        return Err(FetchError::Content(format!(
                            "a layer of {source} is compressed by {}; expected tar or tar+gzip",
                            other.unwrap_or_default()
                        )));
                    }
                };
                archives.push(Archive {
                    remote,
                    gzip,
                    wanted: Some(Wanted {
                        size: layer.size,
                        sha256: sha256.hex(),
                    }),
                });
            } else if let Some(title) = title.filter(|title| is_inside(title)) {
                files.insert(title.clone(), (remote, sha256));
            }
        }
        if let Some((_, sha256)) = files.get(MANIFEST_FILE) {
            let manifest = source.digest.is_some().then_some(*sha256);
            let locate = move |path: &str| files.get(path).map(|(remote, _)| remote.clone());
            Ok(Layout::Files {
                locate: Box::new(locate),
                manifest,
            })
        } else if is_image && !archives.is_empty() {
            Ok(Layout::Image(archives))
        } else if archives.is_empty() {
            Err(FetchError::Content(format!(
                "{source} holds neither a file titled {MANIFEST_FILE} nor a tar layer. Push the \
                 artefact's files by their names (`oras push`), or its folder"
            )))
        } else {
            Ok(Layout::Archives(archives))
        }
    }
}

fn parse_manifest(reference: &str, bytes: &[u8]) -> Result<Manifest, FetchError> {
    serde_json::from_slice(bytes).map_err(|error| {
        FetchError::Content(format!(
            "{reference} is no OCI manifest: {error}. Publish the artefact anew"
        ))
    })
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Session {
    /// Whether there is neither a password nor a token for this registry.
    pub(super) fn is_anonymous(&self) -> bool {
        self.pair.is_none() && self.token.is_none()
    }

    /// What the registry accepted, or may accept.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.header
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Answers a 401: with the user and password themselves, or with a token that they buy.
    pub(super) async fn log_in(
        &self,
        client: &Client,
        from: &Url,
        headers: &HeaderMap,
    ) -> Result<(), FetchError> {
        let challenges = headers.get_all(WWW_AUTHENTICATE);
        let challenges: Vec<&str> = challenges
            .iter()
            .filter_map(|it| it.to_str().ok())
            .collect();
        let find = |scheme: &str| {
            challenges.iter().find_map(|text| {
                let (found, rest) = text.split_once(' ').unwrap_or((text, ""));
                found.eq_ignore_ascii_case(scheme).then_some(rest)
            })
        };
        let header = if let Some(token) = &self.token {
            Some(token.bearer()?)
        } else if let Some(parameters) = find("bearer") {
            Some(self.buy_token(client, from, parameters).await?)
        } else if find("basic").is_some() {
            let pair = self.pair.as_ref();
            pair.map(|(user, password)| password.basic(user))
                .transpose()?
        } else {
            None
        };
        *self.header.lock().unwrap_or_else(PoisonError::into_inner) = header;
        Ok(())
    }

    async fn buy_token(
        &self,
        client: &Client,
        from: &Url,
        parameters: &str,
    ) -> Result<HeaderValue, FetchError> {
        let parameters = parse_parameters(parameters);
        let unusable = || {
            FetchError::Source(format!(
                "{} asks for a token, but does not say where one can be had",
                super::hosts::Origin(from)
            ))
        };
        let realm = parameters.get("realm").ok_or_else(unusable)?;
        let mut url = Url::parse(realm).map_err(|_| unusable())?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = parameters.get("service") {
                query.append_pair("service", service);
            }
            // Our own scope, not the registry's word: a token for more than this repository is not
            // asked for.
            query.append_pair("scope", &self.scope);
        }
        let access = match &self.pair {
            Some((user, password)) => Access::Fixed(password.basic(user)?),
            None => Access::Open,
        };
        let remote = Remote { url, access };
        let answer = Box::pin(download::to_memory(client, &remote, None, MAX_DOCUMENT)).await?;
        let token = serde_json::from_slice::<Token>(&answer)
            .ok()
            .and_then(|answer| answer.token.or(answer.access_token))
            .ok_or_else(unusable)?;
        Secret::new(token).bearer()
    }
}

/// `realm="https://…",service="…"`: names in lower case, values without quotes.
pub(super) fn parse_parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while let Some((name, value)) = rest.split_once('=') {
        let name = name.trim_matches([',', ' ']).to_ascii_lowercase();
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => value.split_once(',').unwrap_or((value, "")),
        };
        found.insert(name, value.to_owned());
        rest = after;
    }
    found
}

/// What a registry's manifest says, without asking a registry.
#[cfg(test)]
pub(super) fn layout_of(source: &Oci, manifest: &[u8]) -> Result<Layout, FetchError> {
    let base = Url::parse(&format!(
        "https://{}/v2/{}/",
        source.registry, source.repository
    ));
    let registry = Registry {
        base: base.map_err(|_| FetchError::usage("URI", "expected a host"))?,
        access: Access::Open,
    };
    registry.layout(source, parse_manifest(&source.reference, manifest)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_read_with_and_without_quotes() {
        let found = parse_parameters(
            "realm=\"https://auth.example.com/token?a=b\",service=\"registry, the one\",\
             scope=\"repository:x:pull,push\",error=invalid",
        );
        assert_eq!(found["realm"], "https://auth.example.com/token?a=b");
        assert_eq!(found["service"], "registry, the one");
        assert_eq!(found["scope"], "repository:x:pull,push");
        assert_eq!(found["error"], "invalid");
        assert!(parse_parameters("").is_empty());
        assert!(parse_parameters("realm").is_empty());
    }
}
