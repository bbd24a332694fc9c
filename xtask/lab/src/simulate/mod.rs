//! `cargo xtask simulate`: how often a gate takes a good version's traffic away, and how long it
//! leaves a bad one's.
//!
//! ```text
//! scenario ─► requests (hashed) ─► one router and one Prometheus a gate ─► gates
//!          ─► outcomes ─► tables, bounds, plot
//! ```
//! Each gate sees the same requests; what becomes of one is a pure hash of the run, its place in
//! the stream and the version that answers it. Serin's gate is the operator's own code; the others
//! are models, rule by rule from their documentation and source, which their files name.

mod argo;
mod bounds;
mod cells;
pub mod cost;
mod decide;
mod flagger;
mod gate;
mod kayenta;
mod limits;
mod play;
mod plot;
mod prometheus;
mod report;
mod requests;
mod scenario;
mod serin;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use self::cells::{Cell, Scale};

/// Arguments of `cargo xtask simulate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Fewer and shorter rollouts: a minute on two cores
    #[arg(long)]
    short: bool,
    /// Rollouts a cell [default: 600, or 100 with --short]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    runs: Option<u64>,
    /// Play only scenarios whose name contains this
    #[arg(long, value_name = "WORDS")]
    only: Option<String>,
    /// Write the tables (simulation.md) and the plot (simulation.svg) to this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Plays all rollouts, prints the tables, and fails where a bound is broken.
pub fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let scale = Scale {
        runs: args.runs.unwrap_or(if args.short { 100 } else { 600 }),
        short: args.short,
    };
    let wanted = |name: &str| args.only.as_ref().is_none_or(|only| name.contains(only));
    let cells = cells::play_all(scale, |scenario| wanted(scenario.name))?;
    if cells.is_empty() {
        bail!("no scenario's name contains what --only says");
    }
    let tables = report::tables(&cells);
    println!("{tables}");
    if let Some(folder) = &args.out {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        for (name, text) in [
            ("simulation.md", tables),
            ("simulation.svg", plot::svg(&cells)),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    println!("{}", conclude(&cells, started)?);
    Ok(())
}

fn conclude(cells: &[Cell], started: Instant) -> Result<String> {
    let bounds = bounds::check(cells);
    let broken: Vec<_> = bounds.iter().filter(|bound| !bound.holds).collect();
    for bound in &broken {
        println!("BROKEN  {}", bound.sentence);
    }
    let rollouts: usize = cells
        .iter()
        .map(|cell| {
            let runs = gate::Contender::ALL.map(|gate| cell.of(gate).runs());
            runs.iter().sum::<usize>()
        })
        .sum();
    let decided: usize = cells.iter().map(|cell| cell.decided).sum();
    let summary = format!(
        "{} bounds hold, {} broken; {rollouts} rollouts, {decided} of Serin's decided by the \
         operator's own code as well, in {:.0} s",
        bounds.len() - broken.len(),
        broken.len(),
        started.elapsed().as_secs_f32()
    );
    if broken.is_empty() {
        Ok(summary)
    } else {
        bail!("{summary}")
    }
}
