//! Everything a developer runs: `cargo xtask COMMAND`.

mod chart;
mod cluster;
mod crds;
mod encoders;
mod images;
mod lab;
mod process;
mod progress;
mod requests;
mod simulate;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of Serin.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    /// Use the cluster of this kubeconfig context (kind, k3d, a real one) instead of the local cluster.
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
    /// A good version promoted and two bad ones rolled back, under live traffic, on a cluster from nothing.
    Demo(lab::DemoArgs),
    /// Check what the Helm chart renders, with helm, Envoy and promtool.
    Chart,
    /// Write the CustomResourceDefinition from the types of src/api.
    Crds,
    /// Whole rollouts on hashed requests: Serin's gate beside Flagger, Argo Rollouts and Kayenta; fails where a bound is broken.
    Simulate(simulate::Args),
    /// What one decision costs, how fast texts are encoded, and how fast requests are answered.
    #[command(subcommand)]
    Bench(simulate::bench::Command),
    /// Every check of the project; ends with the test runners' summaries.
    Test(test::Args),
    /// One scenario of the end-to-end tests; the cluster stays up.
    Play(lab::PlayArgs),
    /// One scenario, played inside the cluster's network.
    #[command(hide = true)]
    Lab(lab::LabArgs),
    /// Process 1 of the cluster's namespaces.
    #[command(hide = true, name = cluster::INIT_COMMAND)]
    ClusterInit(cluster::InitArgs),
}

fn main() -> ExitCode {
    // reqwest and kube are built without a provider of their own choice; the first to install one wins.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let cluster = cluster::Cluster::new(cli.context, cli.local);
    let result = match cli.command {
        Command::Cluster(command) => cluster::run(command, &cluster),
        Command::Images(args) => images::run(args),
        Command::Demo(args) => lab::demo(&args, &cluster),
        Command::Play(args) => lab::play(&args, &cluster),
        Command::Lab(args) => lab::run(&args),
        Command::Chart => chart::check(),
        Command::Crds => crds::run(&images::repository_root()),
        Command::Simulate(args) => simulate::run(&args),
        Command::Bench(command) => simulate::bench::run(&command),
        Command::Test(args) => test::run(&args, cli.local, &images::repository_root()),
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
