//! `cargo xtask bench serve-http`: the serving image over HTTP beside FastAPI + uvicorn +
//! scikit-learn.

use std::process::Command;

use anyhow::Result;
use cluster::{process, repository};

use super::engines;

/// How long, and on what cores.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Times that each server takes its turn
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of a turn
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// Keep the cores from falling asleep between two requests: a virtual machine's take longer to
    /// wake than a request
    #[arg(long)]
    awake: bool,
}

/// Builds as the image is built, and measures.
pub fn run(args: &Args) -> Result<()> {
    let built = engines::build(&["--bin", "serin-serve", "--example", "floor"])?;
    let script = repository::root().join("serving-image/scripts/bench_http.py");
    let mut measure = Command::new("python3");
    measure
        .arg(script)
        .arg("--binary")
        .arg(built.join("serin-serve"))
        .arg("--floor")
        .arg(built.join("examples/floor"))
        .args(["--rounds", &args.rounds.to_string()])
        .args(["--seconds", &args.seconds.to_string()]);
    if args.awake {
        measure.arg("--awake");
    }
    process::run_visibly(&mut measure)
}
