//! The subcommands of `serin-operator`: `replay` and `backtest`.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    backtest,
    report::replay::{self, ReplayError},
};

/// Replays recorded decisions, and scores a policy on past metrics.
#[derive(Parser, Debug)]
#[command(name = "serin-operator", version, max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Subcommand, Debug)]
enum Tool {
    /// Replays recorded decisions as text, and compares each with the recorded one.
    ///
    /// The file is the answer of GET /snapshots/NAMESPACE/NAME at the operator's HTTP port. The
    /// exit status is 1 if a decision differs.
    Replay {
        /// The file; `-` for standard input.
        file: PathBuf,
    },
    /// Scores a policy on past metrics: how often it would have rolled a good version back, and how
    /// long a promotion takes.
    ///
    /// Reads the serving version's requests from Prometheus as the operator would have, deals them
    /// out between it and a canary that is exactly as good, and runs the operator's own decisions
    /// from many starting points.
    Backtest(Box<backtest::Arguments>),
}

/// Whether the arguments of the process name a subcommand; otherwise they are the operator's own.
pub fn is_named(arguments: impl IntoIterator<Item = OsString>) -> bool {
    let first = arguments.into_iter().nth(1);
    first.is_some_and(|first| first == "replay" || first == "backtest")
}

/// Runs a subcommand. Returns 0 on success, 1 if a decision differs, 2 on an error.
pub fn run(arguments: &Arguments) -> ExitCode {
    match &arguments.tool {
        Tool::Replay { file } => match read(file).and_then(|text| replay::parse(&text)) {
            Ok(recordings) => {
                let replayed = replay::replay(&recordings);
                print!("{}", replayed.text);
                println!(
                    "{} decisions replayed, {} differ from the recorded ones.",
                    recordings.len(),
                    replayed.differing
                );
                ExitCode::from(u8::from(replayed.differing > 0))
            }
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(2)
            }
        },
        Tool::Backtest(arguments) => match score(arguments) {
            Ok(report) => {
                print!("{report}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(2)
            }
        },
    }
}

fn score(arguments: &backtest::Arguments) -> Result<String, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Runtime::new()?;
    Ok(runtime.block_on(backtest::run(arguments))?)
}

fn read(file: &PathBuf) -> Result<String, ReplayError> {
    let text = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    text.map_err(|source| ReplayError::Read {
        path: file.display().to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn subcommands_are_separate_from_the_operators_own_flags() {
        Arguments::command().debug_assert();
        let is_named = |words: &[&str]| is_named(words.iter().map(OsString::from));
        assert!(is_named(&["serin-operator", "replay", "x.json"]));
        assert!(!is_named(&["serin-operator", "--log-level", "replay"]));
        assert!(!is_named(&["serin-operator"]));
    }
}
