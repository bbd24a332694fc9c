//! How a source holds an artefact.

use std::path::PathBuf;

use reqwest::Url;

use super::args::FetchArgs;
use super::client::Client;
use super::credentials::{Credentials, Secret};
use super::error::FetchError;
use super::remote::{Access, Remote};
use super::uri::{Uri, archive, encode};
use super::{oci, s3};
use crate::artefact::Digest;

/// From a file's path in the artefact to its address.
pub(super) type Locate = Box<dyn Fn(&str) -> Option<Remote>>;

/// How a source holds an artefact.
pub(super) enum Layout {
    /// Each file has its own address; `None` for a file that the source does not have.
    Files {
        /// Where each is.
        locate: Locate,
        /// The digest that the manifest must have, where the source is pinned.
        manifest: Option<Digest>,
    },
    /// Below `/models` of a container image, in its layers.
    Image(Vec<Archive>),
    /// In one archive, or several that make up one artefact.
    Archives(Vec<Archive>),
    /// In a directory of this machine.
    Local(PathBuf),
}

/// An archive of files.
pub(super) struct Archive {
    /// Where it is.
    pub remote: Remote,
    /// Whether it is compressed.
    pub gzip: bool,
    /// What it must be, where the source says so.
    pub wanted: Option<Wanted>,
}

/// What a file must be.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// In bytes.
    pub size: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

/// Finds out how the source holds the artefact.
pub(super) async fn open(
    client: &Client,
    uri: &Uri,
    args: &FetchArgs,
    credentials: &Credentials,
) -> Result<Layout, FetchError> {
    match uri {
        Uri::Oci(source) => oci::open(client, source, credentials).await,
        Uri::S3 { bucket, key } => {
            let endpoint = s3::Endpoint::new(
                args.s3_endpoint.as_deref(),
                args.s3_region.as_deref(),
                credentials,
            )?;
            let (bucket, folder) = (bucket.clone(), key.clone());
            Ok(archive_or_folder(key, move |path| {
                endpoint.object(&bucket, format!("{folder}/{path}").trim_matches('/'))
            }))
        }
        Uri::Https(url) => {
            let access = Access::of(credentials)?;
            let root = url.clone();
            Ok(archive_or_folder(url.path(), move |path| Remote {
                url: below(&root, path),
                access: access.clone(),
            }))
        }
        Uri::Hf {
            repository,
            revision,
            folder,
        } => {
            let endpoint = Url::parse(&args.hf_endpoint)
                .ok()
                .filter(|url| url.has_host() && url.query().is_none());
            let endpoint = endpoint.ok_or_else(|| {
                FetchError::usage(
                    "--hf-endpoint",
                    "expected an address such as https://huggingface.co",
                )
            })?;
            let root = below(
                &endpoint,
                &format!("{repository}/resolve/{revision}/{folder}"),
            );
            let token = credentials.token.as_ref().map(Secret::bearer).transpose()?;
            let access = token.map_or(Access::Open, Access::Fixed);
            Ok(archive_or_folder(folder, move |path| Remote {
                url: below(&root, path),
                access: access.clone(),
            }))
        }
        Uri::File(path) if args.allow_file => Ok(Layout::Local(path.clone())),
        Uri::File(_) => Err(FetchError::Refused(
            "file:// is for development, and off. Publish the artefact, or allow it (--allow-file)"
                .to_owned(),
        )),
    }
}

/// An archive where its name says so, else the files of a folder. `locate` gets a file's path in
/// it, or nothing for itself.
fn archive_or_folder(name: &str, locate: impl Fn(&str) -> Remote + 'static) -> Layout {
    match archive(name) {
        Some(gzip) => Layout::Archives(vec![Archive {
            remote: locate(""),
            gzip,
            wanted: None,
        }]),
        None => Layout::Files {
            locate: Box::new(move |path| Some(locate(path))),
            manifest: None,
        },
    }
}

/// A path below an address. What gives an address a meaning (`?`, `#`, `%`) is a letter of a name
/// here.
fn below(root: &Url, path: &str) -> Url {
    let mut url = root.clone();
    let joined = format!("{}/{}", root.path().trim_end_matches('/'), encode(path));
    url.set_path(joined.trim_end_matches('/'));
    url
}
