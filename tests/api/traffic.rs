//! Simulates the routers' counters from the persisted weights, with a real Prometheus that scrapes
//! them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use serin::api::State;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
};

use testkit::free_port;

use crate::world::wait;

/// Requests a tenth of a second, over all versions.
const REQUESTS: f64 = 200.0;

/// What clients send and how versions answer it.
#[derive(Default)]
pub struct Traffic {
    /// Share of answers 5xx, by version.
    pub errors: BTreeMap<String, f64>,
    /// Requests by revision, good and bad.
    counted: BTreeMap<String, (f64, f64)>,
}

impl Traffic {
    /// Advances by a tenth of a second.
    fn flow(&mut self, state: &State) {
        let Some(stable) = &state.stable else { return };
        let weight = state.canary.as_ref().map_or(0, |canary| canary.weight);
        self.answer(&stable.revision.0, &stable.version, 100 - weight);
        if let Some(canary) = &state.canary {
            self.answer(&canary.revision.0, &canary.version, weight);
        }
    }

    fn answer(&mut self, revision: &str, version: &str, weight: u8) {
        let requests = REQUESTS * f64::from(weight) / 100.0;
        let bad = requests * self.errors.get(version).copied().unwrap_or(0.0);
        let counted = self.counted.entry(revision.to_owned()).or_default();
        counted.0 += requests - bad;
        counted.1 += bad;
    }

    /// As Envoy exports it.
    fn text(&self, namespace: &str) -> String {
        let mut text = String::new();
        for (revision, (good, bad)) in &self.counted {
            for (class, count) in [("2", good), ("5", bad)] {
                let cluster = format!("{namespace}/iris/{revision}");
                writeln!(
                    text,
                    "envoy_cluster_upstream_rq_xx{{envoy_cluster_name={cluster:?},\
                     envoy_response_code_class={class:?}}} {}",
                    count.floor()
                )
                .unwrap();
            }
        }
        text
    }
}

/// A router's counters, and the Prometheus that scrapes them every second; it dies with the test.
pub struct Metrics {
    pub url: String,
    pub traffic: Arc<Mutex<Traffic>>,
    files: tempfile::TempDir,
    port: u16,
    prometheus: Option<Child>,
}

impl Metrics {
    /// `None`, with the reason printed, where there is no Prometheus.
    pub async fn start(namespace: &str, state: Arc<Mutex<State>>) -> Option<Self> {
        let binary = std::env::var_os("SERIN_PROMETHEUS").map(PathBuf::from);
        let binary = binary.unwrap_or_else(|| "/usr/bin/prometheus".into());
        if !binary.exists() {
            println!(
                "skipped: no Prometheus at {} (SERIN_PROMETHEUS)",
                binary.display()
            );
            return None;
        }
        let traffic = Arc::<Mutex<Traffic>>::default();
        let flowing = traffic.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let state = state.lock().unwrap().clone();
                flowing.lock().unwrap().flow(&state);
            }
        });
        let router = export(traffic.clone(), namespace.to_owned()).await;
        let files = tempfile::tempdir().unwrap();
        std::fs::write(
            files.path().join("prometheus.yml"),
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
                 scrape_configs:\n- job_name: serin-router\n  static_configs:\n  - targets: \
                 ['127.0.0.1:{router}']\n    \
                 labels: {{namespace: {namespace}, pod: serin-router-5d4f8c7b9-abcde}}\n"
            ),
        )
        .unwrap();
        let port = free_port();
        let mut metrics = Self {
            url: format!("http://127.0.0.1:{port}"),
            traffic,
            files,
            port,
            prometheus: None,
        };
        metrics.start_prometheus(&binary).await;
        Some(metrics)
    }

    /// Waits until some traffic has been scraped: Prometheus takes 5 s to find its targets.
    pub async fn scraped(&self) {
        let query = "sum(increase(envoy_cluster_upstream_rq_xx[1m])) > 0";
        let url = format!("{}/api/v1/query", self.url);
        let ask = async || -> reqwest::Result<String> {
            let request = reqwest::Client::new().post(&url);
            request
                .header("content-type", "application/x-www-form-urlencoded")
                .body(format!("query={}", query.replace('+', "%2B")))
                .send()
                .await?
                .text()
                .await
        };
        wait("Prometheus has counted requests", async || {
            ask().await.is_ok_and(|answer| answer.contains("\"value\""))
        })
        .await;
    }

    async fn start_prometheus(&mut self, binary: &Path) {
        let path = |name: &str| self.files.path().join(name).display().to_string();
        let process = Command::new(binary)
            .arg(format!("--config.file={}", path("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", path("data")))
            .arg(format!("--web.listen-address=127.0.0.1:{}", self.port))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.prometheus = Some(process);
        let ready = format!("{}/-/ready", self.url);
        wait("Prometheus is ready", async || {
            reqwest::get(&ready)
                .await
                .is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }
}

/// Serves the counters on a port of loopback.
async fn export(traffic: Arc<Mutex<Traffic>>, namespace: String) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let metrics = move || async move { traffic.lock().unwrap().text(&namespace) };
    let app = axum::Router::new().route("/metrics", axum::routing::get(metrics));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    port
}
