//! The command line of `batch`.

use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::format::Format;
use crate::args::{LogArgs, parse_duration};
use crate::artefact::Digest;

/// Flags of `batch`.
#[derive(Debug, Clone, Args)]
pub struct BatchArgs {
    /// Artefact directory, which holds serin-model.json
    #[arg(long, env = "SERIN_SERVE_MODEL_DIR")]
    pub model_dir: PathBuf,
    /// Digest that the artefact must have, as sha256:HEX; any other artefact is refused
    #[arg(long, env = "SERIN_SERVE_DIGEST")]
    pub digest: Option<Digest>,
    /// Name in the column `model` [default: the manifest's]
    #[arg(long, env = "SERIN_SERVE_MODEL_NAME")]
    pub model_name: Option<String>,
    /// Version in the column `model_version` [default: the manifest's]
    #[arg(long, env = "SERIN_SERVE_MODEL_VERSION")]
    pub model_version: Option<String>,
    /// File of instances, one per row
    #[arg(long)]
    pub input: PathBuf,
    /// File of predictions; it appears under this name when it is complete
    #[arg(long)]
    pub output: PathBuf,
    /// Format of the input [default: by its extension: .csv, .jsonl, .ndjson, .parquet]
    #[arg(long)]
    pub input_format: Option<Format>,
    /// Format of the output [default: by its extension]
    #[arg(long)]
    pub output_format: Option<Format>,
    /// Columns of the input to copy to the output, such as id,name
    #[arg(long, value_delimiter = ',')]
    pub keep: Vec<String>,
    /// Cells of a CSV input that mean a missing value besides the empty cell, such as NA,null
    #[arg(long, value_delimiter = ',')]
    pub missing: Vec<String>,
    /// Separator of CSV cells, in and out: one ASCII character
    #[arg(long, default_value = ",", value_parser = parse_delimiter)]
    pub delimiter: u8,
    /// File of rejected rows, as JSON lines: row number, field and the expected value, never the
    /// value itself
    #[arg(long)]
    pub rejects: Option<PathBuf>,
    /// End with exit code 3 when more rows than this are rejected [default: no bound with
    /// --rejects, else 0]
    #[arg(long)]
    pub max_rejects: Option<u64>,
    /// Rows predicted together [default: 1024 for tabular models, else 32; at most the manifest's
    /// maxInstances]
    #[arg(long)]
    pub chunk_rows: Option<NonZero<usize>>,
    /// Rows in a row group of Parquet output, which is also its checkpoint
    #[arg(long, default_value = "16384")]
    pub row_group_rows: NonZero<u64>,
    /// Longest time between two checkpoints of CSV and JSON lines, which is the most work that a
    /// kill loses
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    pub checkpoint_every: Duration,
    /// Chunks predicted at the same time [default: the CPUs this process may use]
    #[arg(long, env = "SERIN_SERVE_WORKERS")]
    pub workers: Option<NonZero<usize>>,
    /// Start again: discard the output, the rejects and the checkpoint of an earlier run
    #[arg(long)]
    pub overwrite: bool,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

fn parse_delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => Ok(*byte),
        _ => Err("expected one ASCII character, or \\t".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delimiter_is_one_character() {
        assert_eq!(parse_delimiter(";"), Ok(b';'));
        assert_eq!(parse_delimiter("\\t"), Ok(b'\t'));
        for wrong in ["", ",,", "\"", "\n", "é"] {
            assert!(parse_delimiter(wrong).is_err(), "{wrong}");
        }
    }
}
