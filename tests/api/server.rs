//! One etcd and one API server for all tests of this process. The kernel kills them when the
//! process ends.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, Config, api::PostParams};
use serde_json::{Value, json};

use testkit::free_port;

/// The users of the API server; each has a token of that name, and its own lines in the audit log.
pub const TEST: &str = "test";
/// A person.
pub const ADA: &str = "ada";

/// The minor version that is taken from the cache where `SERIN_KUBERNETES` names no other.
const DEFAULT_MINOR: &str = "1.36";
/// The minor versions that Serin is for.
const MINORS: [&str; 4] = ["1.34", "1.35", "1.36", "1.37"];

/// The API server of this process.
pub struct Server {
    url: http::Uri,
    audit_log: PathBuf,
}

/// Or the error of its start: all tests then fail with it, and no other server is started.
static SERVER: OnceLock<Option<Result<Server, String>>> = OnceLock::new();

/// The API server, started at the first call. `None`, with the reason printed, where its programs
/// are missing.
pub fn server() -> Option<&'static Server> {
    let server = SERVER.get_or_init(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (etcd, apiserver) = programs()?;
        Some(Server::start(&fresh_folder(), etcd, apiserver))
    });
    if server.is_none() {
        println!(
            "skipped: needs etcd and kube-apiserver (KUBEBUILDER_ASSETS, or `cargo xtask cluster \
             assets` once)"
        );
    }
    let server = server.as_ref()?;
    Some(server.as_ref().unwrap_or_else(|why| panic!("{why}")))
}

/// The requested minor version; `None` where programs are given without a version.
fn wanted_minor() -> Option<String> {
    let said = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let given = said("KUBEBUILDER_ASSETS").is_some();
    said("SERIN_KUBERNETES").or_else(|| (!given).then(|| DEFAULT_MINOR.to_owned()))
}

/// The folder with the programs.
fn assets() -> Option<PathBuf> {
    let given = std::env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty());
    given.map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty());
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        let cache = cache.map(PathBuf::from).or_else(home)?;
        Some(cache.join("serin/assets").join(wanted_minor()?))
    })
}

/// kubectl.
pub fn kubectl() -> Option<PathBuf> {
    let kubectl = assets()?.join("kubectl");
    kubectl.exists().then_some(kubectl)
}

/// etcd and kube-apiserver.
fn programs() -> Option<(PathBuf, PathBuf)> {
    let folder = assets()?;
    let (etcd, apiserver) = (folder.join("etcd"), folder.join("kube-apiserver"));
    (etcd.exists() && apiserver.exists()).then_some((etcd, apiserver))
}

impl Server {
    fn start(folder: &Path, etcd: PathBuf, apiserver: PathBuf) -> Result<Self, String> {
        write_files(folder);
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
            // A loopback address may not be advertised, and nothing here looks for it.
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--secure-port={port}"),
            format!("--cert-dir={}", path("certificates")),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", path("sa.key")),
            format!("--service-account-signing-key-file={}", path("sa.key")),
            format!("--token-auth-file={}", path("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            // No controller here creates ServiceAccounts.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            crate::grants::OF_OWNERS.to_owned(),
            format!("--audit-policy-file={}", path("audit-policy.json")),
            format!("--audit-log-path={}", path("audit.log")),
        ];
        let ended = leash(vec![
            (etcd, etcd_args, folder.join("etcd.log")),
            (apiserver, apiserver_args, folder.join("apiserver.log")),
        ]);
        let server = Self {
            url: format!("https://127.0.0.1:{port}").parse().unwrap(),
            audit_log: folder.join("audit.log"),
        };
        thread::scope(|scope| scope.spawn(|| server.prepare(&ended)).join().unwrap())?;
        Ok(server)
    }

    /// Waits until the server is up, and installs the CRD: that of the release before, which the
    /// operator's own code then upgrades, so that every test runs behind an upgrade. An error where
    /// one of the programs ends instead.
    #[tokio::main(flavor = "current_thread")]
    async fn prepare(&self, ended: &OnceLock<String>) -> Result<(), String> {
        let start = Instant::now();
        let crds: Api<CustomResourceDefinition> = Api::all(self.client(TEST));
        let crd = crate::upgrade::crd_of_the_release_before();
        while let Err(error) = crds.create(&PostParams::default(), &crd).await {
            if let Some(last_words) = ended.get() {
                return Err(last_words.clone());
            }
            if start.elapsed() > Duration::from_secs(120) {
                return Err(format!("no API server within 120 s: {error}"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let models: Api<serin::api::ModelDeployment> = Api::all(self.client(TEST));
        while models
            .list(&kube::api::ListParams::default())
            .await
            .is_err()
        {
            if start.elapsed() > Duration::from_secs(120) {
                return Err("the CRD is not served within 120 s".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        crate::upgrade::perform(&self.client(TEST)).await;
        crate::grants::install(&self.client(TEST)).await;
        Ok(())
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

/// Starts programs that the kernel kills when this process ends. Returns where the first that ends
/// has its last words.
///
/// The signal comes with the end of the *thread* that started them, so that thread waits for them.
fn leash(programs: Vec<(PathBuf, Vec<String>, PathBuf)>) -> Arc<OnceLock<String>> {
    let (started, wait) = mpsc::channel();
    let ended = Arc::new(OnceLock::new());
    let said = ended.clone();
    thread::spawn(move || {
        let start = |(program, args, log): (PathBuf, Vec<String>, PathBuf)| {
            let name = program.display().to_string();
            let file = fs::File::create(&log).unwrap();
            let child = Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "--"])
                .arg(program)
                .args(args)
                .stdin(Stdio::null())
                .stdout(file.try_clone().unwrap())
                .stderr(file)
                .spawn()
                .unwrap();
            (child, name, log)
        };
        let mut children: Vec<_> = programs.into_iter().map(start).collect();
        started.send(()).unwrap();
        while !children.is_empty() {
            children.retain_mut(|(child, name, log)| {
                let Some(status) = child.try_wait().unwrap() else {
                    return true;
                };
                let text = fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(20)..].join("\n");
                let _ = said.set(format!("{name} ended with {status}:\n{last}"));
                false
            });
            thread::sleep(Duration::from_millis(100));
        }
    });
    wait.recv().unwrap();
    ended
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
    let users = [TEST, ADA, crate::operator::FIRST, crate::operator::SECOND];
    let tokens = users.map(|user| {
        let is_operator = user.starts_with("serin-operator");
        let group = if is_operator {
            "operators"
        } else {
            "system:masters"
        };
        format!("{user},{user},{user},{group}\n")
    });
    fs::write(folder.join("tokens.csv"), tokens.concat()).unwrap();
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
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

#[tokio::test]
async fn the_api_server_is_of_the_minor_version_that_was_asked_for() {
    let Some(server) = server() else { return };
    let version = server.client(TEST).apiserver_version().await.unwrap();
    println!("Kubernetes {}", version.git_version);
    let minors = wanted_minor().map_or_else(|| MINORS.map(String::from).to_vec(), |one| vec![one]);
    let is_one = |minor: &String| version.git_version.starts_with(&format!("v{minor}."));
    assert!(minors.iter().any(is_one), "not one of {minors:?}");
}

#[test]
fn an_api_server_that_ends_at_its_start_is_quoted() {
    use std::os::unix::fs::PermissionsExt;

    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = fresh_folder().join("dies");
    fs::create_dir_all(&folder).unwrap();
    let [etcd, apiserver] = [
        ("etcd", "exec sleep 60"),
        ("apiserver", "echo no such flag >&2; exit 7"),
    ]
    .map(|(name, line)| {
        let path = folder.join(name).with_extension("sh");
        fs::write(&path, format!("#!/bin/sh\n{line}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    });
    let start = Instant::now();
    let error = Server::start(&folder, etcd, apiserver).err().unwrap();
    assert!(
        error.contains("exit status: 7") && error.contains("no such flag"),
        "{error}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "it is not waited for"
    );
}
