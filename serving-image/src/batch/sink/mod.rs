//! Writing answers, durably up to each checkpoint.

mod csv;
mod file;
mod jsonl;
#[cfg(feature = "batch-parquet")]
mod parquet;
mod shape;

use std::io;
use std::path::Path;

pub(super) use file::AppendFile;
pub(super) use shape::{Column, columns};

use super::format::Format;
use super::score::Scored;
use super::source::KeepType;
use super::state::beside;
use crate::artefact::Manifest;

/// What every answer of a job has in common.
// only Parquet has types and row groups
#[cfg_attr(not(feature = "batch-parquet"), allow(dead_code))]
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub manifest: Manifest,
    pub columns: Vec<Column>,
    pub keep: Vec<String>,
    pub keep_types: Vec<KeepType>,
    pub model: String,
    pub model_version: String,
    pub digest: String,
    pub delimiter: u8,
    pub row_group_rows: u64,
}

/// When the output has to be made durable.
// only Parquet has types and row groups
#[cfg_attr(not(feature = "batch-parquet"), allow(dead_code))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// When enough time has passed.
    Sometime,
    /// Now: the checkpoints of this format decide its bytes, so they may not depend on time.
    Now,
    /// Not before the format says so.
    NotYet,
}

/// An output that grows.
pub(super) trait Sink: Send {
    /// Adds a chunk's answers.
    fn write(&mut self, scored: Scored) -> io::Result<Due>;

    /// Makes all of it durable; its length is what a checkpoint names.
    fn checkpoint(&mut self) -> io::Result<u64>;

    /// After the last checkpoint: puts the output in its place. May be done again after a kill.
    fn finish(&mut self) -> io::Result<()>;
}

/// Opens the output, cut off after `length`, where a checkpoint says that it ends.
pub(super) fn open(
    format: Format,
    output: &Path,
    header: Header,
    length: u64,
) -> io::Result<Box<dyn Sink>> {
    Ok(match format {
        Format::Csv => Box::new(csv::Csv::open(output, header, length)?),
        Format::Jsonl => Box::new(jsonl::Jsonl::open(output, header, length)?),
        #[cfg(feature = "batch-parquet")]
        Format::Parquet => Box::new(parquet::Parquet::open(output, header, length)?),
        #[cfg(not(feature = "batch-parquet"))]
        Format::Parquet => return Err(io::ErrorKind::Unsupported.into()),
    })
}

/// Whether something lies there that [`Sink::finish`] can put in place.
pub(super) fn exists(output: &Path) -> bool {
    partial(output).exists() || parts(output).exists()
}

/// Removes what an earlier run left beside `output`, which no checkpoint speaks of.
pub(super) fn discard(output: &Path) -> io::Result<()> {
    for outcome in [
        std::fs::remove_file(partial(output)),
        std::fs::remove_dir_all(parts(output)),
    ] {
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Where text grows until it is complete.
fn partial(output: &Path) -> std::path::PathBuf {
    beside(output, ".partial")
}

/// Where the parts of a Parquet file wait for the others.
fn parts(output: &Path) -> std::path::PathBuf {
    beside(output, ".parts")
}
