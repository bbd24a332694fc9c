//! An append-only file that can be truncated to a checkpoint.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::batch::state::sync_directory_of;

/// A buffered file with a known length.
#[derive(Debug)]
pub(in crate::batch) struct AppendFile {
    writer: BufWriter<File>,
    path: PathBuf,
    length: u64,
}

impl AppendFile {
    /// Opens or makes the file, and cuts it off after `length` bytes.
    pub(in crate::batch) fn open(path: &Path, length: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false) // to the length of the checkpoint, below
            .open(path)?;
        let found = file.metadata()?.len();
        if found < length {
            return Err(io::Error::other(format!(
                "{} has {found} bytes, but {length} were written: it was changed since the \
                 checkpoint",
                path.display()
            )));
        }
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        sync_directory_of(path)?;
        Ok(Self {
            writer: BufWriter::with_capacity(1 << 18, file),
            path: path.to_owned(),
            length,
        })
    }

    /// Makes everything written durable, and gives the file's length.
    pub(in crate::batch) fn checkpoint(&mut self) -> io::Result<u64> {
        self.writer.flush()?;
        self.durable()
    }

    /// The same, where it was flushed before.
    pub(super) fn durable(&self) -> io::Result<u64> {
        self.writer.get_ref().sync_data()?;
        Ok(self.length)
    }

    /// Renames the file, where that was not done before.
    pub(super) fn rename(&self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        sync_directory_of(to)
    }
}

impl Write for AppendFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_checkpoint_does_not_name_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let mut file = AppendFile::open(&path, 0).unwrap();
        file.write_all(b"one\n").unwrap();
        let length = file.checkpoint().unwrap();
        file.write_all(b"tw").unwrap();
        file.flush().unwrap();
        drop(file);
        let mut file = AppendFile::open(&path, length).unwrap();
        file.write_all(b"two\n").unwrap();
        assert_eq!(file.checkpoint().unwrap(), 8);
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        let error = AppendFile::open(&path, 9).unwrap_err().to_string();
        assert!(error.contains("has 8 bytes, but 9 were written"), "{error}");
    }
}
