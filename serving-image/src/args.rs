//! What the flags of several subcommands share: the log's flags, durations and shares.

use std::time::Duration;

use clap::{Args, ValueEnum};

/// Flags of the log.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// Form of the log on standard error
    #[arg(long, env = "SERIN_SERVE_LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,
    /// What to log: a level, or directives such as info,serin_serve=debug. Probes are logged at
    /// debug
    #[arg(long, env = "SERIN_SERVE_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// For people.
    Text,
}

/// Parses a whole number and a unit (`ms`, `s` or `m`), such as `300ms`, `5s` or `2m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number and ms, s or m, such as 300ms".to_owned();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| expected())?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => number
            .checked_mul(60)
            .map(Duration::from_secs)
            .ok_or_else(expected),
        _ => Err(expected()),
    }
}

/// Parses a number from 0 to 1.
pub(crate) fn parse_share(text: &str) -> Result<f64, String> {
    let share = text
        .parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_a_number_and_a_unit() {
        assert_eq!(parse_duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
        for wrong in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "5 s",
            "5h",
            "99999999999999999999s",
            "9999999999999999999m",
        ] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
