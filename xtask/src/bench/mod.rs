//! `cargo xtask bench`: what one decision costs, and how fast the serving image is.

mod engines;
mod http;

use anyhow::Result;
use deploy::lab;

/// What is measured.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// One decision of the operator, and the gate's part of it
    Decide,
    /// The serving image's engines beside ONNX Runtime, llama.cpp and sentence-transformers
    Serve(engines::Args),
    /// The serving image over HTTP beside FastAPI, uvicorn and scikit-learn
    ServeHttp(http::Args),
}

/// Measures, and prints.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Decide => lab::run("decide", [""; 0]),
        Command::Serve(args) => engines::run(args),
        Command::ServeHttp(args) => http::run(args),
    }
}
