//! A router whose counters the test sets, and a Prometheus that scrapes it every second.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use serin::{
    evidence::Versions,
    observe::metrics::{Client, Objective, Question, Source},
};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use testkit::free_port;

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
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
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

    /// Waits until Prometheus has stored the values of now.
    pub(crate) async fn scraped_again(&self) {
        wait_for_two(|| self.exported.lock().unwrap().scrapes).await;
    }

    pub(crate) fn job(&self) -> Job {
        Job {
            address: self.address,
            labels: format!("namespace: serin-system, pod: {}", self.pod),
            honor_labels: false,
        }
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
        let jobs: Vec<Job> = routers.iter().map(|router| router.job()).collect();
        Self::start_with(&jobs).await
    }

    /// Scrapes each of `jobs` every second. `None`, with the reason printed, where there is no
    /// Prometheus.
    pub(crate) async fn start_with(jobs: &[Job]) -> Option<Self> {
        Self::start_replica("a", jobs).await
    }

    /// The same as one of several replicas, whose name decides when in the second it scrapes.
    pub(crate) async fn start_replica(name: &str, jobs: &[Job]) -> Option<Self> {
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
        std::fs::write(directory.path().join("prometheus.yml"), config(name, jobs)).unwrap();
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

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
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

/// What Prometheus scrapes as one job.
pub(crate) struct Job {
    pub(crate) address: SocketAddr,
    /// Target labels, as in a YAML map.
    pub(crate) labels: String,
    /// Whether the exporter's own labels win over the target's.
    pub(crate) honor_labels: bool,
}

fn config(replica: &str, jobs: &[Job]) -> String {
    let mut config = format!(
        "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  \
         external_labels: {{replica: {replica}}}\nscrape_configs:\n"
    );
    for (number, job) in jobs.iter().enumerate() {
        writeln!(
            config,
            "- job_name: job-{number}\n  honor_labels: {}\n  static_configs:\n  \
             - targets: ['{}']\n    labels: {{{}}}",
            job.honor_labels, job.address, job.labels
        )
        .unwrap();
    }
    config
}

/// Exports one section of a file of recorded series after the other.
pub(crate) struct Recorded {
    job: Job,
    sections: Vec<(String, String)>,
    current: Arc<Mutex<(usize, u64)>>,
}

impl Recorded {
    /// Exports the first section of `tests/prometheus/recorded/<file>`. Sections begin with a line
    /// `# === title`.
    pub(crate) async fn start(file: &str, labels: &str, honor_labels: bool) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/prometheus/recorded");
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let sections: Vec<(String, String)> = text
            .split("# === ")
            .skip(1)
            .map(|section| {
                let (title, series) = section.split_once('\n').unwrap();
                (title.to_owned(), series.to_owned())
            })
            .collect();
        let current = Arc::new(Mutex::new((0, 0)));
        let (exported, now) = (sections.clone(), Arc::clone(&current));
        let metrics = move || async move {
            let mut now = now.lock().unwrap();
            now.1 += 1;
            exported[now.0].1.clone()
        };
        let app = axum::Router::new().route("/metrics", axum::routing::get(metrics));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            job: Job {
                address,
                labels: labels.to_owned(),
                honor_labels,
            },
            sections,
            current,
        }
    }

    pub(crate) fn job(&self) -> Job {
        Job {
            labels: self.job.labels.clone(),
            ..self.job
        }
    }

    /// Exports the section with this title from now on.
    pub(crate) fn turn_to(&self, title: &str) {
        let index = self.sections.iter().position(|(name, _)| name == title);
        self.current.lock().unwrap().0 = index.unwrap();
    }

    /// Waits until Prometheus has stored the values of now.
    pub(crate) async fn scraped_again(&self) {
        wait_for_two(|| self.current.lock().unwrap().1).await;
    }
}

/// Waits for two more scrapes: the second from now begins after the first was stored.
async fn wait_for_two(scrapes: impl Fn() -> u64) {
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
