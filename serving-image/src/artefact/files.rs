//! Reads the files of an artefact. No byte is used before its hash is verified.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::manifest::{FileEntry, MANIFEST_FILE, Manifest, ManifestError};

/// Largest manifest, in bytes. That of a model with 10,000 files has about 2 MB.
pub const MAX_MANIFEST: u64 = 16 << 20;

/// A sha256, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of all that a hasher has seen.
    pub fn from_hash(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }

    /// The 64 hexadecimal digits, without `sha256:`.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0
            .iter()
            .fold(String::with_capacity(64), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}"); // writing to a String cannot fail
                hex
            })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || "expected sha256: and 64 hexadecimal digits".to_owned();
        let hex = text.strip_prefix("sha256:").ok_or_else(expected)?;
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(expected());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte =
                u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).map_err(|_| expected())?;
        }
        Ok(Self(bytes))
    }
}

/// Why an artefact cannot be used. Each message names the file and both numbers.
#[derive(Debug, thiserror::Error)]
pub enum ArtefactError {
    /// A file cannot be read or written.
    #[error("cannot access {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The manifest is unsound.
    #[error("{}: {source}", directory.display())]
    Manifest {
        /// The artefact directory.
        directory: PathBuf,
        /// The error.
        source: ManifestError,
    },
    /// The manifest is not the one that was asked for.
    #[error("digest mismatch: {} has {found}, but {expected} was required", path.display())]
    Digest {
        /// The manifest.
        path: PathBuf,
        /// The digest of `--digest`.
        expected: Digest,
        /// What its bytes hash to.
        found: Digest,
    },
    /// A file has another length than the manifest says.
    #[error("size mismatch: {} has {found} bytes, but the manifest says {expected}",
        path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes on disk.
        found: u64,
    },
    /// A file has another content than the manifest says.
    #[error("sha256 mismatch: {} has {found}, but the manifest says {expected}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Hexadecimal sha256 by the manifest.
        expected: String,
        /// Hexadecimal sha256 of the bytes on disk.
        found: String,
    },
    /// Nothing that describes a model is that long.
    #[error("{} has more than {MAX_MANIFEST} bytes", .0.display())]
    ManifestSize(PathBuf),
    /// The manifest's model section names a file that its `files` does not list.
    #[error("the manifest uses {0}, but does not list it under files")]
    Unlisted(String),
}

/// An artefact whose manifest is verified; its files are not read yet.
#[derive(Debug)]
pub struct Artefact {
    directory: PathBuf,
    /// The manifest.
    pub manifest: Manifest,
    /// The sha256 of the manifest's bytes, which identifies the artefact.
    pub digest: Digest,
}

impl Artefact {
    /// Reads the manifest, and verifies `expected` (when given) against the sha256 of its bytes. An
    /// error where the manifest cannot be read or is not consistent, and where its digest is
    /// another one.
    pub fn open(directory: &Path, expected: Option<Digest>) -> Result<Self, ArtefactError> {
        let path = directory.join(MANIFEST_FILE);
        let bytes = read_manifest(&path)?;
        let found = Digest::of(&bytes);
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(ArtefactError::Digest {
                path,
                expected,
                found,
            });
        }
        let manifest = Manifest::parse(&bytes).map_err(|source| ArtefactError::Manifest {
            directory: directory.to_owned(),
            source,
        })?;
        Ok(Self {
            directory: directory.to_owned(),
            manifest,
            digest: found,
        })
    }

    /// The errors of the listed files that differ from the manifest.
    pub fn wrong_files(&self) -> Vec<ArtefactError> {
        let wrong = |entry| read_verified(&self.directory, entry).err();
        self.manifest.files.iter().filter_map(wrong).collect()
    }

    /// A listed file, to be read piece by piece: for weights that should not be in memory twice. An
    /// error where the manifest does not list `path`, and where the file cannot be opened or has
    /// another size.
    pub fn stream(&self, path: &str) -> Result<VerifyingReader, ArtefactError> {
        let listed = self.manifest.files.iter().find(|entry| entry.path == path);
        let entry = listed.ok_or_else(|| ArtefactError::Unlisted(path.to_owned()))?;
        VerifyingReader::open(&self.directory, entry)
    }

    /// Reads every listed file, each once, and verifies its size and sha256. An error on the first
    /// file that cannot be read or differs from the manifest.
    pub fn read_files(&self) -> Result<Files, ArtefactError> {
        let read =
            |entry: &FileEntry| Ok((entry.path.clone(), read_verified(&self.directory, entry)?));
        self.manifest
            .files
            .iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Files)
    }
}

/// The verified content of an artefact's files.
#[derive(Debug)]
pub struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    /// The bytes of a listed file, handed over: weights are held once, not twice. An error where
    /// the file is not listed, or was taken before.
    pub fn take(&mut self, path: &str) -> Result<Vec<u8>, ArtefactError> {
        self.0
            .remove(path)
            .ok_or_else(|| ArtefactError::Unlisted(path.to_owned()))
    }
}

/// A file's bytes, hashed as they are read. They may be used only after [`Self::finish`] has
/// verified them.
#[derive(Debug)]
pub struct VerifyingReader {
    file: BufReader<fs::File>,
    hash: Sha256,
    path: PathBuf,
    entry: FileEntry,
}

impl VerifyingReader {
    fn open(directory: &Path, entry: &FileEntry) -> Result<Self, ArtefactError> {
        let path = directory.join(&entry.path);
        let io_error = |source| ArtefactError::Io {
            path: path.clone(),
            source,
        };
        let file = fs::File::open(&path).map_err(io_error)?;
        let size = file.metadata().map_err(io_error)?.len();
        if size != entry.size {
            return Err(ArtefactError::Size {
                path,
                expected: entry.size,
                found: size,
            });
        }
        Ok(Self {
            file: BufReader::with_capacity(1 << 16, file),
            hash: Sha256::new(),
            path,
            entry: entry.clone(),
        })
    }

    /// The file's size by the manifest.
    pub fn length(&self) -> u64 {
        self.entry.size
    }

    /// Reads the rest, and compares the hash of the whole file with the manifest's. An error where
    /// reading fails or the hashes differ.
    pub fn finish(mut self) -> Result<(), ArtefactError> {
        io::copy(&mut self, &mut io::sink()).map_err(|source| ArtefactError::Io {
            path: self.path.clone(),
            source,
        })?;
        let found = Digest(self.hash.finalize().into()).hex();
        if found != self.entry.sha256 {
            return Err(ArtefactError::Content {
                path: self.path,
                expected: self.entry.sha256,
                found,
            });
        }
        Ok(())
    }
}

impl Read for VerifyingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ArtefactError> {
    fs::read(path).map_err(|source| ArtefactError::Io {
        path: path.to_owned(),
        source,
    })
}

fn read_manifest(path: &Path) -> Result<Vec<u8>, ArtefactError> {
    let io_error = |source| ArtefactError::Io {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(io_error)?;
    file.take(MAX_MANIFEST + 1)
        .read_to_end(&mut bytes)
        .map_err(io_error)?;
    if bytes.len() as u64 > MAX_MANIFEST {
        return Err(ArtefactError::ManifestSize(path.to_owned()));
    }
    Ok(bytes)
}

fn read_verified(directory: &Path, entry: &FileEntry) -> Result<Vec<u8>, ArtefactError> {
    let path = directory.join(&entry.path);
    let io_error = |source| ArtefactError::Io {
        path: path.clone(),
        source,
    };
    // The size first: a wrong file of many gigabytes must not be read into memory to be refused.
    let size = fs::metadata(&path).map_err(io_error)?.len();
    if size != entry.size {
        return Err(ArtefactError::Size {
            path,
            expected: entry.size,
            found: size,
        });
    }
    let bytes = read(&path)?;
    let found = Digest::of(&bytes).hex();
    if found != entry.sha256 {
        return Err(ArtefactError::Content {
            path,
            expected: entry.sha256.clone(),
            found,
        });
    }
    Ok(bytes)
}

/// Fills `files` of the manifest in `directory` from the files there, writes it back, and returns
/// the new digest.
///
/// Every regular file below `directory` is listed, sorted by path, but for the manifest itself. An
/// error where a file cannot be read or the manifest cannot be written.
pub fn write_manifest(directory: &Path) -> Result<Digest, ArtefactError> {
    let path = directory.join(MANIFEST_FILE);
    let in_directory = |source| ArtefactError::Manifest {
        directory: directory.to_owned(),
        source,
    };
    let mut manifest = Manifest::parse(&read_manifest(&path)?).map_err(in_directory)?;
    let mut listed = Vec::new();
    list_files(directory, "", &mut listed)?;
    listed.sort_by(|left, right| left.path.cmp(&right.path));
    manifest.files = listed;
    let mut text =
        serde_json::to_vec_pretty(&manifest).map_err(|error| in_directory(error.into()))?;
    text.push(b'\n');
    fs::write(&path, &text).map_err(|source| ArtefactError::Io { path, source })?;
    Ok(Digest::of(&text))
}

fn list_files(root: &Path, below: &str, listed: &mut Vec<FileEntry>) -> Result<(), ArtefactError> {
    let directory = root.join(below);
    let io_error = |source| ArtefactError::Io {
        path: directory.clone(),
        source,
    };
    for entry in fs::read_dir(&directory).map_err(io_error)? {
        let entry = entry.map_err(io_error)?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type().map_err(io_error)?.is_dir() {
            list_files(root, &format!("{name}/"), listed)?;
        } else if name != MANIFEST_FILE {
            let bytes = read(&entry.path())?;
            listed.push(FileEntry {
                path: name,
                size: bytes.len() as u64,
                sha256: Digest::of(&bytes).hex(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_manifest_without_end_is_not_read_into_memory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(MANIFEST_FILE);
        fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
        let refused = Artefact::open(directory.path(), None).unwrap_err();
        assert!(
            matches!(refused, ArtefactError::ManifestSize(_)),
            "{refused}"
        );
    }

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(b""));
        for wrong in [
            "",
            "sha256:",
            "sha512:00",
            &EMPTY[7..],
            &EMPTY[..70],
            "sha256:zz",
        ] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }
}
