//! From the layers of a container image, as KServe's modelcars are published. Our own server plays
//! the registry.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use serin_serve::artefact::Digest;
use tar::{Builder, EntryType, Header};

use crate::server::{Reply, Server};
use crate::support::{Artefact, Place};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layer of files by path.
fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

/// The same with a link at its end.
fn with_link(files: &[(&str, &[u8])], path: &str, target: &str) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, *bytes).unwrap();
    }
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, path, target).unwrap();
    tar.into_inner().unwrap()
}

fn manifest(layers: &[Vec<u8>]) -> Vec<u8> {
    let layers: Vec<Value> = layers
        .iter()
        .map(|bytes| {
            let digest = Digest::of(bytes).to_string();
            json!({"mediaType": LAYER, "digest": digest, "size": bytes.len()})
        })
        .collect();
    let config = json!({"mediaType": CONFIG, "digest": Digest::of(b"{}").to_string(), "size": 2});
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    manifest.to_string().into_bytes()
}

/// A registry that has these manifests and layers by their digests, and the first manifest as
/// `:1`.
fn registry(manifests: Vec<Vec<u8>>, layers: Vec<Vec<u8>>) -> Server {
    let first = manifests[0].clone();
    let blobs: BTreeMap<String, Vec<u8>> = manifests
        .into_iter()
        .chain(layers)
        .map(|bytes| (Digest::of(&bytes).to_string(), bytes))
        .collect();
    Server::start(move |ask| {
        let name = ask.path.rsplit('/').next().unwrap_or_default();
        match blobs.get(name) {
            Some(bytes) => Reply::file(ask, bytes),
            None if name == "1" => Reply::file(ask, &first),
            None => Reply::status(404),
        }
    })
}

/// An image with these layers: its registry, and its address by digest.
fn image(layers: &[Vec<u8>]) -> (Server, String) {
    let manifest = manifest(layers);
    let digest = Digest::of(&manifest);
    let server = registry(vec![manifest], layers.to_vec());
    let uri = format!("oci://{}/car@{digest}", server.address);
    (server, uri)
}

#[test]
fn a_model_comes_out_of_an_images_layers_and_nothing_else_does() {
    let (_server, uri) = image(&[
        // The operating system below it has links, which are none of the model's.
        with_link(&[("bin/busybox", b"elf")], "bin/sh", "/bin/busybox"),
        layer(&[("models/config.json", b"{}"), ("models/a/w.bin", b"old")]),
        layer(&[("models/a/w.bin", b"new"), ("etc/passwd", b"x")]),
    ]);
    let place = Place::new();
    place.fetch(&uri, "").succeeds();
    let at = |path: &str| fs::read(place.directory().join(path));
    assert_eq!(at("config.json").unwrap(), b"{}");
    assert_eq!(at("a/w.bin").unwrap(), b"new", "the later layer's");
    assert!(at("passwd").is_err() && at("etc/passwd").is_err());
    assert_eq!(place.names(), ["artefact"]);
    // The second time it is there already.
    let again = place.fetch(&uri, "");
    again.succeeds();
    assert!(again.log.contains("in place already"), "{}", again.log);
    fs::write(place.directory().join("a/w.bin"), "bad").unwrap();
    place.fetch(&uri, "").succeeds();
    assert_eq!(at("a/w.bin").unwrap(), b"new", "damage is found");
}

#[test]
fn an_image_with_our_manifest_is_held_to_its_digest_and_stripped_of_the_rest() {
    let artefact = Artefact::new(10_000);
    let extra = layer(&[("models/unlisted", b"x")]);
    let (_server, uri) = image(&[artefact.tar("models/"), extra]);
    for digest in [artefact.digest.as_str(), ""] {
        let place = Place::new();
        place.fetch(&uri, digest).succeeds();
        assert!(artefact.is_at(&place.directory()), "{digest:?}");
    }
    let zeros = format!("sha256:{}", "0".repeat(64));
    Place::new().fetch(&uri, &zeros).fails(5, "digest mismatch");
}

#[test]
fn what_an_image_must_not_hold_is_refused() {
    let plain = layer(&[("models/w", b"1")]);
    let escaping = {
        let mut bytes = layer(&[("models/aa/w", b"1")]);
        bytes[..11].copy_from_slice(b"models/../w");
        let mut header = Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(&bytes[..512]);
        header.set_cksum();
        bytes[..512].copy_from_slice(header.as_bytes());
        bytes
    };
    for (layers, words) in [
        (
            vec![plain.clone(), layer(&[("models/.wh.w", b"")])],
            "deletes files",
        ),
        (
            vec![plain.clone(), layer(&[("models/.wh..wh..opq", b"")])],
            "deletes files",
        ),
        (
            vec![plain.clone(), layer(&[(".wh.models", b"")])],
            "deletes files",
        ),
        (
            vec![with_link(&[], "models/w", "/etc/passwd")],
            "symbolic link",
        ),
        (vec![with_link(&[], "models", "/etc")], "symbolic link"),
        (vec![escaping], "leads out of it"),
        (vec![layer(&[("model/w", b"1")])], "no files below /models"),
    ] {
        let (_server, uri) = image(&layers);
        let place = Place::new();
        place.fetch(&uri, "").fails(5, words);
        assert!(!place.directory().exists(), "{words}");
    }
    // More than the platform allows, though each layer is small.
    let part = |name: &str| layer(&[(name, &[0; 1500])]);
    let (_server, uri) = image(&[part("models/a"), part("models/b"), part("models/c")]);
    let fetch = |size: &str| Place::new().with(&["--max-size", size]).fetch(&uri, "");
    fetch("8Ki").succeeds();
    fetch("4Ki").fails(3, "unpacks to more than the platform allows");
}

#[test]
fn without_a_digest_the_address_must_pin_the_content() {
    let (server, uri) = image(&[layer(&[("models/w", b"1")])]);
    let by_tag = format!("oci://{}/car:1", server.address);
    Place::new()
        .fetch(&by_tag, "")
        .fails(2, "needed where the address is not oci://");
    Place::new()
        .fetch("hf://a/b:main", "")
        .fails(2, "needed where the address is not oci://");
    // What the registry answers must have the address's digest.
    let other = manifest(&[layer(&[("models/w", b"2")])]);
    let wrong = Server::start(move |ask| Reply::file(ask, &other));
    let uri = uri.replace(&server.address.to_string(), &wrong.address.to_string());
    Place::new().fetch(&uri, "").fails(5, "was asked for");
}

#[test]
fn of_an_index_the_manifest_for_this_machine_is_taken() {
    let layers = [layer(&[("models/w", b"1")])];
    let ours = manifest(&layers);
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let entry = |bytes: &[u8], architecture: &str| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": bytes.len(),
            "digest": Digest::of(bytes).to_string(),
            "platform": {"os": "linux", "architecture": architecture}})
    };
    let index = |architecture: &str| {
        let entries = [entry(&ours, architecture), entry(b"attestation", "unknown")];
        json!({"schemaVersion": 2, "manifests": entries})
            .to_string()
            .into_bytes()
    };
    let ours_only = index(architecture);
    let server = registry(vec![ours_only.clone(), ours.clone()], layers.to_vec());
    let place = Place::new();
    let uri = format!("oci://{}/car@{}", server.address, Digest::of(&ours_only));
    place.fetch(&uri, "").succeeds();
    assert_eq!(fs::read(place.directory().join("w")).unwrap(), b"1");

    let none = index("s390x");
    let server = registry(vec![none.clone(), ours.clone()], layers.to_vec());
    let uri = format!("oci://{}/car@{}", server.address, Digest::of(&none));
    Place::new()
        .fetch(&uri, "")
        .fails(5, "name one of them by its digest");
}
