//! The format of a file of rows.

use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How rows are written in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A header and a record a line (RFC 4180).
    Csv,
    /// One JSON value a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// The format that was asked for; by default the one of the file's extension.
    ///
    /// Fails, with a sentence that names `flag`, if neither is known or this build lacks the
    /// format.
    pub(super) fn of(asked: Option<Self>, path: &Path, flag: &'static str) -> Result<Self, String> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let by_extension = || match extension?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "parquet" => Some(Self::Parquet),
            _ => None,
        };
        let format = asked.or_else(by_extension).ok_or_else(|| {
            format!(
                "the extension of {} is not known: give {flag} csv, jsonl or parquet",
                path.display()
            )
        })?;
        if format == Self::Parquet && !cfg!(feature = "batch-parquet") {
            return Err("this build has no Parquet (cargo feature batch-parquet)".into());
        }
        Ok(format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_asked_for_or_the_extensions() {
        let of = |asked, path: &str| Format::of(asked, Path::new(path), "--input-format").ok();
        assert_eq!(of(None, "a/b.CSV"), Some(Format::Csv));
        assert_eq!(of(None, "b.ndjson"), Some(Format::Jsonl));
        assert_eq!(of(Some(Format::Jsonl), "b.csv"), Some(Format::Jsonl));
        assert_eq!(of(None, "b.txt"), None);
        assert_eq!(of(None, "csv"), None);
    }
}
