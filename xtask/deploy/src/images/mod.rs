//! `cargo xtask images`: the container images of the local cluster, built with buildah and kept as
//! archives.
//!
//! Each image has a content key, the digest of everything that it is made from. An archive whose
//! name carries the current key is used as it is; so a second build costs milliseconds and a
//! changed file rebuilds what it touches.

mod buildah;
mod catalog;
mod check;
mod content_key;
mod host_files;
mod logged;
mod publish;
mod release;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cluster::progress::Progress;
use cluster::{Layout, repository};

pub use catalog::Image;
pub use publish::{Registry, push};
pub use release::Release;

/// Arguments of `cargo xtask images`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Build images into archives under the cache (all of them unless named)
    Build {
        /// Images to build
        names: Vec<Image>,
    },
    /// Build the cluster's images and the serving images, and hold the latter to what is promised
    /// of them: size, user, no shell, SBOM, health check, a root that cannot be written
    Check,
    /// Show each image with its archive, or `not built` (the default)
    List,
}

/// An image that lies ready as an archive in docker's format.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// Name and tag inside the archive, such as `localhost/serin-serve:dev`.
    pub reference: String,
    /// The archive, for `cargo xtask cluster load` or `docker load`.
    pub archive: PathBuf,
    /// Whether this call built it; `false` when the cached archive was current.
    pub rebuilt: bool,
}

/// Runs `cargo xtask images …`.
pub fn run(args: Args) -> Result<()> {
    match args.command.unwrap_or(Command::List) {
        Command::Build { names } => {
            let names = if names.is_empty() {
                Image::ALL.to_vec()
            } else {
                names
            };
            for image in build(&names)? {
                let state = if image.rebuilt { "built" } else { "current" };
                println!(
                    "{:<36}{state:<9}{}",
                    image.reference,
                    image.archive.display()
                );
            }
        }
        Command::Check => check::run()?,
        Command::List => {
            let cache = cache_dir()?;
            for image in Image::ALL {
                let archive = newest_archive(&cache, image)?
                    .map_or_else(|| "not built".to_owned(), |path| path.display().to_string());
                println!("{:<36}{archive}", image.reference());
            }
        }
    }
    Ok(())
}

/// Brings the archives of `images` up to date, building an image that another rests on first.
///
/// Blocking, and up to several minutes for the first compilation: call it off the async runtime.
/// Two calls at the same time, also of two processes, take turns.
pub fn build(images: &[Image]) -> Result<Vec<BuiltImage>> {
    let cache = cache_dir()?;
    let _lock = lock(&cache)?;
    images
        .iter()
        .map(|image| build_one(&cache, *image))
        .collect()
}

/// Holds the image cache until it is dropped.
fn lock(cache: &Path) -> Result<fs::File> {
    fs::create_dir_all(cache)?;
    let lock = fs::File::create(cache.join("lock"))?;
    lock.lock().context("cannot lock the image cache")?;
    Ok(lock)
}

fn build_one(cache: &Path, image: Image) -> Result<BuiltImage> {
    let base = image
        .base()
        .map(|base| build_one(cache, base))
        .transpose()?;
    let repository = repository::root();
    let inputs = image.inputs(&repository)?;
    let mut key = content_key::of(&inputs)?;
    if let Some(base) = &base {
        key = content_key::combine(&key, &base.archive.to_string_lossy());
    }
    let archive = cache.join(format!("{}-{}.tar", image.name(), &key[..16]));
    let reference = image.reference().to_owned();
    if archive.exists() {
        return Ok(BuiltImage {
            reference,
            archive,
            rebuilt: false,
        });
    }

    let progress = Progress::new("images");
    progress.say(format!("building {reference}"));
    buildah::ensure_installed(&progress)?;
    let store = buildah::Store::open(cache)?;
    let context = image.stage_context(&repository, &cache.join("context").join(image.name()))?;
    if let Some(base) = &base {
        store.import(&base.archive)?;
    }
    let log = cache.join(format!("{}.log", image.name()));
    store.build(
        &image.recipe(&repository, context)?,
        &reference,
        &log,
        &progress,
    )?;

    // A build that is cut off leaves only the partial name behind.
    let partial = archive.with_extension("tar.partial");
    store.export(&reference, &partial)?;
    remove_archives(cache, image)?;
    fs::rename(&partial, &archive)?;
    let megabytes = fs::metadata(&archive)?.len() / 1_000_000;
    progress.say(format!("built {reference}, {megabytes} MB"));
    Ok(BuiltImage {
        reference,
        archive,
        rebuilt: true,
    })
}

fn archives(cache: &Path, image: Image) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(cache) else {
        return Ok(found);
    };
    for entry in entries {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        // `serve-<16 hex>.tar` must not match `serve-examples-<16 hex>.tar`.
        let key = name
            .strip_prefix(image.name())
            .and_then(|rest| rest.strip_prefix('-')?.strip_suffix(".tar"));
        if key.is_some_and(|key| key.len() == 16 && key.bytes().all(|b| b.is_ascii_hexdigit())) {
            found.push(path);
        }
    }
    Ok(found)
}

fn newest_archive(cache: &Path, image: Image) -> Result<Option<PathBuf>> {
    let modified = |path: &PathBuf| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    Ok(archives(cache, image)?.into_iter().max_by_key(modified))
}

fn remove_archives(cache: &Path, image: Image) -> Result<()> {
    for old in archives(cache, image)? {
        fs::remove_file(old)?;
    }
    Ok(())
}

fn cache_dir() -> Result<PathBuf> {
    Ok(Layout::from_env()?.cached("images"))
}
