//! One etcd and one API server for all tests of this process. The kernel ends them with it, however it ends.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, Config, api::PostParams};
use serde_json::{Value, json};

use crate::ports::free_port;

/// Who speaks to the API server; each has a token of that name, and its own lines in the audit log.
pub const TEST: &str = "test";

/// The API server of this process.
pub struct Server {
    url: http::Uri,
    audit_log: PathBuf,
}

static SERVER: OnceLock<Option<Server>> = OnceLock::new();

/// The API server, started by the first who asks. `None`, with the reason printed, where its programs are missing.
pub fn server() -> Option<&'static Server> {
    let server = SERVER.get_or_init(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
        programs().map(|(etcd, apiserver)| Server::start(etcd, apiserver))
    });
    if server.is_none() {
        println!(
            "skipped: needs etcd and kube-apiserver (KUBEBUILDER_ASSETS, or `cargo xtask cluster assets` once)"
        );
    }
    server.as_ref()
}

/// etcd and kube-apiserver.
fn programs() -> Option<(PathBuf, PathBuf)> {
    let given = std::env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty());
    let folder = given.map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty());
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        let cache = cache.map(PathBuf::from).or_else(home)?;
        Some(cache.join("serin/kubernetes-1.20.2/assets"))
    })?;
    let (etcd, apiserver) = (folder.join("etcd"), folder.join("kube-apiserver"));
    (etcd.exists() && apiserver.exists()).then_some((etcd, apiserver))
}

impl Server {
    fn start(etcd: PathBuf, apiserver: PathBuf) -> Self {
        let folder = fresh_folder();
        write_files(&folder);
        let (client_port, peer_port, port) = (free_port(), free_port(), free_port());
        let path = |name: &str| folder.join(name).display().to_string();
        let etcd_url = format!("http://127.0.0.1:{client_port}");
        let peer_url = format!("http://127.0.0.1:{peer_port}");
        let etcd_args = vec![
            format!("--data-dir={}", path("etcd")),
            "--unsafe-no-fsync".to_owned(),
            format!("--listen-client-urls={etcd_url}"),
            format!("--advertise-client-urls={etcd_url}"),
            format!("--listen-peer-urls={peer_url}"),
        ];
        let apiserver_args = vec![
            format!("--etcd-servers={etcd_url}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            format!("--cert-dir={}", path("certificates")),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", path("sa.key")),
            format!("--service-account-signing-key-file={}", path("sa.key")),
            format!("--token-auth-file={}", path("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            // Nobody here makes ServiceAccounts.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            format!("--audit-policy-file={}", path("audit-policy.json")),
            format!("--audit-log-path={}", path("audit.log")),
        ];
        leash(vec![
            (etcd, etcd_args, folder.join("etcd.log")),
            (apiserver, apiserver_args, folder.join("apiserver.log")),
        ]);
        let server = Self {
            url: format!("https://127.0.0.1:{port}").parse().unwrap(),
            audit_log: folder.join("audit.log"),
        };
        thread::scope(|scope| {
            scope.spawn(|| server.prepare(&folder)).join().unwrap();
        });
        server
    }

    /// Waits until the server is up, and installs the CRD.
    #[tokio::main(flavor = "current_thread")]
    async fn prepare(&self, folder: &Path) {
        let start = Instant::now();
        let crds: Api<CustomResourceDefinition> = Api::all(self.client(TEST));
        let crd = serin::api::crd().unwrap();
        while let Err(error) = crds.create(&PostParams::default(), &crd).await {
            assert!(
                start.elapsed() < Duration::from_secs(120),
                "no API server: {error}; logs in {}",
                folder.display()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let models: Api<serin::api::ModelDeployment> = Api::all(self.client(TEST));
        while models
            .list(&kube::api::ListParams::default())
            .await
            .is_err()
        {
            assert!(
                start.elapsed() < Duration::from_secs(120),
                "the CRD is not served"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A client of this user. Belongs to the runtime that asks.
    pub fn client(&self, user: &str) -> Client {
        let mut config = Config::new(self.url.clone());
        config.accept_invalid_certs = true; // signed by itself a moment ago, on loopback
        config.auth_info.token = Some(user.to_owned().into());
        Client::try_from(config).unwrap()
    }

    /// The requests of a user that concern a namespace, as the API server's audit log has them.
    pub fn requests(&self, user: &str, namespace: &str) -> Vec<Request> {
        let log = fs::read_to_string(&self.audit_log).unwrap();
        let events = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter(|event| event["user"]["username"] == user)
            .filter(|event| event["objectRef"]["namespace"] == namespace)
            .map(|event| Request {
                verb: event["verb"].as_str().unwrap().to_owned(),
                resource: event["objectRef"]["resource"].as_str().unwrap().to_owned(),
                name: event["objectRef"]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            })
            .collect()
    }
}

/// One request to the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub verb: String,
    pub resource: String,
    pub name: String,
}

impl Request {
    /// Whether it changes anything.
    pub fn is_write(&self) -> bool {
        !["get", "list", "watch"].contains(&self.verb.as_str())
    }
}

/// Starts programs that the kernel kills when this process ends.
///
/// The signal comes with the end of the *thread* that started them, so that thread waits for them.
fn leash(programs: Vec<(PathBuf, Vec<String>, PathBuf)>) {
    let (started, wait) = mpsc::channel();
    thread::spawn(move || {
        let start = |(program, args, log): (PathBuf, Vec<String>, PathBuf)| {
            let log = fs::File::create(log).unwrap();
            Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "--"])
                .arg(program)
                .args(args)
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap()
        };
        let children: Vec<_> = programs.into_iter().map(start).collect();
        started.send(()).unwrap();
        for mut child in children {
            child.wait().unwrap();
        }
    });
    wait.recv().unwrap();
}

/// A folder for this process. Those of processes that are gone are removed.
fn fresh_folder() -> PathBuf {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("api");
    for entry in fs::read_dir(&base).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let folder = base.join(std::process::id().to_string());
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn write_files(folder: &Path) {
    let users = [TEST, crate::operator::FIRST, crate::operator::SECOND];
    let tokens = users.map(|user| format!("{user},{user},{user},system:masters\n"));
    fs::write(folder.join("tokens.csv"), tokens.concat()).unwrap();
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [{"level": "Metadata"}],
    });
    fs::write(folder.join("audit-policy.json"), policy.to_string()).unwrap();
    let key = Command::new("openssl")
        .args([
            "ecparam",
            "-name",
            "prime256v1",
            "-genkey",
            "-noout",
            "-out",
        ])
        .arg(folder.join("sa.key"))
        .output()
        .unwrap();
    assert!(key.status.success(), "openssl: {key:?}");
}
