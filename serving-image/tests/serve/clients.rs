//! The clients that people have, against models of each kind: `tests/clients`, in Python.

use std::path::Path;
use std::process::Command;

use crate::embeddings::minilm;
use crate::generation::smollm2;
use crate::graphs::library;
use crate::support::{Server, installed, iris, small};

/// Runs the cases of a file of `tests/clients` against a model.
fn play(file: &str, model: &Path, flags: &[&str]) {
    let Some(python) = installed("install_clients.py", "the clients") else {
        return;
    };
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
