//! Everything a developer runs: `cargo xtask COMMAND`.
//!
//! Nothing here needs the operator's code, so that a cluster ends also while Serin does not
//! compile. What does need it is in the program `lab`, which is compiled when it is first asked
//! for.

mod bench;
mod chart;
mod test;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use deploy::{images, lab};

/// Developer commands of Serin.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    /// Use the cluster of this kubeconfig context (kind, k3d, a real one) instead of the local
    /// cluster.
    #[arg(long, global = true, value_name = "NAME", env = "SERIN_CONTEXT")]
    context: Option<String>,
    #[command(flatten)]
    local: cluster::Wanted,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A real Kubernetes on this machine, in namespaces of its own.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// The container images of the local cluster.
    Images(images::Args),
    /// A good version promoted and two bad ones rolled back, under live traffic, on a cluster from
    /// nothing.
    Demo(deploy::DemoArgs),
    /// Check what the Helm chart renders, with helm, Envoy and promtool.
    Chart,
    /// Write the CustomResourceDefinition from the types of src/api.
    Crds,
    /// Whole rollouts on hashed requests: Serin's gate beside Flagger, Argo Rollouts and Kayenta;
    /// fails where a bound is broken (`simulate --help` names its arguments).
    #[command(disable_help_flag = true)]
    Simulate {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// What one decision costs, how fast texts are encoded, and how fast requests are answered.
    #[command(subcommand)]
    Bench(bench::Command),
    /// Every check of the project; ends with the test runners' summaries.
    Test(test::Args),
    /// One scenario of the end-to-end tests; the cluster stays up.
    Play(deploy::PlayArgs),
    /// Process 1 of the cluster's namespaces.
    #[command(hide = true, name = cluster::INIT_COMMAND)]
    ClusterInit(cluster::InitArgs),
}

fn main() -> ExitCode {
    // kube is built without a provider of its own choice.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let cluster = cluster::Cluster::new(cli.context, cli.local);
    let result = match cli.command {
        Command::Cluster(command) => cluster::run(command, &cluster),
        Command::Images(args) => images::run(args),
        Command::Demo(args) => deploy::demo(&args, &cluster),
        Command::Play(args) => deploy::play(&args, &cluster),
        Command::Chart => chart::check(),
        Command::Crds => lab::run("crds", [""; 0]),
        Command::Simulate { args } => lab::run("simulate", args),
        Command::Bench(command) => bench::run(&command),
        Command::Test(args) => test::run(&args, cli.local, &cluster::repository::root()),
        Command::ClusterInit(args) => cluster::init(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
