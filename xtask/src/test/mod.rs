//! `cargo xtask test`: every check of the project, those first that fail cheapest, and those
//! together that mostly wait.
//!
//! One target folder, one profile and one selection of packages for everything that is compiled:
//! the same crate with other features would be another compilation.

mod columns;
mod runner;
mod stage;

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use cluster::Wanted;
use cluster::progress::Progress;

use self::stage::Lane;
pub use self::stage::Stage;

/// Arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run all stages, also after one has failed
    #[arg(long)]
    keep_going: bool,
    /// Run this stage alone (may be given several times)
    #[arg(long, value_name = "STAGE", value_enum)]
    only: Vec<Stage>,
    /// Leave this stage out (may be given several times)
    #[arg(long, value_name = "STAGE", value_enum)]
    skip: Vec<Stage>,
}

impl Args {
    fn stages(&self) -> Vec<Stage> {
        let wanted = |stage: &Stage| self.only.is_empty() || self.only.contains(stage);
        Stage::value_variants()
            .iter()
            .copied()
            .filter(|stage| wanted(stage) && !self.skip.contains(stage))
            .collect()
    }
}

/// How one stage ended.
struct Outcome {
    stage: Stage,
    took: Duration,
    result: Result<runner::Report>,
}

/// Runs the stages; the last words are the runners' own.
pub fn run(args: &Args, wanted: Wanted, repository: &Path) -> Result<()> {
    let stages = args.stages();
    if stages.is_empty() {
        bail!("--only and --skip leave no stage to run");
    }
    let run = Run {
        stages: &stages,
        wanted,
        repository,
        // Now: Linux calls the path deleted once a build has replaced the file.
        program: &std::env::current_exe().context("where is this program?")?,
        keep_going: args.keep_going,
        failed: AtomicBool::new(false),
        progress: Progress::new("test"),
    };
    let mut outcomes = run.lane(Lane::First);
    thread::scope(|scope| {
        let run = &run;
        let lanes = Lane::TOGETHER.map(|lane| scope.spawn(move || run.lane(lane)));
        for lane in lanes {
            outcomes.extend(lane.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
    });
    outcomes.sort_by_key(|outcome| outcome.stage);
    summarise(&outcomes, stages.len())
}

/// One run of the stages that were asked for.
struct Run<'a> {
    stages: &'a [Stage],
    wanted: Wanted,
    repository: &'a Path,
    program: &'a Path,
    keep_going: bool,
    /// A stage has failed: no other is begun.
    failed: AtomicBool,
    progress: Progress,
}

impl Run<'_> {
    /// Runs the lane's stages, one after the other.
    fn lane(&self, lane: Lane) -> Vec<Outcome> {
        let stages = self.stages.iter().enumerate();
        stages
            .filter(|(_, stage)| stage.lane() == lane)
            .map_while(|(index, stage)| {
                let stop = self.failed.load(Ordering::Relaxed) && !self.keep_going;
                (!stop).then(|| self.stage(index, *stage))
            })
            .collect()
    }

    fn stage(&self, index: usize, stage: Stage) -> Outcome {
        let place = format!("[{}/{}] {stage}", index + 1, self.stages.len());
        self.progress.say(format!("{place}: {}", stage.purpose()));
        let started = Instant::now();
        let result = stage.run(self.repository, self.program, self.wanted);
        let took = started.elapsed();
        match &result {
            Ok(_) => self.progress.say(format!("{place}: passed in {took:.1?}")),
            Err(error) => {
                self.failed.store(true, Ordering::Relaxed);
                let text = format!("{error:#}");
                let why = text.lines().next().unwrap_or_default();
                self.progress
                    .say(format!("{place}: FAILED after {took:.1?}: {why}"));
            }
        }
        Outcome {
            stage,
            took,
            result,
        }
    }
}

/// The time of each stage, the runners' own summaries, and the sum of all tests as the last line;
/// or why stages failed.
fn summarise(outcomes: &[Outcome], planned: usize) -> Result<()> {
    let mut sum = runner::Counts::default();
    println!();
    for outcome in outcomes {
        let word = match &outcome.result {
            Ok(_) => "passed",
            Err(_) => "FAILED",
        };
        println!(
            "{word} {:>6.1} s  {}",
            outcome.took.as_secs_f32(),
            outcome.stage
        );
        if let Ok(report) = &outcome.result {
            for line in report.lines() {
                println!("                 {line}");
            }
            sum += report.counts();
        }
    }
    let failed: Vec<String> = outcomes
        .iter()
        .filter(|outcome| outcome.result.is_err())
        .map(|outcome| outcome.stage.to_string())
        .collect();
    if failed.is_empty() {
        println!("{sum}");
        return Ok(());
    }
    for outcome in outcomes {
        if let Err(error) = &outcome.result {
            println!("\n{} failed: {error:#}", outcome.stage);
        }
    }
    println!();
    bail!(
        "{} of {planned} stages failed ({}), {} were not run",
        failed.len(),
        failed.join(", "),
        planned - outcomes.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(only: &[Stage], skip: &[Stage]) -> Args {
        Args {
            keep_going: false,
            only: only.to_vec(),
            skip: skip.to_vec(),
        }
    }

    #[test]
    fn stages_run_in_their_own_order_whatever_the_caller_names_first() {
        let stages = args(&[Stage::Unit, Stage::Format], &[]).stages();
        assert_eq!(stages, [Stage::Format, Stage::Unit]);
    }

    #[test]
    fn a_skipped_stage_is_left_out() {
        let all = Stage::value_variants().len();
        let stages = args(&[], &[Stage::Envoy]).stages();
        assert_eq!(stages.len(), all - 1);
        assert!(!stages.contains(&Stage::Envoy));
    }
}
