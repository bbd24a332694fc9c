//! What needs the operator's own code. `cargo xtask` compiles and starts it: for a scenario inside
//! the cluster's network, for `simulate`, `bench decide` and `crds`.

mod crds;
mod scenario;
mod simulate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One scenario, inside the cluster's network.
    Scenario(scenario::Args),
    /// Whole rollouts on hashed requests: Serin's gate beside Flagger, Argo Rollouts and Kayenta;
    /// fails where a bound is broken.
    Simulate(simulate::Args),
    /// What one decision costs.
    Decide,
    /// Write the CustomResourceDefinition from the types of src/api.
    Crds,
}

fn main() -> ExitCode {
    // reqwest and kube are built without a provider of their own choice; the first to install one
    // wins.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let result = match Cli::parse().command {
        Command::Scenario(args) => scenario::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Decide => simulate::cost::decide(),
        Command::Crds => crds::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
