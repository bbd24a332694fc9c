//! The kubectl plug-in: `kubectl serin status NAME`, `kubectl serin explain NAME`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kube::{Api, Client, Config, config::KubeConfigOptions};
use serin::{
    api::ModelDeployment,
    report::{explain, report, terminal_width},
};

/// Looks at rollouts of ModelDeployments.
#[derive(Parser)]
#[command(name = "kubectl serin", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    /// The kubeconfig's context to use; the current one where absent.
    #[arg(long, global = true)]
    context: Option<String>,
    /// The namespace; the context's where absent.
    #[arg(long, short, global = true)]
    namespace: Option<String>,
}

#[derive(Subcommand)]
enum Verb {
    /// Where a rollout stands, what its gates say, and what was decided and why.
    Status {
        /// The ModelDeployment's name.
        name: String,
    },
    /// Why: the last decisions with all that was asked and counted, what comes next, and what you can do.
    Explain {
        /// The ModelDeployment's name.
        name: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("a TLS provider was installed already");
    }
    match run(Arguments::parse()).await {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<String, Box<dyn std::error::Error>> {
    let options = KubeConfigOptions {
        context: arguments.context,
        ..KubeConfigOptions::default()
    };
    let config = Config::from_kubeconfig(&options).await?;
    let namespace = arguments
        .namespace
        .unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config)?;
    let models: Api<ModelDeployment> = Api::namespaced(client, &namespace);
    match arguments.verb {
        Verb::Status { name } => Ok(report(&models.get(&name).await?)),
        Verb::Explain { name } => Ok(explain(
            &models.get(&name).await?,
            jiff::Timestamp::now(),
            terminal_width(),
        )),
    }
}
