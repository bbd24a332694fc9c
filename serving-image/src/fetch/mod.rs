//! `serin-serve fetch`: brings an artefact from where it is published to a directory, verified,
//! whole or not at all.
//!
//! ```text
//! uri ─► layout (oci, s3, https, hf, file) ─► listing (manifest: digest, files, size cap)
//!     ─► download ─► store
//! every request: client ─► hosts (the platform's list) ─► address (never loopback, metadata, …)
//! ```
//! The manifest's sha256 is the artefact's digest, and the manifest holds every file's size and
//! sha256: whatever a source, a cache or a network in between does, what is put in place is the
//! artefact that was asked for, and nothing besides. An address that pins a registry's manifest by
//! its own digest does the same, since that holds the digests of all layers.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | the artefact is in place |
//! | 2 | a flag, the address or a credential is malformed |
//! | 3 | the platform does not allow it: host, address, protocol, size |
//! | 4 | the source does not have it: not found, or not in a shape that can be fetched |
//! | 5 | what came is not what was asked for: digest, size, archive |
//! | 6 | the source cannot be reached, or breaks off: trying again later may help |
//! | 7 | the directory or the cache cannot be written |
//! | 8 | the source refuses: credentials, or reasons of its own |

mod address;
mod archive;
mod args;
mod client;
mod credentials;
mod download;
mod error;
#[cfg(test)]
mod fuzz_tests;
mod hosts;
mod image;
mod layout;
mod listing;
mod oci;
mod progress;
mod remote;
mod s3;
mod store;
mod uri;

use std::fs;
use std::path::Path;

use tracing::info;

pub use args::FetchArgs;
pub use error::FetchError;

use self::archive::Tar;
use self::client::{Client, RetryPolicy};
use self::credentials::Credentials;
use self::layout::{Archive, Layout};
use self::listing::Listing;
use self::progress::Progress;
use self::store::{Pin, Store, make_directory};
use self::uri::Uri;
use crate::artefact::{Digest, MANIFEST_FILE, MAX_MANIFEST};

/// Room for what an archive holds besides the artefact's files: headers, padding, a README.
const ARCHIVE_SLACK: u64 = 64 << 20;

/// Does what the flags say. An error where an argument cannot be used, the source refuses or is
/// unreachable, or the content is not the one of the digest.
pub async fn run(args: &FetchArgs) -> Result<(), FetchError> {
    let uri: Uri = args.uri.parse()?;
    let pin = pin(args, &uri)?;
    let store = match &args.cache {
        Some(cache) => Store::cache(cache, &pin, args.cache_limit),
        None => Store::beside(&args.directory, &pin),
    };
    let digest = pin.sha256;
    if args.directory.join(MANIFEST_FILE).is_file() && store.is_complete(&args.directory) {
        info!(%digest, "the artefact is in place already");
        return Ok(());
    }
    if args.cache.is_some() {
        let _held = store.lock(false).await?;
        if store.is_complete(&store.artefact()) {
            info!(%digest, "found in the cache, and verified");
            return store.place(&args.directory);
        }
    }
    let held = store.lock(true).await?;
    // While this process waited, the one before it may have finished.
    if store.is_complete(&store.artefact()) {
        info!(%digest, "another process fetched it meanwhile");
    } else {
        let staging = store.staging(&held)?;
        assemble(args, &uri, &staging).await?;
        store.publish(&staging.join("files"))?;
        let _ = fs::remove_dir_all(&staging);
    }
    store.place(&args.directory)?;
    store.evict();
    Ok(())
}

/// What pins the artefact: its digest, or the registry's in the address.
fn pin(args: &FetchArgs, uri: &Uri) -> Result<Pin, FetchError> {
    let of_registry = match uri {
        Uri::Oci(source) => source
            .digest
            .as_ref()
            .and_then(|digest| digest.parse().ok()),
        _ => None,
    };
    let sha256 = args.digest.or(of_registry).ok_or_else(|| {
        FetchError::usage(
            "--digest",
            "needed where the address is not oci://HOST/REPOSITORY@sha256:…",
        )
    })?;
    Ok(Pin {
        sha256,
        of_manifest: args.digest,
    })
}

/// Fetches into `staging/files`, and leaves there what a later attempt can go on with.
async fn assemble(args: &FetchArgs, uri: &Uri, staging: &Path) -> Result<(), FetchError> {
    let credentials =
        Credentials::read(args.credentials.as_deref(), |name| std::env::var(name).ok())?;
    let mut authorities = Vec::new();
    if let Some(file) = &args.ca_file {
        authorities.push(client::read_authorities("--ca-file", file)?);
    }
    if let Some(pem) = &credentials.authorities {
        authorities.push(("the credentials' ca.crt".to_owned(), pem.clone()));
    }
    let policy = RetryPolicy {
        connect: args.connect_timeout,
        stall: args.stall_timeout,
        retries: args.retries,
    };
    let hosts = args.allow_hosts.iter().cloned().collect();
    let client = Client::new(hosts, policy, &authorities)?;
    let files = staging.join("files");
    make_directory(&files)?;
    let layout = layout::open(&client, uri, args, &credentials).await?;
    let mut progress = Progress::new(None);
    let listing = match layout {
        Layout::Files { locate, manifest } => {
            let digest = args.digest.or(manifest);
            let manifest = locate(MANIFEST_FILE).ok_or_else(|| absent(MANIFEST_FILE))?;
            let bytes = download::to_memory(&client, &manifest, None, MAX_MANIFEST).await?;
            let listing = Listing::read(bytes, digest, args.max_size)?;
            progress.expect(listing.total);
            for file in &listing.files {
                let remote = locate(&file.path).ok_or_else(|| absent(&file.path))?;
                let path = files.join(&file.path);
                let wanted = file.wanted();
                download::to_file(
                    &client,
                    &remote,
                    &path,
                    Some(&wanted),
                    wanted.size,
                    &mut progress,
                )
                .await?;
            }
            listing
        }
        Layout::Archives(archives) => {
            let packed = download_all(&client, &archives, args, staging, &mut progress).await?;
            let listing = unpack(&packed, args, &files);
            discard_all(&packed);
            listing?
        }
        Layout::Image(layers) => {
            let packed = download_all(&client, &layers, args, staging, &mut progress).await?;
            let listing = image::unpack(&packed, args, &files);
            discard_all(&packed);
            listing?
        }
        Layout::Local(directory) => {
            let source = |path: &str| directory.join(path);
            let unreadable = |path: &Path, error| {
                FetchError::Source(format!("{} cannot be read: {error}", path.display()))
            };
            let manifest = source(MANIFEST_FILE);
            let bytes = fs::read(&manifest).map_err(|error| unreadable(&manifest, error))?;
            let listing = Listing::read(bytes, args.digest, args.max_size)?;
            for file in &listing.files {
                let (from, to) = (source(&file.path), files.join(&file.path));
                to.parent().map_or(Ok(()), make_directory)?;
                fs::copy(&from, &to).map_err(|error| unreadable(&from, error))?;
                if !download::is_intact(&to, &file.wanted()) {
                    return Err(FetchError::Content(format!(
                        "{} is not what the manifest says",
                        from.display()
                    )));
                }
            }
            listing
        }
    };
    let manifest = files.join(MANIFEST_FILE);
    fs::write(&manifest, &listing.manifest)
        .map_err(|error| FetchError::storage(&manifest, error))?;
    let (bytes, rate) = progress.sum();
    info!(
        digest = %Digest::of(&listing.manifest),
        files = listing.files.len(),
        size = listing.total,
        bytes,
        bytes_per_second = rate,
        "fetched and verified"
    );
    Ok(())
}

/// An archive that was fetched: where it is, and whether it is compressed.
type Packed = (std::path::PathBuf, bool);

async fn download_all(
    client: &Client,
    archives: &[Archive],
    args: &FetchArgs,
    staging: &Path,
    progress: &mut Progress,
) -> Result<Vec<Packed>, FetchError> {
    let mut packed = Vec::new();
    for (index, archive) in archives.iter().enumerate() {
        let path = staging.join(format!("archive-{index}"));
        let wanted = archive.wanted.as_ref();
        if let Some(wanted) = wanted.filter(|wanted| wanted.size > args.max_size) {
            return Err(FetchError::Refused(format!(
                "the archive has {} bytes, more than the {} that the platform allows (--max-size)",
                wanted.size, args.max_size
            )));
        }
        let (remote, limit) = (&archive.remote, args.max_size);
        download::to_file(client, remote, &path, wanted, limit, progress).await?;
        packed.push((path, archive.gzip));
    }
    Ok(packed)
}

/// A wrong archive is not resumed.
fn discard_all(packed: &[Packed]) {
    for (path, _) in packed {
        let _ = fs::remove_file(path);
    }
}

fn tars<'a>(packed: &'a [Packed], args: &FetchArgs) -> Vec<Tar<'a>> {
    let limit = args.max_size.saturating_add(ARCHIVE_SLACK);
    let tar = |(path, gzip): &'a Packed| Tar {
        path,
        gzip: *gzip,
        limit,
    };
    packed.iter().map(tar).collect()
}

/// Takes the listed files out of the archives.
fn unpack(packed: &[Packed], args: &FetchArgs, files: &Path) -> Result<Listing, FetchError> {
    let archives = tars(packed, args);
    let mut manifest = None;
    for archive in &archives {
        manifest = archive.manifest()?;
        if manifest.is_some() {
            break;
        }
    }
    let (manifest, folder) = manifest.ok_or_else(|| {
        FetchError::Content(format!(
            "the archive holds no {MANIFEST_FILE}, neither at its top nor in one folder. Pack the \
             artefact's directory"
        ))
    })?;
    let listing = Listing::read(manifest, args.digest, args.max_size)?;
    // What an interrupted attempt took out is not trusted.
    fs::remove_dir_all(files).map_err(|error| FetchError::storage(files, error))?;
    make_directory(files)?;
    let mut found = std::collections::BTreeSet::new();
    for archive in &archives {
        found.extend(archive.extract(&folder, &listing.files, files)?);
    }
    match listing
        .files
        .iter()
        .find(|file| !found.contains(&file.path))
    {
        Some(file) => Err(absent(&file.path)),
        None => Ok(listing),
    }
}

fn absent(path: &str) -> FetchError {
    FetchError::Content(format!(
        "the artefact's {path} is not there. Publish the artefact whole, with {MANIFEST_FILE} and \
         every file that it lists"
    ))
}
