//! The operator's process.

use std::process::ExitCode;

use clap::Parser;
use serin::{
    cli::subcommands,
    runtime::{log, operator, settings::Settings},
};

fn main() -> ExitCode {
    // Dependencies may compile in two TLS providers, so one is chosen before the first connection.
    let named_a_provider = rustls::crypto::ring::default_provider()
        .install_default()
        .is_ok();
    if subcommands::is_named(std::env::args_os()) {
        return subcommands::run(&subcommands::Arguments::parse());
    }
    let settings = Settings::parse();
    if let Err(error) = log::start(&settings.log_level, settings.log_format) {
        eprintln!(
            "--log-level: {error}; expected a level such as info, or directives such as \
             info,serin=debug"
        );
        return ExitCode::from(2);
    }
    if !named_a_provider {
        tracing::warn!("a TLS provider was installed already");
    }
    match operator::run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the operator ends");
            ExitCode::FAILURE
        }
    }
}
