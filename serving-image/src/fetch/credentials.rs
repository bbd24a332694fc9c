//! Credentials: from the files of a mounted Secret, or from the environment. Never from flags, and
//! never shown.

use std::fmt;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use std::collections::BTreeMap;

use super::error::FetchError;

/// A text that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Secret {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for a signature or a request.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    /// `Bearer …`. An error where the token has characters that a header may not have.
    pub fn bearer(&self) -> Result<HeaderValue, FetchError> {
        header("token", &format!("Bearer {}", self.0))
    }

    /// `Basic …`. An error where the two have characters that a header may not have.
    pub fn basic(&self, user: &str) -> Result<HeaderValue, FetchError> {
        let pair = BASE64.encode(format!("{user}:{}", self.0));
        header("password", &format!("Basic {pair}"))
    }
}

fn header(field: &str, text: &str) -> Result<HeaderValue, FetchError> {
    let mut value: HeaderValue = text.parse().map_err(|_| {
        FetchError::usage(
            format!("the credentials' {field}"),
            "expected visible ASCII letters, without a line break",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The files that are looked for.
const KEYS: [&str; 11] = [
    ".dockerconfigjson",
    "config.json",
    "username",
    "password",
    "token",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL_S3",
    "ca.crt",
];

/// Everything that credentials can say. Each key is a file of the Secret, or a variable of the
/// environment:
///
/// | key | variable | used by |
/// |---|---|---|
/// | `.dockerconfigjson`, `config.json` | | `oci` |
/// | `username`, `password` | `SERIN_FETCH_USERNAME`, `SERIN_FETCH_PASSWORD` | `oci`, `https` |
/// | `token` | `SERIN_FETCH_TOKEN`, for `hf` also `HF_TOKEN` | `https`, `hf`, `oci` |
/// | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` | the same | `s3` |
/// | `AWS_REGION` | the same, or `AWS_DEFAULT_REGION` | `s3` |
/// | `AWS_ENDPOINT_URL_S3` | the same, or `AWS_ENDPOINT_URL` | `s3` |
/// | `ca.crt` | | all: further authorities, in PEM |
#[derive(Debug, Default, Clone)]
pub struct Credentials {
    /// User and password.
    pub basic: Option<(String, Secret)>,
    /// A bearer token.
    pub token: Option<Secret>,
    /// Users and passwords by registry.
    pub registries: Option<DockerConfig>,
    /// An access key, its secret, and a session's token.
    pub aws: Option<(String, Secret, Option<Secret>)>,
    /// The region of the bucket.
    pub aws_region: Option<String>,
    /// Where the S3 server is.
    pub aws_endpoint: Option<String>,
    /// Certificates in PEM.
    pub authorities: Option<Vec<u8>>,
}

impl Credentials {
    /// Reads the files of `directory`, and what they leave open from the environment. An error
    /// where the directory holds none of the keys, a value is no text, or one of a pair is missing.
    pub fn read(
        directory: Option<&Path>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, FetchError> {
        if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
            return Err(FetchError::usage(
                "--credentials",
                format!("{} is no directory", directory.display()),
            ));
        }
        if let Some(directory) = directory
            && KEYS.iter().all(|key| !directory.join(key).exists())
        {
            return Err(FetchError::usage(
                "the credentials",
                format!(
                    "{} holds none of {}; does the Secret (spec.model.credentials) exist in this \
                     namespace, with one of these keys?",
                    directory.display(),
                    KEYS.join(", ")
                ),
            ));
        }
        let file = |name: &str| read_key(directory, name);
        // A Secret written by `echo` ends in a line break.
        let text = |key: &str, variables: &[&str]| -> Result<Option<String>, FetchError> {
            let found = match file(key)? {
                Some(bytes) => Some(String::from_utf8(bytes).map_err(|_| {
                    FetchError::usage(format!("the credentials' {key}"), "expected a text")
                })?),
                None => variables.iter().find_map(|name| environment(name)),
            };
            Ok(found
                .map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty()))
        };
        let pair = |first: (&str, Option<String>), second: (&str, Option<String>)| match (
            first.1, second.1,
        ) {
            (Some(first), Some(second)) => Ok(Some((first, Secret(second)))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(missing(first.0, second.0)),
            (None, Some(_)) => Err(missing(second.0, first.0)),
        };
        let aws = |key: &'static str| Ok::<_, FetchError>((key, text(key, &[key])?));
        let session = aws("AWS_SESSION_TOKEN")?.1.map(Secret);
        let docker = match file(".dockerconfigjson")? {
            Some(bytes) => Some(bytes),
            None => file("config.json")?,
        };
        Ok(Self {
            basic: pair(
                ("username", text("username", &["SERIN_FETCH_USERNAME"])?),
                ("password", text("password", &["SERIN_FETCH_PASSWORD"])?),
            )?,
            token: text("token", &["SERIN_FETCH_TOKEN", "HF_TOKEN"])?.map(Secret),
            registries: docker
                .map(|bytes| DockerConfig::parse(&bytes))
                .transpose()?,
            aws: pair(aws("AWS_ACCESS_KEY_ID")?, aws("AWS_SECRET_ACCESS_KEY")?)?
                .map(|(key, secret)| (key, secret, session)),
            aws_region: text("AWS_REGION", &["AWS_REGION", "AWS_DEFAULT_REGION"])?,
            aws_endpoint: text(
                "AWS_ENDPOINT_URL_S3",
                &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
            )?,
            authorities: file("ca.crt")?,
        })
    }
}

fn missing(there: &str, missing: &str) -> FetchError {
    FetchError::usage(
        "the credentials",
        format!("{there} is there, but {missing} is missing; give both"),
    )
}

fn read_key(directory: Option<&Path>, name: &str) -> Result<Option<Vec<u8>>, FetchError> {
    let Some(path) = directory.map(|directory| directory.join(name)) else {
        return Ok(None);
    };
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FetchError::usage(
            format!("the credentials' {name}"),
            format!("cannot be read: {error}"),
        )),
    }
}

/// The `auths` of a Docker `config.json`, as a Secret of type `kubernetes.io/dockerconfigjson`
/// holds it.
#[derive(Debug, Clone, Default)]
pub struct DockerConfig(BTreeMap<String, (String, Secret)>);

#[derive(Deserialize)]
struct Auths {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(rename = "auth")]
    pair: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl DockerConfig {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, FetchError> {
        let wrong = |what: String| {
            FetchError::usage(
                "the credentials' .dockerconfigjson",
                format!("{what}; expected what `kubectl create secret docker-registry` writes"),
            )
        };
        // The reason is left out: it may quote the text.
        let Auths { auths } = serde_json::from_slice(bytes)
            .map_err(|_| wrong("it is no Docker configuration".to_owned()))?;
        let mut registries = BTreeMap::new();
        for (registry, auth) in auths {
            let pair = match (auth.username, auth.password, auth.pair) {
                (Some(user), Some(password), _) => (user, password),
                (_, _, Some(encoded)) => BASE64
                    .decode(encoded.trim())
                    .ok()
                    .and_then(|bytes| String::from_utf8(bytes).ok())
                    .and_then(|text| {
                        let (user, password) = text.split_once(':')?;
                        Some((user.to_owned(), password.to_owned()))
                    })
                    .ok_or_else(|| {
                        wrong(format!(
                            "auths[{registry:?}].auth is not base64 of USER:PASSWORD"
                        ))
                    })?,
                _ => continue,
            };
            registries.insert(normal(&registry).to_owned(), (pair.0, Secret(pair.1)));
        }
        Ok(Self(registries))
    }

    /// The user and password for a repository: the entry with the longest path that leads to it, as
    /// the kubelet chooses.
    pub fn find(&self, registry: &str, repository: &str) -> Option<&(String, Secret)> {
        let whole = format!("{registry}/{repository}/");
        self.0
            .iter()
            .filter(|(key, _)| whole.starts_with(&format!("{key}/")))
            .max_by_key(|(key, _)| key.len())
            .map(|(_, pair)| pair)
    }
}

/// An entry's key without protocol and API version: `https://index.docker.io/v1/` is
/// `index.docker.io`.
fn normal(key: &str) -> &str {
    let key = key
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let key = key.trim_end_matches('/');
    key.trim_end_matches("/v1").trim_end_matches("/v2")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn secret(files: &[(&str, &str)]) -> Result<Credentials, FetchError> {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        let environment =
            |name: &str| (name == "HF_TOKEN").then(|| "from-the-environment".to_owned());
        Credentials::read(Some(directory.path()), environment)
    }

    #[test]
    fn files_come_before_the_environment_and_are_never_shown() {
        let found = secret(&[
            ("username", "ada\n"),
            ("password", "hunter2\n"),
            ("token", "t0k3n"),
        ])
        .unwrap();
        assert_eq!(
            found.basic,
            Some(("ada".to_owned(), Secret::new("hunter2")))
        );
        assert_eq!(found.token, Some(Secret::new("t0k3n")));
        let shown = format!("{found:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("t0k3n"),
            "{shown}"
        );
        assert_eq!(
            secret(&[("ca.crt", "-")]).unwrap().token,
            Some(Secret::new("from-the-environment"))
        );
        let headers = [
            Secret::new("t0k3n").bearer().unwrap(),
            Secret::new("hunter2").basic("ada").unwrap(),
        ];
        assert!(headers.iter().all(HeaderValue::is_sensitive));
    }

    #[test]
    fn what_is_half_or_malformed_is_said_without_quoting_it() {
        for (files, word) in [
            (vec![], "does the Secret"),
            (vec![("Username", "ada")], "does the Secret"),
            (vec![("username", "ada")], "password is missing"),
            (
                vec![("AWS_SECRET_ACCESS_KEY", "hunter2")],
                "AWS_ACCESS_KEY_ID is missing",
            ),
            (
                vec![(".dockerconfigjson", "hunter2")],
                "no Docker configuration",
            ),
            (
                vec![("config.json", r#"{"auths": {"r.io": {"auth": "hunter2"}}}"#)],
                "auths[\"r.io\"].auth",
            ),
        ] {
            let said = secret(&files).unwrap_err();
            assert_eq!(said.exit_code(), 2);
            assert!(said.to_string().contains(word), "{said}");
            assert!(!said.to_string().contains("hunter2"), "{said}");
        }
        let broken = Secret::new("hunter2\nX-Evil: 1")
            .bearer()
            .unwrap_err()
            .to_string();
        assert!(!broken.contains("hunter2"), "{broken}");
    }

    #[test]
    fn the_longest_path_of_a_docker_configuration_wins() {
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "ZG9ja2VyOnB3MQ=="},
            "r.example.com:5000": {"username": "all", "password": "pw2"},
            "r.example.com:5000/team": {"auth": "dGVhbTpwdzp3aXRoOmNvbG9ucw=="},
            "empty.example.com": {}
        }}"#;
        let config = DockerConfig::parse(text.as_bytes()).unwrap();
        let user = |registry, repository| {
            config
                .find(registry, repository)
                .map(|(user, _)| user.as_str())
        };
        assert_eq!(user("r.example.com:5000", "other/iris"), Some("all"));
        assert_eq!(user("r.example.com:5000", "team/iris"), Some("team"));
        assert_eq!(user("r.example.com:5000", "teammate/iris"), Some("all"));
        assert_eq!(user("r.example.com", "team/iris"), None);
        assert_eq!(user("index.docker.io", "library/iris"), Some("docker"));
        assert_eq!(user("empty.example.com", "iris"), None);
        assert_eq!(
            config.find("r.example.com:5000", "team/iris").unwrap().1,
            Secret::new("pw:with:colons")
        );
    }
}
