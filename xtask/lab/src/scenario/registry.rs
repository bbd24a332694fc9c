//! A real registry (Debian's `docker-registry`), with a password, that pods reach by the name of a
//! Service.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::{Flavour, Layout, process};
use k8s_openapi::api::core::v1::{Endpoints, Secret, Service};
use kube::api::PostParams;
use kube::{Api, Client};
use reqwest::{Method, StatusCode};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::process::Child;

/// Name of the Service, and of the Secret with the password.
const NAME: &str = "registry";
/// The port that the Service has.
const PORT: u16 = 5000;
/// `hunter2` as htpasswd writes it, by bcrypt with cost 5.
const HTPASSWD: &str = "ada:$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n";
const USER: &str = "ada";
const PASSWORD: &str = "hunter2";
/// "ada:hunter2" in base64, as `kubectl create secret docker-registry` writes it.
const AUTH: &str = "YWRhOmh1bnRlcjI=";
/// Longest time until it listens.
const LISTENS_WITHIN: Duration = Duration::from_secs(60);
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The registry's process, on the node; it ends with this value.
pub struct Registry {
    address: SocketAddr,
    client: reqwest::Client,
    _process: Child,
}

impl Registry {
    /// Starts it on a port of the node. It forgets everything when the cluster ends.
    pub async fn start() -> Result<Self> {
        let state = Layout::from_env()?.state();
        let folder = state.path(NAME);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let passwords = folder.join("htpasswd");
        fs::write(&passwords, HTPASSWD)?;
        let node = Flavour::read(&state)?.ip_families.primary().node;
        let address = TcpListener::bind((node, 0))
            .context("this scenario needs the local cluster")?
            .local_addr()?;
        let config = json!({
            "version": 0.1,
            "log": {"accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": folder.join("data")}},
            "http": {"addr": address.to_string(), "secret": "lab"},
            "auth": {"htpasswd": {"realm": "models", "path": passwords}},
        });
        let file = folder.join("config.yml");
        fs::write(&file, config.to_string())?; // JSON is YAML
        let log = fs::File::create(folder.join("log"))?;
        let mut command = process::killed_with_parent("docker-registry");
        command
            .arg("serve")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut process = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start docker-registry")?;
        let deadline = Instant::now() + LISTENS_WITHIN;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if process.try_wait()?.is_some() || Instant::now() > deadline {
                bail!(
                    "the registry does not listen:\n{}",
                    process::log_tail(&folder.join("log"), 15)
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self {
            address,
            client: reqwest::Client::builder().no_proxy().build()?,
            _process: process,
        })
    }

    /// Pushes the files of a folder, as `oras push NAME:TAG FILE…` does.
    pub async fn push(&self, repository: &str, tag: &str, folder: &Path) -> Result<()> {
        let mut layers = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let title = entry.file_name().to_string_lossy().into_owned();
            let bytes = fs::read(entry.path())?;
            layers.push(json!({
                "mediaType": "application/octet-stream",
                "size": bytes.len(),
                "digest": self.push_blob(repository, bytes).await?,
                "annotations": {"org.opencontainers.image.title": title},
            }));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.empty.v1+json",
                "size": 2,
                "digest": self.push_blob(repository, b"{}".to_vec()).await?,
            },
            "layers": layers,
        });
        let path = format!("/v2/{repository}/manifests/{tag}");
        self.send(Method::PUT, &path, MANIFEST, manifest.to_string().into())
            .await
            .map(drop)
    }

    async fn push_blob(&self, repository: &str, bytes: Vec<u8>) -> Result<String> {
        let digest = digest(&bytes);
        let begun = format!("/v2/{repository}/blobs/uploads/");
        let upload = self.send(Method::POST, &begun, "", Vec::new()).await?;
        let location = upload.headers().get("location").context("no location")?;
        let (_, path) = location
            .to_str()?
            .split_once("/v2/")
            .context("a location elsewhere")?;
        let path = format!("/v2/{path}&digest={digest}");
        self.send(Method::PUT, &path, "application/octet-stream", bytes)
            .await?;
        Ok(digest)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Result<reqwest::Response> {
        let request = self
            .client
            .request(method, format!("http://{}{path}", self.address));
        let answer = request
            .basic_auth(USER, Some(PASSWORD))
            .header("content-type", kind)
            .body(body)
            .send()
            .await?;
        let status = answer.status();
        ensure!(
            matches!(status, StatusCode::CREATED | StatusCode::ACCEPTED),
            "the registry answers {path} by {status}"
        );
        Ok(answer)
    }

    /// Makes it known in a namespace: as `registry.NAMESPACE.svc:5000`, with its password in the
    /// Secret `registry`.
    pub async fn expose(&self, client: &Client, namespace: &str) -> Result<()> {
        let host = format!("{NAME}.{namespace}.svc:{PORT}");
        let logins = json!({"auths": {host: {"auth": AUTH}}}).to_string();
        let secret = Secret {
            metadata: named(NAME),
            type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
            string_data: Some(BTreeMap::from([(".dockerconfigjson".to_owned(), logins)])),
            ..Secret::default()
        };
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": NAME},
            "spec": {"ports": [{"name": "http", "port": PORT}]},
        }))?;
        let endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": {"name": NAME},
            "subsets": [{
                "addresses": [{"ip": self.address.ip().to_string()}],
                "ports": [{"name": "http", "port": self.address.port()}],
            }],
        }))?;
        let new = PostParams::default();
        Api::namespaced(client.clone(), namespace)
            .create(&new, &secret)
            .await?;
        Api::namespaced(client.clone(), namespace)
            .create(&new, &service)
            .await?;
        Api::namespaced(client.clone(), namespace)
            .create(&new, &endpoints)
            .await?;
        Ok(())
    }
}

/// The digest of bytes, as registries and artefacts write it.
pub fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let hex = digest.iter().map(|byte| format!("{byte:02x}"));
    format!("sha256:{}", hex.collect::<String>())
}

fn named(name: &str) -> kube::core::ObjectMeta {
    kube::core::ObjectMeta {
        name: Some(name.to_owned()),
        ..Default::default()
    }
}
