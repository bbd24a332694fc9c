//! Downloads to memory or to a file: resumes after an interruption, retries where that may help,
//! bounds the size.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::client::{Client, failure};
use super::error::FetchError;
use super::hosts::Origin;
use super::layout::Wanted;
use super::progress::Progress;
use super::remote::Remote;
use crate::artefact::Digest;

/// First wait after a failure; doubled each time, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Bytes of progress after which the count of failures restarts.
const PROGRESS: u64 = 1 << 20;
/// A source that sends less than this in each stall time is as good as one that sends nothing.
const TRICKLE: u64 = 16 << 10;

/// Reads something small.
pub(super) async fn to_memory(
    client: &Client,
    remote: &Remote,
    accept: Option<&'static str>,
    limit: u64,
) -> Result<Vec<u8>, FetchError> {
    let mut failures = 0;
    loop {
        match read_whole(client, remote, accept, limit).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => wait_or_give_up(client, error, &mut failures).await?,
        }
    }
}

async fn read_whole(
    client: &Client,
    remote: &Remote,
    accept: Option<&'static str>,
    limit: u64,
) -> Result<Vec<u8>, FetchError> {
    let mut response = remote.open(client, accept, 0).await?;
    let mut pace = Pace::new(client.policy.stall);
    let mut bytes = Vec::new();
    while let Some(chunk) = next_chunk(&mut response, &mut pace).await? {
        if bytes.len() as u64 + chunk.len() as u64 > limit {
            return Err(FetchError::Content(format!(
                "{}{} has more than {limit} bytes; is this the right address?",
                Origin(&remote.url),
                remote.url.path()
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Reads into a file, from where an earlier attempt left it, until it is what it must be; or of up
/// to `limit` bytes where the source did not say what it must be.
pub(super) async fn to_file(
    client: &Client,
    remote: &Remote,
    path: &Path,
    wanted: Option<&Wanted>,
    limit: u64,
    progress: &mut Progress,
) -> Result<(), FetchError> {
    let mut partial = Partial::open(path)?;
    let limit = wanted.map_or(limit, |wanted| wanted.size);
    if partial.length > limit {
        partial.reset()?;
    }
    progress.found(partial.length);
    let mut continued = partial.length > 0;
    let mut failures = 0;
    loop {
        let before = partial.length;
        let complete = wanted.is_some_and(|wanted| partial.length == wanted.size);
        let outcome = if complete {
            Ok(())
        } else {
            append(client, remote, &mut partial, limit, wanted, progress).await
        };
        match outcome {
            Ok(()) => match wanted.map(|wanted| partial.verify(path, wanted)) {
                None | Some(Ok(())) => return Ok(()),
                // The beginning may be of another file than the end: once more, in one piece.
                Some(Err(error)) if continued => {
                    warn!(%error, "what an interrupted attempt left is of no use; starting anew");
                    progress.lost(partial.length);
                    partial.reset()?;
                    continued = false;
                }
                Some(Err(error)) => return Err(error),
            },
            Err(error) => {
                if partial.length >= before + PROGRESS {
                    failures = 0;
                }
                continued |= partial.length > before;
                wait_or_give_up(client, error, &mut failures).await?;
            }
        }
    }
}

/// One attempt, from where the file ends.
async fn append(
    client: &Client,
    remote: &Remote,
    partial: &mut Partial<'_>,
    limit: u64,
    wanted: Option<&Wanted>,
    progress: &mut Progress,
) -> Result<(), FetchError> {
    let mut response = remote.open(client, None, partial.length).await?;
    let what = || format!("{}{}", Origin(&remote.url), remote.url.path());
    let continues = response.status() == StatusCode::PARTIAL_CONTENT;
    if partial.length > 0 && !(continues && starts_at(&response) == Some(partial.length)) {
        // It does not know ranges, or nothing of the one that was asked for.
        let useless = partial.length;
        progress.lost(useless);
        partial.reset()?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::network(format!(
                "{} cannot be read from byte {useless} on",
                what()
            )));
        }
    } else if response.status() != StatusCode::OK && !continues {
        return Err(FetchError::Source(format!(
            "{} answers {} to a request for the whole",
            what(),
            response.status()
        )));
    }
    if let Some(rest) = response.content_length() {
        let whole = partial.length.saturating_add(rest);
        match wanted {
            Some(wanted) if wanted.size != whole => return Err(wrong_size(&what(), wanted, whole)),
            None if whole > limit => return Err(too_large(&what(), limit)),
            None => progress.expect(whole),
            Some(_) => {}
        }
    }
    let mut pace = Pace::new(client.policy.stall);
    while let Some(chunk) = next_chunk(&mut response, &mut pace).await? {
        let whole = partial.length + chunk.len() as u64;
        if whole > limit {
            return Err(match wanted {
                Some(wanted) => wrong_size(&what(), wanted, whole),
                None => too_large(&what(), limit),
            });
        }
        partial.write(&chunk)?;
        progress.came(chunk.len() as u64);
    }
    match wanted {
        Some(wanted) if partial.length < wanted.size => Err(FetchError::network(format!(
            "{} ended after {} of {} bytes",
            what(),
            partial.length,
            wanted.size
        ))),
        _ => Ok(()),
    }
}

fn wrong_size(what: &str, wanted: &Wanted, found: u64) -> FetchError {
    FetchError::Content(format!(
        "size mismatch: {what} has {found} bytes or more, but the manifest says {}. Publish the \
         artefact anew, or set the digest of what is published",
        wanted.size
    ))
}

fn too_large(what: &str, limit: u64) -> FetchError {
    FetchError::Refused(format!(
        "{what} has more than the {limit} bytes that the platform allows (--max-size)"
    ))
}

/// The first byte of `Content-Range: bytes FIRST-LAST/TOTAL`.
fn starts_at(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range
        .strip_prefix("bytes ")?
        .split_once('-')?
        .0
        .parse()
        .ok()
}

async fn next_chunk(
    response: &mut Response,
    pace: &mut Pace,
) -> Result<Option<Vec<u8>>, FetchError> {
    let chunk = response.chunk().await;
    let chunk = chunk.map_err(|error| failure(response.url(), &error))?;
    if let Some(chunk) = &chunk {
        pace.check(response, chunk.len() as u64)?;
    }
    Ok(chunk.map(|chunk| chunk.to_vec()))
}

/// Notices a source that sends just enough not to be called silent.
struct Pace {
    window: Duration,
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(window: Duration) -> Self {
        Self {
            window,
            since: Instant::now(),
            bytes: 0,
        }
    }

    fn check(&mut self, response: &Response, bytes: u64) -> Result<(), FetchError> {
        self.bytes += bytes;
        if self.since.elapsed() < self.window {
            return Ok(());
        }
        if self.bytes < TRICKLE {
            return Err(FetchError::network(format!(
                "{} sent only {} bytes in {} s",
                Origin(response.url()),
                self.bytes,
                self.since.elapsed().as_secs()
            )));
        }
        *self = Self::new(self.window);
        Ok(())
    }
}

/// Waits before the next attempt; gives the error back where no attempt is left, or none can help.
async fn wait_or_give_up(
    client: &Client,
    error: FetchError,
    failures: &mut u32,
) -> Result<(), FetchError> {
    let FetchError::Network {
        message,
        retry_after,
    } = error
    else {
        return Err(error);
    };
    *failures += 1;
    if *failures > client.policy.retries {
        return Err(FetchError::network(format!(
            "{message}; given up after {failures} attempts without progress. Check the source and \
             the way to it"
        )));
    }
    let doubled = FIRST_WAIT.saturating_mul(1 << (*failures - 1).min(10));
    // Pods that failed together do not come back together.
    let jittered = doubled
        .min(LONGEST_WAIT)
        .mul_f64(0.75 + fastrand::f64() / 2.0);
    let wait = retry_after.unwrap_or_default().max(jittered);
    warn!(
        error = message,
        attempt = *failures,
        of = client.policy.retries,
        wait_seconds = wait.as_secs_f64(),
        "trying again"
    );
    tokio::time::sleep(wait).await;
    Ok(())
}

/// A growing file, and the hash of its content.
struct Partial<'a> {
    path: &'a Path,
    file: File,
    length: u64,
    hash: Sha256,
}

impl<'a> Partial<'a> {
    /// Opens or creates the file, and hashes its content.
    fn open(path: &'a Path) -> Result<Self, FetchError> {
        let error = |error| FetchError::storage(path, error);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(error)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut partial = Self {
            path,
            file: options.open(path).map_err(error)?,
            length: 0,
            hash: Sha256::new(),
        };
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = partial.file.read(&mut buffer).map_err(error)?;
            if read == 0 {
                return Ok(partial);
            }
            partial.hash.update(&buffer[..read]);
            partial.length += read as u64;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.file
            .write_all(bytes)
            .map_err(|error| FetchError::storage(self.path, error))?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn reset(&mut self) -> Result<(), FetchError> {
        let error = |error| FetchError::storage(self.path, error);
        self.file.set_len(0).map_err(error)?;
        self.file.seek(SeekFrom::Start(0)).map_err(error)?;
        self.length = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    fn verify(&self, path: &Path, wanted: &Wanted) -> Result<(), FetchError> {
        let found = Digest::from_hash(self.hash.clone()).hex();
        if found == wanted.sha256 {
            return Ok(());
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Err(FetchError::Content(format!(
            "sha256 mismatch: {name} has {found}, but {} was required. Publish the artefact anew, \
             or set the digest of what is published",
            wanted.sha256
        )))
    }
}

/// Whether a file is what it must be.
pub(super) fn is_intact(path: &Path, wanted: &Wanted) -> bool {
    let right_size = std::fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_file() && found.len() == wanted.size);
    right_size && hash_of(path).is_some_and(|found| found.hex() == wanted.sha256)
}

/// The sha256 of a file; `None` where it cannot be read.
pub(super) fn hash_of(path: &Path) -> Option<Digest> {
    let mut file = File::open(path).ok()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(Digest::from_hash(hash)),
            read => hash.update(&buffer[..read]),
        }
    }
}
