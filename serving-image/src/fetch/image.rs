//! A container image whose layers hold the model below `/models`, as KServe's modelcars do.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use serde_json::json;

use super::archive::{Tar, WHITEOUT, broken, too_large};
use super::args::FetchArgs;
use super::download::{hash_of, is_intact};
use super::error::FetchError;
use super::listing::Listing;
use super::store::make_directory;
use super::{MANIFEST_FILE, Packed, tars};
use crate::artefact::MAX_MANIFEST;

/// The folder that holds the model.
const MODELS: &str = "models/";

/// Takes the model out of the layers, in their order. An image without `serin-model.json` gets one
/// that lists its files, so that a cache can verify them.
pub(super) fn unpack(
    packed: &[Packed],
    args: &FetchArgs,
    files: &Path,
) -> Result<Listing, FetchError> {
    // What an interrupted attempt took out is not trusted.
    fs::remove_dir_all(files).map_err(|error| FetchError::storage(files, error))?;
    make_directory(files)?;
    let mut room = args.max_size;
    let mut count = 0;
    for layer in tars(packed, args) {
        count += extract(&layer, files, &mut room)?;
    }
    if count == 0 {
        return match args.digest {
            // Its layers may hold an artefact at their top.
            Some(_) => super::unpack(packed, args, files),
            None => Err(FetchError::Content(
                "the image holds no files below /models. Build it with the model there".to_owned(),
            )),
        };
    }
    let manifest = files.join(MANIFEST_FILE);
    let Ok(found) = fs::metadata(&manifest) else {
        if let Some(digest) = args.digest {
            return Err(FetchError::Content(format!(
                "the image's /models holds no {MANIFEST_FILE}, which must have {digest}. Pin the \
                 image by its own digest instead (oci://HOST/REPOSITORY@sha256:…), or add the file"
            )));
        }
        return list(files, args.max_size);
    };
    if found.len() > MAX_MANIFEST {
        return Err(FetchError::Content(format!(
            "the image's {MANIFEST_FILE} has {} bytes, more than {MAX_MANIFEST}",
            found.len()
        )));
    }
    let bytes = fs::read(&manifest).map_err(|error| FetchError::storage(&manifest, error))?;
    let listing = Listing::read(bytes, args.digest, args.max_size)?;
    for file in &listing.files {
        if !is_intact(&files.join(&file.path), &file.wanted()) {
            return Err(FetchError::Content(format!(
                "the image's {} is not what its {MANIFEST_FILE} says",
                file.path
            )));
        }
    }
    for path in paths(files, "")? {
        if path != MANIFEST_FILE && listing.files.iter().all(|file| file.path != path) {
            let path = files.join(path);
            fs::remove_file(&path).map_err(|error| FetchError::storage(&path, error))?;
        }
    }
    Ok(listing)
}

/// Writes all files below `/models` of a layer into `directory`, over those of the layers before
/// it. Returns how many there were. `room` is what they may have together, in bytes.
fn extract(layer: &Tar<'_>, directory: &Path, room: &mut u64) -> Result<usize, FetchError> {
    let mut count = 0;
    layer.each(MODELS, |member| {
        if member
            .path
            .split('/')
            .any(|part| part.starts_with(WHITEOUT))
        {
            return Err(FetchError::Content(format!(
                "a layer of the image deletes files of an earlier one ({:?}). Build an image \
                     that adds each file of the model once",
                member.path
            )));
        }
        let Some(path) = member.path.strip_prefix(MODELS) else {
            return Ok(true);
        };
        *room = room.checked_sub(member.size).ok_or_else(too_large)?;
        let to = directory.join(path);
        let error = |error| FetchError::storage(&to, error);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(error)?;
        }
        match fs::remove_file(&to) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(error(source));
            }
            _ => {}
        }
        let mut written = fs::File::create_new(&to).map_err(error)?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            let read = member.content.read(&mut buffer).map_err(broken)?;
            if read == 0 {
                break;
            }
            written.write_all(&buffer[..read]).map_err(error)?;
        }
        count += 1;
        Ok(true)
    })?;
    Ok(count)
}

/// A listing of all files of a directory.
fn list(files: &Path, max_size: u64) -> Result<Listing, FetchError> {
    let mut listed = Vec::new();
    for path in paths(files, "")? {
        let file = files.join(&path);
        let error = |error| FetchError::storage(&file, error);
        let size = fs::metadata(&file).map_err(error)?.len();
        let sha256 = hash_of(&file)
            .ok_or_else(|| error(io::ErrorKind::Other.into()))?
            .hex();
        listed.push(json!({"path": path, "size": size, "sha256": sha256}));
    }
    let manifest = json!({"files": listed}).to_string().into_bytes();
    Listing::read(manifest, None, max_size)
}

/// The paths of all files below a directory.
fn paths(root: &Path, folder: &str) -> Result<Vec<String>, FetchError> {
    let at = root.join(folder);
    let error = |error| FetchError::storage(&at, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(&at).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = entry.file_name();
        let path = Path::new(folder).join(name).to_string_lossy().into_owned();
        if entry.file_type().map_err(error)?.is_dir() {
            found.extend(paths(root, &path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
