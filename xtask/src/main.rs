//! Everything a developer runs: `cargo xtask COMMAND`.

mod images;

use anyhow::Result;
use clap::Parser;

/// Everything a developer of Serin runs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Cli {
    /// The container images of the local cluster
    Images(images::Args),
}

fn main() -> Result<()> {
    match Cli::parse() {
        Cli::Images(args) => images::run(args),
    }
}
