//! The checkpoint: the progress of one job, in a small file beside the output.
//!
//! The output is made durable first and the checkpoint second, so that a checkpoint never promises
//! rows that are not there. When the job resumes, it cuts off what the output has beyond the
//! checkpoint. A checkpoint is replaced as a whole by renaming, so that no kill leaves half of one.
//! When all is done it stays as a receipt of what made the output.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::format::Format;
use crate::artefact::Digest;

/// Bytes of the input's beginning that are part of its identity.
const HEAD: u64 = 1 << 20;

/// Everything that decides the bytes of the output. A job resumes only if all of it is unchanged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Job {
    pub input: InputIdentity,
    pub input_format: Format,
    pub output_format: Format,
    pub model: String,
    pub model_version: String,
    pub digest: String,
    pub serve_version: String,
    pub keep: Vec<String>,
    pub missing: Vec<String>,
    pub delimiter: u8,
    pub chunk_rows: usize,
    pub row_group_rows: u64,
    pub rejects: bool,
}

/// Tells one input file from another without reading all of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct InputIdentity {
    pub size: u64,
    /// Nanoseconds since 1970.
    pub modified: u128,
    /// Of its first mebibyte.
    pub head_digest: String,
}

/// How far the job is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Progress {
    /// Rows of the input that are dealt with.
    pub rows: u64,
    /// Of these, the rejected ones.
    pub rejected: u64,
    /// Where the next row starts in the input: a byte, or a row (Parquet).
    pub input_offset: u64,
    /// Length of the output: bytes, or parts (Parquet).
    pub output_length: u64,
    /// Bytes of the reject file.
    pub rejects_length: u64,
    /// Every row is dealt with; the output only has to be put in its place.
    pub complete: bool,
}

/// The content of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct State {
    pub job: Job,
    pub progress: Progress,
}

impl InputIdentity {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let modified = metadata
            .modified()?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut head = Vec::new();
        file.take(HEAD).read_to_end(&mut head)?;
        Ok(Self {
            size: metadata.len(),
            modified: modified.as_nanos(),
            head_digest: Digest::of(&head).to_string(),
        })
    }
}

impl Job {
    /// Names what differs from `other`, so that a person sees why a job cannot go on.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let fields = |job: &Self| match serde_json::to_value(job) {
            Ok(Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let other = fields(other);
        fields(self)
            .into_iter()
            .filter(|(name, value)| other.get(name) != Some(value))
            .map(|(name, _)| name)
            .collect()
    }
}

impl State {
    /// The checkpoint at `path`, if there is one.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(serde_json::from_slice(&bytes)?))
    }

    /// Replaces the checkpoint, durably.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let fresh = beside(path, ".new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        sync_directory_of(path)
    }
}

/// Makes a new or renamed entry durable.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// `path` with `suffix` appended to its file name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn state(path: &Path) -> State {
        State {
            job: Job {
                input: InputIdentity::of(path).unwrap(),
                input_format: Format::Csv,
                output_format: Format::Jsonl,
                model: "iris".into(),
                model_version: "1".into(),
                digest: "sha256:00".into(),
                serve_version: "0".into(),
                keep: vec![],
                missing: vec![],
                delimiter: b',',
                chunk_rows: 4,
                row_group_rows: 8,
                rejects: true,
            },
            progress: Progress {
                rows: 12,
                input_offset: 345,
                ..Progress::default()
            },
        }
    }

    #[test]
    fn a_checkpoint_is_read_as_it_was_written_and_a_missing_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let (input, path) = (
            directory.path().join("in.csv"),
            directory.path().join("state"),
        );
        fs::write(&input, "a,b\n").unwrap();
        assert_eq!(State::read(&path).unwrap(), None);
        let state = state(&input);
        state.write(&path).unwrap();
        assert_eq!(State::read(&path).unwrap(), Some(state));
        fs::write(&path, "{").unwrap();
        assert!(State::read(&path).is_err());
    }

    #[test]
    fn another_input_or_model_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let input = directory.path().join("in.csv");
        fs::write(&input, "a,b\n").unwrap();
        let before = state(&input).job;
        assert_eq!(before.differences(&before), Vec::<String>::new());
        fs::write(&input, "a,c\n").unwrap();
        let mut after = state(&input).job;
        after.digest = "sha256:01".into();
        assert_eq!(after.differences(&before), ["digest", "input"]);
    }
}
