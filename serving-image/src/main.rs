//! `serin-serve`: the bundled inference server.

use std::process::ExitCode;

use clap::Parser as _;
use serin_serve::{cli::Cli, run::run};

/// Kubernetes shows the content of this file in the pod's status. It exists only in pods.
const TERMINATION_LOG: &str = "/dev/termination-log";

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("serin-serve: {error}");
            if std::fs::exists(TERMINATION_LOG).unwrap_or_default() {
                let _ = std::fs::write(TERMINATION_LOG, error.to_string());
            }
            ExitCode::from(error.exit_code())
        }
    }
}
