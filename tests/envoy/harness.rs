//! A real Envoy, its control plane, model servers and clients, all on loopback.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use serin::router::envoy::{
    Backend, ControlPlane, DEFAULT_TIMEOUT, ModelRoute, RouteKey, RouterModel, Routers,
};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    runtime::Runtime,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use testkit::free_port;

const BOOTSTRAP: &str = include_str!("../../charts/serin/files/envoy-bootstrap.yaml");
const START: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/charts/serin/files/router-start.sh"
);
/// Long enough for a busy machine of two cores; nothing here normally takes a tenth of it.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// Envoy's executable: `$SERIN_ENVOY`, or where `cargo xtask cluster` keeps it.
pub fn envoy_binary() -> Option<PathBuf> {
    let cache = || {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
        Some(base?.join("serin/tools/envoy-1.40/envoy"))
    };
    let binary = std::env::var_os("SERIN_ENVOY")
        .map(PathBuf::from)
        .or_else(cache)?;
    binary.exists().then_some(binary)
}

/// The route key of the model of that name.
pub fn key(name: &str) -> RouteKey {
    RouteKey::new("ml", name)
}

/// A running Envoy; killed when dropped.
pub struct Envoy {
    _process: Child,
    _files: tempfile::TempDir,
    pub admin: u16,
    pub stats: u16,
}

impl Envoy {
    /// Starts Envoy as the chart does, with this node id.
    pub fn start(binary: &Path, id: &str, xds_port: u16) -> Self {
        Self::start_seeing(binary, id, xds_port, "/proc/net/if_inet6")
    }

    /// The same where this file is what says whether the kernel has IPv6.
    pub fn start_seeing(binary: &Path, id: &str, xds_port: u16, if_inet6: &str) -> Self {
        let (admin, stats) = (free_port(), free_port());
        let files = tempfile::tempdir().unwrap();
        let bootstrap = BOOTSTRAP
            .replace("{{ .adminPort }}", &admin.to_string())
            .replace("{{ .statsPort }}", &stats.to_string())
            .replace("{{ .xdsHost }}", "127.0.0.1")
            .replace("{{ .xdsPort }}", &xds_port.to_string());
        let path = files.path().join("envoy.yaml");
        std::fs::write(&path, bootstrap).unwrap();
        let folder = binary.parent().unwrap().display();
        let path_before = std::env::var("PATH").unwrap_or_default();
        let process = Command::new("bash")
            .arg(START)
            .arg(&path)
            .env("PATH", format!("{folder}:{path_before}"))
            .env("IF_INET6", if_inet6)
            .args(["--service-node", id, "--service-cluster", "serin-router"])
            .args(["--drain-time-s", "10", "--drain-strategy", "immediate"])
            .args([
                "--disable-hot-restart",
                "--concurrency",
                "2",
                "--log-level",
                "warning",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            _process: process,
            _files: files,
            admin,
            stats,
        }
    }

    /// Whether the readiness probe passes.
    pub async fn ready(&self) -> bool {
        let url = format!("http://127.0.0.1:{}/ready", self.stats);
        let answer = client()
            .get(url)
            .timeout(Duration::from_secs(1))
            .send()
            .await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    /// Waits until the readiness probe passes.
    pub async fn wait_ready(&self) {
        wait("the router is ready", async || self.ready().await).await;
    }

    /// The whole configuration as Envoy understood it.
    pub async fn config(&self) -> serde_json::Value {
        let url = format!("http://127.0.0.1:{}/config_dump?include_eds", self.admin);
        client()
            .get(url)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    }

    /// What Prometheus would scrape.
    pub async fn metrics(&self) -> String {
        let url = format!("http://127.0.0.1:{}/stats/prometheus", self.stats);
        client()
            .get(url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }
}

/// Waits until a condition holds; fails the test if it never does.
pub async fn wait(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < TIMEOUT, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A control plane in a runtime of its own, which can die as abruptly as a process does.
pub struct Plane {
    plane: ControlPlane,
    runtime: Option<Runtime>,
}

impl Plane {
    /// Serves on a port of loopback.
    pub fn start(port: u16) -> Self {
        let plane = ControlPlane::new();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let served = plane.clone();
        runtime.spawn(async move {
            let listener = loop {
                match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            served
                .serve(listener, CancellationToken::new())
                .await
                .unwrap();
        });
        Self {
            plane,
            runtime: Some(runtime),
        }
    }

    pub fn publish(&self, model: &RouterModel) {
        self.plane.publish(model);
    }

    pub fn routers(&self) -> Routers {
        self.plane.routers()
    }

    /// Publishes and waits until every router has taken over the weights of `model`.
    pub async fn publish_acknowledged(&self, model: &RouterModel, name: &str) {
        self.publish(model);
        let weights = weights(model, name);
        let routers = self.routers();
        let mut changes = routers.changes();
        let all = changes.wait_for(|_| routers.acknowledged(&key(name)).as_ref() == Some(&weights));
        let taken = tokio::time::timeout(TIMEOUT, all).await;
        assert!(
            matches!(taken, Ok(Ok(_))),
            "not taken over: {weights:?}; rejected: {:?}",
            routers.rejected()
        );
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The weights that routers are to acknowledge for a model.
pub fn weights(model: &RouterModel, name: &str) -> Vec<(String, u8)> {
    let backends = &model.routes[&key(name)].backends;
    let weights = backends.iter().map(|b| (b.revision.clone(), b.weight));
    let mut weights: Vec<_> = weights.filter(|(_, weight)| *weight > 0).collect();
    weights.sort();
    weights
}

/// One model with the given versions.
pub fn model(name: &str, port: u16, versions: &[(&Upstream, u8)]) -> RouterModel {
    let backends = versions
        .iter()
        .map(|(upstream, weight)| upstream.backend(*weight));
    let route = ModelRoute {
        port,
        backends: backends.collect(),
        timeout: DEFAULT_TIMEOUT,
    };
    RouterModel {
        routes: BTreeMap::from([(key(name), route)]),
    }
}

/// A model server: answers with its version, or with the status that the request asks for.
pub struct Upstream {
    pub revision: String,
    pub address: SocketAddr,
    hits: Arc<AtomicU64>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct Server {
    revision: String,
    latency: Duration,
    hits: Arc<AtomicU64>,
}

impl Upstream {
    pub async fn start(revision: &str) -> Self {
        Self::start_slow(revision, Duration::ZERO).await
    }

    /// Takes `latency` for each prediction.
    pub async fn start_slow(revision: &str, latency: Duration) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), revision, latency).await
    }

    /// On the loopback address of a family.
    pub async fn start_at(loopback: IpAddr, revision: &str, latency: Duration) -> Self {
        let listener = TcpListener::bind((loopback, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let hits = Arc::new(AtomicU64::new(0));
        let state = Server {
            revision: revision.to_owned(),
            latency,
            hits: Arc::clone(&hits),
        };
        let app = axum::Router::new()
            .route("/predict", post(predict))
            .route("/fail", post(fail).get(fail))
            .route("/livez", get(async || "ok"))
            .with_state(state);
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let server = tokio::spawn(async move {
            axum::serve(listener, app)
                .with_graceful_shutdown(stopped)
                .await
                .unwrap();
        });
        Self {
            revision: revision.to_owned(),
            address,
            hits,
            stop,
            server,
        }
    }

    pub fn backend(&self, weight: u8) -> Backend {
        Backend {
            revision: self.revision.clone(),
            weight,
            endpoints: vec![self.address],
        }
    }

    /// How many requests it has read.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Ends as a pod does: what is under way is answered, then nothing listens any more.
    pub async fn terminate(self) {
        self.stop.cancel();
        tokio::time::timeout(TIMEOUT, self.server)
            .await
            .unwrap()
            .unwrap();
    }
}

async fn predict(State(server): State<Server>) -> ([(&'static str, String); 1], String) {
    server.hits.fetch_add(1, Ordering::Relaxed);
    tokio::time::sleep(server.latency).await;
    (
        [("server", format!("model/{}", server.revision))],
        server.revision,
    )
}

async fn fail(State(server): State<Server>) -> StatusCode {
    server.hits.fetch_add(1, Ordering::Relaxed);
    StatusCode::SERVICE_UNAVAILABLE
}

pub fn client() -> reqwest::Client {
    // Another test may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .timeout(TIMEOUT)
        .build()
        .unwrap()
}

/// Answers by status and version; a request without an answer has the status 0.
pub type Answers = BTreeMap<(u16, String), u64>;

/// How many of all answers did not come from a model with status 200.
pub fn failures(answers: &Answers) -> u64 {
    answers
        .iter()
        .filter(|((status, _), _)| *status != 200)
        .map(|(_, count)| count)
        .sum()
}

/// The share in percent that a version answered.
pub fn share(answers: &Answers, revision: &str) -> f64 {
    let all: u64 = answers.values().sum();
    let own = answers
        .get(&(200, revision.to_owned()))
        .copied()
        .unwrap_or(0);
    100.0 * own as f64 / all as f64
}

/// Clients that send one prediction after the other.
pub struct Traffic {
    answers: Arc<Mutex<Answers>>,
    stop: CancellationToken,
    clients: Vec<JoinHandle<()>>,
}

impl Traffic {
    pub fn start(port: u16, clients: usize) -> Self {
        let (answers, stop) = (Arc::<Mutex<Answers>>::default(), CancellationToken::new());
        let client = client();
        let clients = (0..clients).map(|_| {
            let (client, answers, stop) = (client.clone(), Arc::clone(&answers), stop.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    let answer = predict_once(&client, port).await;
                    *answers.lock().unwrap().entry(answer).or_default() += 1;
                }
            })
        });
        let clients = clients.collect();
        Self {
            answers,
            stop,
            clients,
        }
    }

    /// How many requests were answered.
    pub fn sent(&self) -> u64 {
        self.answers.lock().unwrap().values().sum()
    }

    /// Waits until this many more requests were answered.
    pub async fn more(&self, count: u64) {
        let goal = self.sent() + count;
        wait("traffic flows", async || self.sent() >= goal).await;
    }

    pub async fn stop(self) -> Answers {
        self.stop.cancel();
        for client in self.clients {
            client.await.unwrap();
        }
        Arc::into_inner(self.answers).unwrap().into_inner().unwrap()
    }
}

/// One prediction by way of the router: the status and the version that answered, or 0 and the
/// error.
pub async fn predict_once(client: &reqwest::Client, port: u16) -> (u16, String) {
    predict_at(client, (Ipv4Addr::LOCALHOST, port).into()).await
}

/// The same at an address.
pub async fn predict_at(client: &reqwest::Client, address: SocketAddr) -> (u16, String) {
    let answer = client
        .post(format!("http://{address}/predict"))
        .body("{}")
        .send()
        .await;
    match answer {
        Ok(answer) => {
            let status = answer.status().as_u16();
            (
                status,
                answer
                    .text()
                    .await
                    .unwrap_or_else(|error| error.to_string()),
            )
        }
        Err(error) => (0, format!("{error:?}")),
    }
}
