//! `cargo xtask bench serve`: the serving image's text encoder beside onnxruntime.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{images, process};

/// How long, and on how many cores.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Times that each peer takes its turn; ten times as many for a single text
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Threads of each peer [default: the CPUs this process may use]
    #[arg(long)]
    threads: Option<u32>,
}

/// Builds as the image is built, fetches the weights, and measures.
pub fn run(args: &Args) -> Result<()> {
    let built = build(&["--example", "encode"])?;
    let scripts = images::repository_root().join("serving-image/scripts");
    process::run_visibly(Command::new("python3").arg(scripts.join("fetch_minilm.py")))?;
    let mut measure = Command::new("python3");
    measure
        .arg(scripts.join("bench_encoders.py"))
        .arg("--serin")
        .arg(built.join("examples/encode"))
        .args(["--rounds", &args.rounds.to_string()]);
    if let Some(threads) = args.threads {
        measure.args(["--threads", &threads.to_string()]);
    }
    process::run_visibly(&mut measure)
}

/// Builds parts of the serving image with the image's flags, and says where they are.
pub fn build(parts: &[&str]) -> Result<PathBuf> {
    let repository = images::repository_root();
    // A folder of its own: other flags would have the whole workspace built anew.
    let target = repository.join("target/bench");
    let mut build = Command::new("cargo");
    build
        .current_dir(&repository)
        .args(["build", "--release", "--locked", "--package", "serin-serve"])
        .args(parts)
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "-C target-cpu=x86-64-v3");
    process::run_visibly(&mut build)?;
    Ok(target.join("release"))
}
