//! `cargo xtask play`: one scenario on a cluster that has Serin.

use anyhow::{Context, Result};
use clap::ValueEnum;
use cluster::progress::Progress;
use cluster::{Cluster, REGISTRY, ensure_packages, process};

use crate::images::Registry;
use crate::{install, lab, upgrade};

/// What `demo` and `play` take alike.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Requests a second of the demo
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub rate: u32,
    /// After the demo, count the operator's API requests of so many idle minutes
    #[arg(long, default_value_t = 0)]
    pub idle_minutes: u32,
    /// Push the images to this registry, and let the cluster of `--context` pull them from there
    #[arg(long, value_name = "HOST/PATH")]
    pub registry: Option<Registry>,
}

impl Options {
    /// The same on another command line.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--rate={}", self.rate),
            format!("--idle-minutes={}", self.idle_minutes),
        ];
        let registry = self.registry.iter();
        arguments.extend(registry.map(|registry| format!("--registry={registry}")));
        arguments
    }
}

/// Arguments of `cargo xtask play`.
#[derive(Debug, clap::Args)]
pub struct PlayArgs {
    /// Which
    scenario: Scenario,
    #[command(flatten)]
    options: Options,
    /// The release that `upgraded` upgrades from, as a revision of this clone
    #[arg(long, value_name = "REVISION", default_value = upgrade::FROM)]
    from: String,
    /// Events of the grid; all of them where none is named
    #[arg(long = "event", value_parser = EVENTS)]
    events: Vec<String>,
}

/// What `--event` takes: the events of the grid, which the lab plays.
pub const EVENTS: [&str; 8] = [
    "routers-replaced",
    "operators-killed",
    "deployments-denied",
    "webhook-times-out",
    "pods-evicted",
    "no-new-pods",
    "status-deleted",
    "prometheus-stopped",
];

/// What can be played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// A good version promoted, two bad ones rolled back, one of them refused the second time.
    Demo,
    /// Every operator killed in the middle of a canary.
    OperatorKilledInCanary,
    /// The leading operator killed in the moment of a rollback.
    LeaderKilledInRollback,
    /// Prometheus stopped in the middle of a canary, and started again.
    PrometheusStopped,
    /// Steps and a promotion agreed to, a rollout undone, aborted, retried, and promoted on a
    /// person's word; then the model put to sleep and woken up.
    Commands,
    /// A stable version that fails every request, and the way back to the one before it.
    StableWedged,
    /// Every router pod replaced by a new one in the middle of a canary.
    RoutersReplaced,
    /// Models out of a registry, one with a wrong digest; the serving pods restarted; a batch Job
    /// whose pod is deleted.
    ModelsFetched,
    /// A canary that turns bad, without and with a policy that denies every write of a Deployment.
    PolicyDenies,
    /// A spec that cannot be used, and then every router pod replaced.
    InvalidAndRoutersReplaced,
    /// A quota that denies the canary's pods, and then goes.
    QuotaDenies,
    /// The node drained under one of the canary's pods, and then back.
    NodeDrained,
    /// An autoscaler on CPU that goes up and down through a whole rollout.
    HpaScales,
    /// Operator, chart and CRD upgraded from an earlier release, with a model in each phase.
    Upgraded,
    /// A dozen states × all that a cluster does to them.
    Grid,
}

/// `cargo xtask play`: sets the stage, then plays a scenario inside the cluster's network, with
/// this process's output.
pub fn play(args: &PlayArgs, cluster: &Cluster) -> Result<()> {
    let mut upgrade = Vec::new();
    if args.scenario == Scenario::Upgraded {
        upgrade = upgrade::prepare(cluster, &args.from)?;
    } else {
        install::install(cluster, args.options.registry.as_ref())?;
    }
    if args.scenario == Scenario::ModelsFetched {
        ensure_packages(REGISTRY, &Progress::new("stage"))?;
    }
    let name = args
        .scenario
        .to_possible_value()
        .context("every scenario has a name")?;
    Progress::new("lab").say("compiling the scenarios, where they are not current");
    let mut command = cluster.command(lab::program()?)?;
    command
        .arg("scenario")
        .arg(name.get_name())
        .args(["--rate", &args.options.rate.to_string()])
        .args(["--idle-minutes", &args.options.idle_minutes.to_string()]);
    for event in &args.events {
        command.args(["--event", event]);
    }
    if matches!(cluster, Cluster::Context(_)) {
        command.arg("--through-port-forward");
    }
    if let Some(log) = cluster.audit_log()? {
        command.arg("--audit-log").arg(log);
    }
    if !upgrade.is_empty() {
        command.arg("--").args(upgrade);
    }
    process::run_visibly(&mut command)
}
