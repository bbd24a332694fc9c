//! The command line of `bench`.

use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::args::{parse_duration, parse_share};

/// Flags of `bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// The server, such as http://127.0.0.1:8080 or https://model.example; a path in it sets --path
    pub url: String,
    /// Requests per second
    #[arg(long, default_value_t = 100.0, value_parser = parse_rate, conflicts_with = "rates")]
    pub rate: f64,
    /// Rates to try one after the other, such as 100,200,400, each for --duration
    #[arg(long, value_delimiter = ',', value_parser = parse_rate)]
    pub rates: Vec<f64>,
    /// Duration of each rate
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Time before each rate in which requests are sent but not counted
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub warm_up: Duration,
    /// When requests are due: at random, independent of each other (poisson), or at equal gaps
    /// (constant)
    #[arg(long, default_value = "poisson")]
    pub arrivals: Arrivals,
    /// Most connections; a request that is due while all are busy waits, which counts as latency
    #[arg(long, default_value = "64")]
    pub connections: NonZero<usize>,
    /// Longest time from when a request is due to its answer; then it is given up, and counts as an
    /// error
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Path of the requests
    #[arg(long, default_value = "/predict")]
    pub path: String,
    /// Bodies, one JSON value a line, sent in turn [default: made from the server's /openapi.json]
    #[arg(long, conflicts_with = "model_dir")]
    pub requests: Option<PathBuf>,
    /// Make the bodies from the golden examples of the artefact in this directory
    #[arg(long)]
    pub model_dir: Option<PathBuf>,
    /// Instances in each body that is made
    #[arg(long, default_value = "1")]
    pub instances: NonZero<usize>,
    /// Header of each request, as 'name: value'
    #[arg(long = "header", value_parser = parse_header)]
    pub headers: Vec<(String, String)>,
    /// Certificate authorities in PEM, trusted besides the system's
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Seed of random arrivals and bodies: the same seed gives the same ones
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Objective: half of the requests are answered within this time
    #[arg(long, value_parser = parse_duration)]
    pub max_p50: Option<Duration>,
    /// Objective: 95 % of the requests are answered within this time
    #[arg(long, value_parser = parse_duration)]
    pub max_p95: Option<Duration>,
    /// Objective: 99 % of the requests are answered within this time
    #[arg(long, value_parser = parse_duration)]
    pub max_p99: Option<Duration>,
    /// Objective: 99.9 % of the requests are answered within this time
    #[arg(long, value_parser = parse_duration)]
    pub max_p999: Option<Duration>,
    /// Objective: at most this share of requests fails, such as 1% or 0.01
    #[arg(long, value_parser = parse_percent)]
    pub max_error_rate: Option<f64>,
    /// Sample the server's resident memory from its /metrics, and report its growth
    #[arg(long)]
    pub soak: bool,
    /// Objective (with --soak): memory grows by at most this share over the run, such as 5%
    #[arg(long, value_parser = parse_percent, requires = "soak")]
    pub max_memory_growth: Option<f64>,
    /// Form of the output
    #[arg(long, default_value = "text")]
    pub output: OutputFormat,
    /// Write a self-contained HTML report with graphs to this file
    #[arg(long)]
    pub report: Option<PathBuf>,
}

/// When requests are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arrivals {
    /// At random, independent of each other: exponential gaps.
    Poisson,
    /// At equal gaps.
    Constant,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// A table for people.
    Text,
    /// One JSON document.
    Json,
}

impl BenchArgs {
    /// The rates to try, in order.
    pub(super) fn steps(&self) -> Vec<f64> {
        if self.rates.is_empty() {
            vec![self.rate]
        } else {
            self.rates.clone()
        }
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.trim().parse().ok();
    rate.filter(|rate| (0.01..=1e6).contains(rate))
        .ok_or_else(|| "expected requests a second, from 0.01 to 1000000".to_owned())
}

fn parse_percent(text: &str) -> Result<f64, String> {
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent: Option<f64> = percent.trim().parse().ok();
            percent
                .filter(|percent| (0.0..=100.0).contains(percent))
                .map(|percent| percent / 100.0)
                .ok_or_else(|| "expected 0% to 100%".to_owned())
        }
        None => parse_share(text),
    }
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected 'name: value'")?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_may_be_a_percentage() {
        assert_eq!(parse_percent("1%"), Ok(0.01));
        assert_eq!(parse_percent("0.25"), Ok(0.25));
        for wrong in ["", "%", "101%", "-1%", "2"] {
            assert!(parse_percent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_is_positive() {
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "NaN", "inf", "x"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }
}
