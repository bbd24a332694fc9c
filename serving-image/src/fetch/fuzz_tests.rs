//! Input of `fetch` from servers and users, as an attacker would craft it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::archive::Tar;
use super::credentials::DockerConfig;
use super::hosts::Entry;
use super::layout::Layout;
use super::listing::{Listed, Listing};
use super::oci;
use super::uri::Uri;
use crate::artefact::Digest;
use crate::fuzzing::{bounded, cases, damage, json, replace};

/// Most that comes out of an archive here.
const LIMIT: u64 = 64 << 10;

/// The parts that addresses are made of, in any order.
fn address() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("oci://"),
        Just("s3://"),
        Just("https://"),
        Just("http://"),
        Just("hf://"),
        Just("file://"),
        Just("/"),
        Just(".."),
        Just("."),
        Just("@"),
        Just(":"),
        Just("sha256:"),
        Just("%2e%2e"),
        Just("\\"),
        Just("?a=b"),
        Just("#"),
        Just("*"),
        Just("10.0.0.1"),
        Just("/8"),
        Just("[::1]"),
        Just("example.com"),
        Just("models"),
        Just("serin-model.json"),
        Just(".tar.gz"),
        Just("ü"),
        Just("\0"),
        Just("65536"),
    ]
    .prop_map(str::to_owned);
    prop_oneof![
        3 => vec(part, 0..10).prop_map(|parts| parts.concat()),
        1 => any::<String>(),
    ]
}

fn listed(path: &str, content: &[u8]) -> Listed {
    Listed {
        path: path.to_owned(),
        size: content.len() as u64,
        sha256: Digest::of(content).hex(),
    }
}

const FILES: [(&str, &[u8]); 3] = [
    ("serin-model.json", b"{}"),
    ("model.safetensors", b"weights"),
    ("deep/folder/vocabulary.txt", b"words"),
];

/// An archive as `tar` writes one.
fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in FILES {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Corrects the checksums of all headers, as an attacker would.
fn with_checksums(mut archive: Vec<u8>) -> Vec<u8> {
    for block in archive.as_chunks_mut::<512>().0 {
        // A header, whatever became of the rest of it, and not content.
        if block[257..262] == *b"ustar" {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
    archive
}

/// All that is below a directory.
fn below(directory: &Path, found: &mut BTreeSet<String>, prefix: &str) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            below(&entry.path(), found, &format!("{name}/"));
        } else {
            assert!(entry.file_type().unwrap().is_file(), "{name}");
            found.insert(name);
        }
    }
}

/// Reads an archive, and checks that only listed files came out of it, each whole or as the
/// beginning of a refused one.
fn unpack(bytes: &[u8], gzip: bool) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("archive");
    fs::write(&path, bytes).unwrap();
    let inside = directory.path().join("inside");
    fs::create_dir(&inside).unwrap();
    let tar = Tar {
        path: &path,
        gzip,
        limit: LIMIT,
    };
    let files = FILES.map(|(name, content)| listed(name, content));
    let outcome = bounded(bytes.len(), || {
        let _ = tar.manifest();
        tar.extract("", &files, &inside)
    });
    let mut there = BTreeSet::new();
    below(directory.path(), &mut there, "");
    there.remove("archive");
    for name in &there {
        assert!(
            FILES
                .iter()
                .any(|(file, _)| format!("inside/{file}") == *name),
            "{name}"
        );
    }
    if let Ok(done) = outcome {
        assert_eq!(done.len(), there.len());
        for (name, content) in FILES.iter().filter(|(name, _)| done.contains(*name)) {
            assert_eq!(fs::read(inside.join(name)).unwrap(), *content);
        }
    }
}

/// A registry's manifest of one file and one folder.
fn registry_manifest() -> Value {
    let digest = Digest::of(b"");
    json!({"schemaVersion": 2, "layers": [
        {
            "mediaType": "application/octet-stream", "digest": digest.to_string(), "size": 4,
            "annotations": {"org.opencontainers.image.title": "serin-model.json"},
        },
        {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest.to_string(),
        "size": 9},
    ]})
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn any_address_is_read_or_refused(text in address()) {
        if let Ok(uri) = bounded(text.len(), || text.parse::<Uri>()) {
            let paths = match &uri {
                Uri::S3 { key, .. } => key.clone(),
                Uri::Https(url) => {
                    prop_assert!(url.username().is_empty() && url.query().is_none(), "{}", url);
                    url.path().to_owned()
                }
                Uri::Hf { repository, revision,
                    folder } => format!("{repository}/{revision}/{folder}"),
                Uri::Oci(oci) => {
                    prop_assert_eq!(oci.to_string().parse::<Uri>().unwrap(), Uri::Oci(oci.clone()));
                    format!("{}/{}", oci.registry, oci.repository)
                }
                Uri::File(path) => path.to_string_lossy().into_owned(),
            };
            prop_assert!(paths.split('/').all(|part| part != ".." && part != "."),
                "{text}: {paths}");
        }
    }

    #[test]
    fn any_entry_of_the_list_of_hosts_is_read_or_refused(text in address()) {
        let entry = bounded(text.len(), || text.parse::<Entry>());
        // One word never opens every host to plain HTTP.
        prop_assert!(entry.is_err() || !text.starts_with("http://*:") , "{}", text);
    }

    #[test]
    fn a_list_of_files_with_changes_is_refused_or_stays_inside(
        place: Index, by in prop_oneof![json(), address().prop_map(Value::from)],
            damage in damage(),
    ) {
        let files = FILES[1..].iter().map(|(name, content)| {
            json!({"path": name, "size": content.len(), "sha256": Digest::of(content).hex()})
        });
        let sound = json!({"files": files.collect::<Vec<_>>()});
        let mut changed = sound.clone();
        replace(&mut changed, place, by);
        let sound = sound.to_string().into_bytes();
        for manifest in [changed.to_string().into_bytes(), damage.of(&sound, sound.len())] {
            let digest = Digest::of(&manifest);
            let read = || Listing::read(manifest.clone(), Some(digest), 1 << 20);
            if let Ok(listing) = bounded(manifest.len(), read) {
                for file in listing.files {
                    let path = Path::new(&file.path);
                    let plain = path.components().all(|part| matches!(part,
                        std::path::Component::Normal(_)));
                    prop_assert!(plain && file.size <= 1 << 20, "{:?}", file);
                }
            }
        }
    }

    #[test]
    fn a_registrys_manifest_with_changes_is_refused_or_read(
        place: Index, by in prop_oneof![json(), address().prop_map(Value::from)],
            damage in damage(),
    ) {
        let sound = registry_manifest();
        let mut changed = sound.clone();
        replace(&mut changed, place, by);
        let sound = sound.to_string().into_bytes();
        for manifest in [changed.to_string().into_bytes(), damage.of(&sound, sound.len())] {
            let Ok(Uri::Oci(source)) = "oci://registry.example.com/models/iris:1".parse() else {
                unreachable!()
            };
            let layout = bounded(manifest.len(), || oci::layout_of(&source, &manifest));
            if let Ok(Layout::Files { locate, .. }) = layout {
                prop_assert!(locate("serin-model.json").is_some());
                prop_assert!(locate("../serin-model.json").is_none());
            }
        }
    }

    #[test]
    fn any_challenge_is_read(text in "[a-zA-Z =,\"\\\\é]{0,60}") {
        bounded(text.len(), || oci::parse_parameters(&text));
    }

    #[test]
    fn registries_credentials_with_changes_are_refused_or_read(
        place: Index, by in json(), damage in damage(), secret in "[A-Za-z0-9]{12}",
    ) {
        let sound = json!({"auths": {"ghcr.io": {"auth": "dXNlcjpwYXNz"},
            "https://r/v1/": {"username": "u", "password": secret}}});
        let mut changed = sound.clone();
        replace(&mut changed, place, by);
        let sound = sound.to_string().into_bytes();
        for text in [changed.to_string().into_bytes(), damage.of(&sound, sound.len())] {
            if let Err(error) = bounded(text.len(), || DockerConfig::parse(&text)) {
                prop_assert!(!error.to_string().contains(&secret), "{}", error);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn of_an_archive_with_changes_only_listed_files_come_out(damage in damage(), mended: bool) {
        let sound = archive();
        let damaged = damage.of(&sound, sound.len());
        unpack(&if mended { with_checksums(damaged) } else { damaged }, false);
    }

    #[test]
    fn of_a_compressed_archive_with_changes_too(inner in damage(), outer in damage()) {
        let sound = archive();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&with_checksums(inner.of(&sound, sound.len()))).unwrap();
        let sound = gzip.finish().unwrap();
        unpack(&outer.of(&sound, sound.len()), true);
    }
}

#[test]
fn the_archive_that_is_damaged_is_a_sound_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("archive");
    fs::write(&path, with_checksums(archive())).unwrap();
    let tar = Tar {
        path: &path,
        gzip: false,
        limit: LIMIT,
    };
    assert_eq!(
        tar.manifest().unwrap(),
        Some((b"{}".to_vec(), String::new()))
    );
    let files = FILES.map(|(name, content)| listed(name, content));
    assert_eq!(
        tar.extract("", &files, directory.path()).unwrap().len(),
        FILES.len()
    );
}
