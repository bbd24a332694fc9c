//! The kubectl plug-in's process: `kubectl serin status NAME`, `kubectl serin promote NAME` and the
//! others.

use std::process::ExitCode;

use clap::Parser;
use serin::cli::{Arguments, run};

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
