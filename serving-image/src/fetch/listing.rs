//! The files that a manifest lists. Fetching reads no other part of it.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use serde::Deserialize;

use super::error::FetchError;
use crate::artefact::{Digest, MANIFEST_FILE};

/// Most files of an artefact.
const MAX_FILES: usize = 10_000;

/// The files of an artefact, checked: no path leads out, none is listed twice.
#[derive(Debug)]
pub struct Listing {
    /// The manifest, byte by byte.
    pub manifest: Vec<u8>,
    /// Every other file.
    pub files: Vec<Listed>,
    /// Their sizes and the manifest's, in bytes.
    pub total: u64,
}

/// A file as the manifest lists it.
#[derive(Debug, Clone, Deserialize)]
pub struct Listed {
    /// Path inside the artefact, with `/`.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
}

#[derive(Deserialize)]
struct Files {
    #[serde(default)]
    files: Vec<Listed>,
}

impl Listing {
    /// Reads a manifest that must have `digest` where one is known, of an artefact that must not be
    /// larger than `max_size` bytes. An error where the digest differs, the manifest cannot be used
    /// or the artefact is too large.
    pub fn read(
        manifest: Vec<u8>,
        digest: Option<Digest>,
        max_size: u64,
    ) -> Result<Self, FetchError> {
        let found = Digest::of(&manifest);
        if let Some(digest) = digest.filter(|digest| *digest != found) {
            return Err(FetchError::Content(format!(
                "digest mismatch: the source's {MANIFEST_FILE} has {found}, but {digest} was \
                 required. Set the digest of the artefact that you mean, or publish that one"
            )));
        }
        let unsound = |what: String| {
            FetchError::Content(format!(
                "{MANIFEST_FILE} {what}. Write it anew with `serin-serve manifest`"
            ))
        };
        let Files { files } = serde_json::from_slice(&manifest)
            .map_err(|error| unsound(format!("is no manifest: {error}")))?;
        if files.len() > MAX_FILES {
            return Err(unsound(format!(
                "lists {} files, more than {MAX_FILES}",
                files.len()
            )));
        }
        let mut paths = BTreeSet::new();
        let mut total = manifest.len() as u64;
        for file in &files {
            if !is_inside(&file.path) || file.path == MANIFEST_FILE {
                return Err(unsound(format!("lists the path {:?}", file.path)));
            }
            if !paths.insert(file.path.as_str()) {
                return Err(unsound(format!("lists {:?} twice", file.path)));
            }
            let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            if file.sha256.len() != 64 || !file.sha256.bytes().all(digit) {
                return Err(unsound(format!("has no sha256 for {:?}", file.path)));
            }
            total = total.saturating_add(file.size);
        }
        for path in &paths {
            let above = path.match_indices('/').map(|(at, _)| &path[..at]);
            if let Some(file) = above.into_iter().find(|folder| paths.contains(folder)) {
                return Err(unsound(format!("lists {file:?} as a file and as a folder")));
            }
        }
        if total > max_size {
            return Err(FetchError::Refused(format!(
                "the artefact has {total} bytes, more than the {max_size} that the platform \
                 allows (--max-size)"
            )));
        }
        Ok(Self {
            manifest,
            files,
            total,
        })
    }
}

/// Whether a path stays inside, in its plainest form.
pub(super) fn is_inside(path: &str) -> bool {
    let plain = |part: Component| matches!(part, Component::Normal(_));
    !path.is_empty()
        && path.len() <= 1024
        && !path.contains(['\\', '\0'])
        && !path.ends_with('/')
        && !path.contains("//")
        && !path.contains("/./")
        && Path::new(path).components().all(plain)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn read(files: &Value, max_size: u64) -> Result<Listing, FetchError> {
        let manifest = json!({"anything": {"else": 1}, "files": files}).to_string();
        let digest = Digest::of(manifest.as_bytes());
        Listing::read(manifest.into_bytes(), Some(digest), max_size)
    }

    fn file(path: &str) -> Value {
        json!({"path": path, "size": 5, "sha256": "0".repeat(64), "later": "field"})
    }

    #[test]
    fn a_sound_list_is_read_and_the_rest_of_the_manifest_left_alone() {
        let listing = read(&json!([file("a"), file("b/c.bin")]), 1 << 20).unwrap();
        assert_eq!(listing.files.len(), 2);
        assert_eq!(listing.total, listing.manifest.len() as u64 + 10);
    }

    #[test]
    fn unsound_lists_are_refused() {
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/..",
            "./a",
            "a/./b",
            "a//b",
            "a/",
            "a\\b",
            "a\0b",
            "serin-model.json",
            &"x".repeat(1025),
        ] {
            let refused = read(&json!([file(path)]), 1 << 20).unwrap_err();
            assert_eq!(refused.exit_code(), 5, "{path}: {refused}");
        }
        for (files, word) in [
            (json!([file("a"), file("a")]), "twice"),
            (json!([file("a"), file("a/b")]), "as a folder"),
            (json!([file("a/b/c"), file("a")]), "as a folder"),
            (
                json!([{"path": "a", "size": 1, "sha256": "0"}]),
                "no sha256",
            ),
            (
                json!([{"path": "a", "size": -1, "sha256": "0".repeat(64)}]),
                "is no manifest",
            ),
            (json!("all"), "is no manifest"),
            (
                Value::Array((0..10_001).map(|n| file(&n.to_string())).collect()),
                "10001 files",
            ),
        ] {
            let refused = read(&files, 1 << 30).unwrap_err();
            assert!(refused.to_string().contains(word), "{refused}");
        }
    }

    #[test]
    fn the_size_is_capped_before_anything_is_fetched() {
        let huge = json!([{"path": "a", "size": u64::MAX, "sha256": "0".repeat(64)}, file("b")]);
        let refused = read(&huge, 1 << 40).unwrap_err();
        assert_eq!(refused.exit_code(), 3);
        assert!(refused.to_string().contains("--max-size"), "{refused}");
    }
}
