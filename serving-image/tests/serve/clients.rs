//! The clients that people have, against models of each kind: `tests/clients`, in Python.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::embeddings::minilm;
use crate::generation::smollm2;
use crate::graphs::library;
use crate::support::{Server, iris};

/// The Python that `scripts/install_clients.py` prepares; none where that cannot be.
fn python() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install_clients.py");
    let output = Command::new("python3").arg(script).output().ok()?;
    if output.status.success() {
        let path = String::from_utf8(output.stdout).unwrap();
        return Some(path.trim().into());
    }
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        std::env::var_os("SERIN_REQUIRE_MODELS").is_none(),
        "the clients cannot be installed: {reason}"
    );
    println!("SKIPPED: the clients cannot be installed: {reason}");
    None
}

/// Runs the cases of a file of `tests/clients` against a model.
fn play(file: &str, model: &Path, flags: &[&str]) {
    let Some(python) = python() else { return };
    let server = Server::start(model, flags);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let output = Command::new(python)
        .args(["-B", "-m", "pytest", "-v", "-p", "no:cacheprovider", file])
        .current_dir(folder)
        .env("SERIN_ADDRESS", server.address.to_string())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stdout);
    println!("{log}");
    assert!(output.status.success(), "{log}");
    assert_eq!(server.get("/readyz").status, 200);
}

/// A model of `tests/models`.
fn small(name: &str) -> PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    models.join(name)
}

#[test]
fn clients_of_tables() {
    play("test_table.py", &iris("1.0.0"), &[]);
}

#[test]
fn clients_of_graphs() {
    if let Some(library) = library() {
        let flags = ["--onnxruntime", &library];
        play("test_graph.py", &small("passengers-forest"), &flags);
    }
}

#[test]
fn clients_of_language_models() {
    if let Some(model) = smollm2() {
        play("test_chat.py", &model, &[]);
    }
}

#[test]
fn clients_of_embedders() {
    if let Some(model) = minilm() {
        play("test_embedder.py", &model, &[]);
    }
}

#[test]
fn clients_of_rerankers() {
    play("test_reranker.py", &small("distilbert-reranking"), &[]);
}

#[test]
fn clients_of_text_classifiers() {
    play(
        "test_classifier.py",
        &small("distilbert-classification"),
        &[],
    );
}
