//! A wrong artefact is never served.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use serin_serve::artefact::Digest;
use tempfile::TempDir;

use crate::support::{Server, iris, one_flower, serin_serve};

pub fn copy_of_iris() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for file in fs::read_dir(iris("1.0.0")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), directory.path().join(file.file_name())).unwrap();
    }
    directory
}

pub fn edit(directory: &Path, change: impl FnOnce(&mut Value)) {
    let path = directory.join("serin-model.json");
    let mut manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(path, manifest.to_string()).unwrap();
}

fn digest(directory: &Path) -> String {
    Digest::of(&fs::read(directory.join("serin-model.json")).unwrap()).to_string()
}

/// What `serve` says on standard error when it refuses; panics if it does not refuse.
fn refusal(directory: &Path, digest: &str) -> String {
    let output = serin_serve(&[
        "serve",
        "--address",
        "127.0.0.1:0",
        "--digest",
        digest,
        "--model-dir",
    ])
    .arg(directory)
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("ready:"), "it was ready: {said}");
    said.lines().last().unwrap().to_owned()
}

#[test]
fn the_right_digest_is_served() {
    let directory = iris("1.0.0");
    let server = Server::start(&directory, &["--digest", &digest(&directory)]);
    assert_eq!(server.get("/version").json()["digest"], digest(&directory));
}

#[test]
fn an_artefact_that_is_not_what_was_asked_for_is_refused_by_name_and_number() {
    let zeros = format!("sha256:{}", "0".repeat(64));
    let untouched = copy_of_iris();
    let said = refusal(untouched.path(), &zeros);
    assert!(
        said.contains("serin-model.json has sha256:")
            && said.contains(&format!("{zeros} was required")),
        "{said}"
    );

    // One bit of the weights.
    let flipped = copy_of_iris();
    let weights = flipped.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let said = refusal(flipped.path(), &digest(flipped.path()));
    assert!(
        said.contains("sha256 mismatch") && said.contains("model.safetensors has"),
        "{said}"
    );

    // One byte more.
    bytes.push(0);
    fs::write(&weights, &bytes).unwrap();
    let said = refusal(flipped.path(), &digest(flipped.path()));
    let sizes = format!(
        "has {} bytes, but the manifest says {}",
        bytes.len(),
        bytes.len() - 1
    );
    assert!(
        said.contains("size mismatch") && said.contains(&sizes),
        "{said}"
    );

    // A manifest that was changed after its digest was taken.
    let changed = copy_of_iris();
    let before = digest(changed.path());
    edit(changed.path(), |manifest| {
        manifest["preprocessing"][1]["mean"][0] = json!(0.0);
    });
    assert!(refusal(changed.path(), &before).contains("digest mismatch"));
    // Served by its new digest, it does not reproduce its golden examples.
    let said = refusal(changed.path(), &digest(changed.path()));
    assert!(said.contains("golden example 0: output"), "{said}");

    let missing = copy_of_iris();
    fs::remove_file(missing.path().join("model.safetensors")).unwrap();
    let said = refusal(missing.path(), &digest(missing.path()));
    assert!(said.contains("model.safetensors: No such file"), "{said}");

    let unlisted = copy_of_iris();
    edit(unlisted.path(), |manifest| manifest["files"] = json!([]));
    let said = refusal(unlisted.path(), &digest(unlisted.path()));
    assert!(
        said.contains("uses model.safetensors, but does not list it"),
        "{said}"
    );

    let narrow = copy_of_iris();
    edit(narrow.path(), |manifest| {
        manifest["outputs"]["labels"] = json!(["setosa", "versicolor"]);
    });
    let said = refusal(narrow.path(), &digest(narrow.path()));
    assert!(
        said.contains("the last layer has 3 outputs for 2 labels"),
        "{said}"
    );
}

#[test]
fn the_manifest_command_lists_what_lies_there_and_prints_the_digest() {
    let directory = copy_of_iris();
    edit(directory.path(), |manifest| {
        manifest.as_object_mut().unwrap().remove("files");
    });
    fs::create_dir(directory.path().join("notes")).unwrap();
    fs::write(directory.path().join("notes/README"), "hello").unwrap();
    let output = serin_serve(&["manifest"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.trim(), digest(directory.path()));
    let verified = serin_serve(&["check", "--quick", "--digest", printed.trim()])
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(verified.status.success());
    let said = String::from_utf8(verified.stdout).unwrap();
    assert!(
        said.contains("size     2 files") && said.contains("golden   5 of 5 examples reproduced"),
        "{said}"
    );
}

/// Iris with a pipe among its files, which is read only when somebody writes: loading lasts as long
/// as the test wants.
pub fn iris_that_loads_for_ever() -> (TempDir, PathBuf) {
    let directory = copy_of_iris();
    let pipe = directory.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    edit(directory.path(), |manifest| {
        let files = manifest["files"].as_array_mut().unwrap();
        files.push(json!({"path": "pipe", "size": 0, "sha256": Digest::of(b"").hex()}));
    });
    (directory, pipe)
}

#[test]
fn while_it_loads_it_lives_but_is_not_ready() {
    let (directory, pipe) = iris_that_loads_for_ever();
    let server = Server::launch(directory.path(), &[]);
    assert_eq!(server.get("/livez").status, 200);
    for answer in [
        server.get("/readyz"),
        server.post("/predict", &one_flower()),
    ] {
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (503, Some("1"))
        );
        assert_eq!(answer.json()["type"], "urn:serin:problem:loading");
    }
    assert!(server.get("/metrics").text().contains("model_ready 0"));
    let healthcheck = || {
        let address = server.address.to_string();
        serin_serve(&["healthcheck", "--address", &address])
            .output()
            .unwrap()
            .status
            .code()
    };
    assert_eq!(healthcheck(), Some(1));

    fs::write(&pipe, "").unwrap();
    while server.get("/readyz").status != 200 {
        std::thread::yield_now();
    }
    assert_eq!(server.post("/predict", &one_flower()).status, 200);
    assert_eq!(healthcheck(), Some(0));
}
