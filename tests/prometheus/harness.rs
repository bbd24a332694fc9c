//! A router that exports what we tell it to, and a Prometheus that scrapes it every second.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use serin::observe::metrics::{Client, Objective, Question, Source, Versions};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

const CLUSTER: &str = "envoy_cluster_name";
/// Some of Envoy's bucket edges, ms.
const EDGES: [f64; 6] = [0.5, 10.0, 50.0, 100.0, 250.0, 500.0];

pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

pub(crate) fn question(objective: Objective) -> Question {
    Question {
        source: Source::Envoy {
            namespace: "serin-system".into(),
            deployment: "serin-router".into(),
        },
        versions: Versions {
            namespace: "ml".into(),
            name: "churn".into(),
            canary: "cccccccc".into(),
            stable: "55555555".into(),
        },
        objective,
        scrape_interval: Duration::from_secs(1),
    }
}

/// A client as the operator makes it.
pub(crate) fn client(address: SocketAddr) -> Client {
    // Fails when another test has done it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new(&format!("http://{address}/"), http::HeaderMap::new()).unwrap()
}

/// A port that is free now, on the loopback address.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// What a router exports: series (name and labels) and their values, and how often it was asked.
#[derive(Default)]
struct Exported {
    values: BTreeMap<String, u64>,
    scrapes: u64,
}

/// Stands in for an Envoy pod: exports its metrics, of which the test moves the counters.
pub(crate) struct Router {
    pod: &'static str,
    address: SocketAddr,
    exported: Arc<Mutex<Exported>>,
    server: Option<JoinHandle<()>>,
}

impl Router {
    pub(crate) async fn start(pod: &'static str) -> Self {
        let mut router = Self {
            pod,
            address: free_address(),
            exported: Arc::default(),
            server: None,
        };
        router.start_again().await;
        router
    }

    pub(crate) async fn start_again(&mut self) {
        let exported = Arc::clone(&self.exported);
        let metrics = move || async move {
            let mut exported = exported.lock().unwrap();
            exported.scrapes += 1;
            exported
                .values
                .iter()
                .fold(String::new(), |mut text, (series, value)| {
                    writeln!(text, "{series} {value}").unwrap();
                    text
                })
        };
        let app = axum::Router::new().route("/metrics", axum::routing::get(metrics));
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.server = Some(tokio::spawn(async move {
            axum::serve(listener, app).await.unwrap();
        }));
    }

    /// Refuses connections from now on.
    pub(crate) async fn stop(&mut self) {
        let server = self.server.take().unwrap();
        server.abort();
        let _ = server.await;
    }

    /// Counts `requests` that a revision answered with a class (`2`) or, besides their class, a
    /// code (`429`).
    pub(crate) fn count(&self, revision: &str, status: &str, requests: u64) {
        let (name, label) = if status.len() == 1 {
            ("envoy_cluster_upstream_rq_xx", "envoy_response_code_class")
        } else {
            ("envoy_cluster_upstream_rq", "envoy_response_code")
        };
        self.add(name, revision, label, status, requests);
    }

    /// Counts `requests` that a revision answered after `ms`.
    pub(crate) fn time(&self, revision: &str, ms: f64, requests: u64) {
        let name = "envoy_cluster_upstream_rq_time_bucket";
        for edge in EDGES {
            let counted = if ms <= edge { requests } else { 0 };
            self.add(name, revision, "le", &edge.to_string(), counted);
        }
        self.add(name, revision, "le", "+Inf", requests);
    }

    fn add(&self, name: &str, revision: &str, label: &str, value: &str, requests: u64) {
        let series = format!(r#"{name}{{{CLUSTER}="ml/churn/{revision}",{label}="{value}"}}"#);
        *self
            .exported
            .lock()
            .unwrap()
            .values
            .entry(series)
            .or_default() += requests;
    }

    /// As a restarted process does: nothing has been counted.
    pub(crate) fn reset(&self) {
        self.exported.lock().unwrap().values.clear();
    }

    /// Waits until Prometheus has stored the values of now: the second scrape from now begins after
    /// the first was stored.
    pub(crate) async fn scraped_again(&self) {
        let scrapes = || self.exported.lock().unwrap().scrapes;
        let enough = scrapes() + 2;
        let waiting = async {
            while scrapes() < enough {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .expect("Prometheus scrapes every second");
    }
}

/// A Prometheus of our own, which dies with the test.
pub(crate) struct Prometheus {
    binary: PathBuf,
    directory: tempfile::TempDir,
    address: SocketAddr,
    process: Option<Child>,
}

impl Prometheus {
    /// Scrapes `routers` every second. `None`, with the reason printed, where there is no
    /// Prometheus.
    pub(crate) async fn start(routers: &[&Router]) -> Option<Self> {
        let binary = std::env::var_os("SERIN_PROMETHEUS")
            .map_or_else(|| PathBuf::from("/usr/bin/prometheus"), PathBuf::from);
        if !binary.exists() {
            eprintln!(
                "skipped: no Prometheus at {} (SERIN_PROMETHEUS)",
                binary.display()
            );
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("prometheus.yml"), config(routers)).unwrap();
        let mut prometheus = Self {
            binary,
            directory,
            address: free_address(),
            process: None,
        };
        prometheus.start_again().await;
        Some(prometheus)
    }

    /// Scrapes nothing, and holds a past: samples with their time, as OpenMetrics text.
    pub(crate) async fn with_past(openmetrics: &str) -> Option<Self> {
        let prometheus = Self::start(&[]).await?;
        let directory = prometheus.directory.path();
        let text = directory.join("past.om");
        std::fs::write(&text, openmetrics).unwrap();
        // Both come in one package. Prometheus finds new blocks only when it starts.
        let written = Command::new(prometheus.binary.with_file_name("promtool"))
            .args(["tsdb", "create-blocks-from", "openmetrics"])
            .args([text, directory.join("data")])
            .stdout(Stdio::null())
            .status()
            .await
            .unwrap();
        assert!(written.success(), "promtool writes blocks");
        let mut prometheus = prometheus;
        prometheus.stop().await;
        prometheus.start_again().await;
        Some(prometheus)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) async fn start_again(&mut self) {
        let directory = self.directory.path();
        let process = Command::new(&self.binary)
            .arg(format!(
                "--config.file={}",
                directory.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg(format!("--web.listen-address={}", self.address))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let ready = format!("http://{}/-/ready", self.address);
        let _ = client(self.address);
        let waiting = async {
            while !reqwest::get(&ready)
                .await
                .is_ok_and(|r| r.status().is_success())
            {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .expect("Prometheus gets ready");
    }

    /// Ends it in mid-work, as a killed pod ends.
    pub(crate) async fn stop(&mut self) {
        self.process.take().unwrap().kill().await.unwrap();
    }

    pub(crate) fn client(&self) -> Client {
        client(self.address)
    }
}

fn config(routers: &[&Router]) -> String {
    let mut config = String::from(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n\
         scrape_configs:\n- job_name: serin-router\n  static_configs:\n",
    );
    for router in routers {
        writeln!(
            config,
            "  - targets: ['{}']\n    labels: {{namespace: serin-system, pod: {}}}",
            router.address, router.pod
        )
        .unwrap();
    }
    config
}
