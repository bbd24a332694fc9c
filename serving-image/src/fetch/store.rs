//! The cache and staging directories of artefacts.
//!
//! ```text
//! CACHE/artefacts/<hex>/   finished, verified artefacts, named by the sha256 that pins them
//! CACHE/staging/<hex>/     an artefact that is being fetched; a later attempt resumes it
//! CACHE/locks/<hex>        an exclusive lock to fetch the artefact, a shared one to read it
//! ```
//! A finished artefact appears and disappears by a rename, so that no reader sees half of one. Two
//! pods at once wait for each other at the lock, which the kernel opens when its holder dies. Where
//! a file system has no locks, each works in a staging directory of its own, and the first to
//! finish wins.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::download::is_intact;
use super::error::FetchError;
use super::listing::{Listed, Listing};
use crate::artefact::{Digest, MANIFEST_FILE};

/// How often a lock that another process holds is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(200);
/// What an interrupted process left in staging for so long is not picked up any more.
const STALE: Duration = Duration::from_hours(7 * 24);

/// A place for one artefact among others.
pub(super) struct Store {
    root: PathBuf,
    /// The sha256 that pins the artefact, in hexadecimal.
    name: String,
    /// That of its manifest, where it was given.
    digest: Option<Digest>,
    /// Most bytes of finished artefacts.
    limit: Option<u64>,
    /// Whether it ends with the process: a place beside the directory, not a cache.
    passing: bool,
}

/// What pins an artefact.
pub(super) struct Pin {
    /// The digest of its manifest, or else that of the registry's.
    pub sha256: Digest,
    /// The digest of its manifest, where it was given.
    pub of_manifest: Option<Digest>,
}

/// Held until it is dropped; empty where the file system has no locks.
pub(super) struct Held(Option<File>);

impl Store {
    /// In a cache that others use too.
    pub fn cache(root: &Path, pin: &Pin, limit: Option<u64>) -> Self {
        Self {
            root: root.to_owned(),
            name: pin.sha256.hex(),
            digest: pin.of_manifest,
            limit,
            passing: false,
        }
    }

    /// Beside `directory`, on the same file system, for this artefact alone.
    pub fn beside(directory: &Path, pin: &Pin) -> Self {
        Self {
            root: beside(directory, "fetching"),
            name: pin.sha256.hex(),
            digest: pin.of_manifest,
            limit: None,
            passing: true,
        }
    }

    /// Where the finished artefact is kept.
    pub fn artefact(&self) -> PathBuf {
        self.root.join("artefacts").join(&self.name)
    }

    /// Waits for the lock: shared to read the artefact, exclusive to make it. An error where the
    /// cache cannot be written.
    pub async fn lock(&self, exclusive: bool) -> Result<Held, FetchError> {
        let folder = self.root.join("locks");
        let path = folder.join(&self.name);
        let open = || {
            make_directory(&folder)?;
            let mut options = File::options();
            options.write(true).create(true).truncate(false);
            options
                .open(&path)
                .map_err(|error| FetchError::storage(&path, error))
        };
        let mut file = open()?;
        let mut said = false;
        loop {
            let outcome = if exclusive {
                file.try_lock()
            } else {
                file.try_lock_shared()
            };
            match outcome {
                // Its holder may have deleted it together with the artefact.
                Ok(()) if !is_same(&file, &path) => file = open()?,
                Ok(()) => return Ok(Held(Some(file))),
                Err(TryLockError::WouldBlock) => {
                    if !said {
                        info!(
                            digest = self.name,
                            "another process fetches this artefact; waiting for it"
                        );
                        said = true;
                    }
                    tokio::time::sleep(LOCK_INTERVAL).await;
                }
                Err(TryLockError::Error(error)) => {
                    warn!(%error, "no locks on this file system: pods that start together fetch \
                                   the artefact once each");
                    return Ok(Held(None));
                }
            }
        }
    }

    /// Where the artefact is assembled. An earlier attempt's files are resumed, unless
    /// another process might be at it too.
    pub fn staging(&self, held: &Held) -> Result<PathBuf, FetchError> {
        let own = held.0.is_none();
        let suffix = own.then(|| format!("-{}-{:x}", std::process::id(), fastrand::u64(..)));
        let name = format!("{}{}", self.name, suffix.unwrap_or_default());
        let staging = self.root.join("staging").join(name);
        make_directory(&staging)?;
        Ok(staging)
    }

    /// Makes an assembled directory the finished artefact. An error where the file system refuses
    /// it; that another process was faster is none.
    pub fn publish(&self, assembled: &Path) -> Result<(), FetchError> {
        let artefact = self.artefact();
        let error = |error| FetchError::storage(&artefact, error);
        make_directory(&self.root.join("artefacts"))?;
        match fs::rename(assembled, &artefact) {
            Ok(()) => Ok(()),
            // Without locks, another process may have been first.
            Err(_) if self.is_complete(&artefact) => discard(assembled),
            Err(source) if artefact.exists() => {
                warn!(%source, "the cached artefact is damaged; replacing it");
                discard(&artefact)?;
                fs::rename(assembled, &artefact).map_err(error)
            }
            Err(source) => Err(error(source)),
        }
    }

    /// Whether a directory holds the artefact, byte by byte.
    pub fn is_complete(&self, directory: &Path) -> bool {
        let Ok(manifest) = fs::read(directory.join(MANIFEST_FILE)) else {
            return false;
        };
        Listing::read(manifest, self.digest, u64::MAX).is_ok_and(|listing| {
            let intact = |file: &Listed| is_intact(&directory.join(&file.path), &file.wanted());
            listing.files.iter().all(intact)
        })
    }

    /// Puts the finished artefact at `directory`: by a rename where the place ends with the
    /// process, else by hard links, or by copies where the file systems differ. An error where the
    /// file system refuses it.
    pub fn place(&self, directory: &Path) -> Result<(), FetchError> {
        let artefact = self.artefact();
        if self.passing {
            swap_in(&artefact, directory)?;
            let _ = fs::remove_dir_all(&self.root); // what is left is empty folders
            return Ok(());
        }
        let now = SystemTime::now();
        // The artefact was used now: the longest unused is evicted first.
        if let Err(error) = File::open(&artefact).and_then(|folder| folder.set_modified(now)) {
            warn!(%error, "cannot note in the cache that the artefact is in use");
        }
        let manifest = fs::read(artefact.join(MANIFEST_FILE))
            .map_err(|error| FetchError::storage(&artefact, error))?;
        let listing = Listing::read(manifest, self.digest, u64::MAX)?;
        // A new name each time: to copy over a hard link would be to write into the cache.
        let assembled = beside(directory, &format!("{:x}", fastrand::u64(..)));
        let manifest = std::iter::once(MANIFEST_FILE);
        let files = listing.files.iter().map(|file| file.path.as_str());
        for path in manifest.chain(files) {
            let (from, to) = (artefact.join(path), assembled.join(path));
            to.parent().map_or(Ok(()), make_directory)?;
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).map_err(|error| FetchError::storage(&to, error))?;
            }
        }
        swap_in(&assembled, directory)
    }

    /// Deletes the least recently used artefacts until the cache is within its limit,
    /// and what others left unfinished long ago. Those that a process works on stay.
    pub fn evict(&self) {
        self.forget_stale();
        let Some(limit) = self.limit else { return };
        let mut artefacts: Vec<_> = self
            .names("artefacts")
            .into_iter()
            .map(|name| {
                let path = self.root.join("artefacts").join(&name);
                let used = fs::metadata(&path).and_then(|found| found.modified());
                (used.unwrap_or(SystemTime::UNIX_EPOCH), size_of(&path), name)
            })
            .collect();
        artefacts.sort();
        let mut total: u64 = artefacts.iter().map(|(_, size, _)| size).sum();
        for (_, size, name) in artefacts {
            if total <= limit {
                return;
            }
            if name != self.name && self.try_evict(&name) {
                total -= size;
                info!(artefact = name, bytes = size, "evicted from the cache");
            }
        }
        if total > limit {
            warn!(
                bytes = total,
                limit, "the cache is over its limit: what is left in it is in use"
            );
        }
    }

    fn try_evict(&self, name: &str) -> bool {
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        let lock = options.open(self.root.join("locks").join(name));
        let free = lock.as_ref().is_ok_and(|lock| lock.try_lock().is_ok());
        free && discard(&self.root.join("artefacts").join(name)).is_ok()
    }

    fn forget_stale(&self) {
        for name in self.names("staging") {
            let path = self.root.join("staging").join(&name);
            let age = fs::metadata(&path)
                .and_then(|found| found.modified())
                .ok()
                .and_then(|modified| modified.elapsed().ok());
            if age.is_some_and(|age| age > STALE) && discard(&path).is_ok() {
                info!(name, "deleted what an interrupted fetch left");
            }
        }
    }

    fn names(&self, folder: &str) -> Vec<String> {
        fs::read_dir(self.root.join(folder))
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect()
    }
}

/// Renames `finished` to `directory`, and what was there before aside.
fn swap_in(finished: &Path, directory: &Path) -> Result<(), FetchError> {
    let error = |error| FetchError::storage(directory, error);
    if directory.exists() {
        let mut inside = fs::read_dir(directory).map_err(error)?;
        let empty = inside.next().is_none();
        if !empty && !directory.join(MANIFEST_FILE).is_file() {
            return Err(FetchError::Storage(format!(
                "{} holds something that is no artefact. Name a directory that does not exist",
                directory.display()
            )));
        }
        discard(directory)?;
    }
    fs::rename(finished, directory).map_err(error)
}

/// Takes a directory away at once, then deletes it.
fn discard(directory: &Path) -> Result<(), FetchError> {
    let trash = beside(directory, &format!("trash-{:x}", fastrand::u64(..)));
    fs::rename(directory, &trash).map_err(|error| FetchError::storage(directory, error))?;
    fs::remove_dir_all(&trash).map_err(|error| FetchError::storage(&trash, error))
}

/// A hidden path in the same directory, and so on the same file system: renames between the two are
/// atomic.
fn beside(path: &Path, purpose: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{purpose}"))
}

/// Whether an open file is still the one at its path.
fn is_same(file: &File, path: &Path) -> bool {
    let of = |found: fs::Metadata| (found.dev(), found.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => of(open) == of(there),
        _ => false,
    }
}

pub(super) fn make_directory(path: &Path) -> Result<(), FetchError> {
    fs::create_dir_all(path).map_err(|error| FetchError::storage(path, error))
}

/// Bytes of all files below a directory; what cannot be read counts nothing.
fn size_of(directory: &Path) -> u64 {
    let entries: Vec<io::Result<fs::DirEntry>> =
        fs::read_dir(directory).into_iter().flatten().collect();
    entries
        .into_iter()
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size_of(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}
