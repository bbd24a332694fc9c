//! `serin-serve`: the bundled inference server.

use std::process::ExitCode;

use clap::Parser as _;
use serin_serve::{cli::Cli, run::run};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("serin-serve: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
