//! Tests the OpenAPI document: schemathesis makes valid and invalid requests from it, and every
//! answer must be one that it describes, and no 5xx.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::embeddings::minilm;
use crate::graphs::{library, raw_graph};
use crate::support::{Server, cached, installed, iris, serin_serve, small};

/// Plays `examples` requests an operation, and more at the edges of the schemas, with `extra`
/// arguments.
fn prove(model: &Path, examples: u32, extra: &[&str]) {
    let Some(program) = installed("install_schemathesis.py", "schemathesis") else {
        return;
    };
    let flags = library().map(|library| ["--onnxruntime".to_owned(), library]);
    let flags: Vec<&str> = flags.iter().flatten().map(String::as_str).collect();
    let server = Server::start(model, &flags);
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis.toml");
    let output = Command::new(program)
        .current_dir(folder.path())
        .arg("--config-file")
        .arg(config)
        .arg("run")
        .arg(format!("http://{}/openapi.json", server.address))
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", &examples.to_string(), "--seed", "1"])
        .args(["--continue-on-failure", "--report", "json"])
        .args(extra)
        .arg("--report-json-path")
        .arg(&report)
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{log}");
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let cases = &report["test_cases"];
    let made = cases["generated"].as_u64().unwrap();
    assert!(made > 300, "only {made} requests: {log}");
    assert_eq!(cases["with_failures"], 0, "{log}");
    assert_eq!(cases["errored"], 0, "{log}");
    assert_eq!(server.get("/readyz").status, 200);
    println!(
        "{}: {made} requests to {} operations, each answered as the document says",
        model.display(),
        report["operations"]["tested"]
    );
}

#[test]
fn a_tabular_model_answers_as_its_document_says() {
    prove(&iris("1.0.0"), 100, &[]);
}

/// Fields without bounds: a value can be valid and yet too large for the model, which is a 422.
const UNBOUNDED: [&str; 2] = ["--exclude-checks", "positive_data_acceptance"];

/// Categories, and values that may be missing.
#[test]
fn a_model_of_categories_answers_as_its_document_says() {
    prove(&small("passengers-logistic"), 30, &UNBOUNDED);
}

/// A number as the answer.
#[test]
fn a_regression_answers_as_its_document_says() {
    prove(&small("diabetes-ridge"), 30, &UNBOUNDED);
}

#[test]
fn an_embedding_model_answers_as_its_document_says() {
    if let Some(model) = minilm() {
        prove(&model, 20, &[]);
    }
}

/// Pairs of texts, of which a schema cannot say how many tokens they have.
#[test]
fn a_reranker_answers_as_its_document_says() {
    prove(&small("distilbert-reranking"), 20, &UNBOUNDED);
}

/// Texts that may be missing, categories and numbers, each an input of its own.
#[test]
fn a_graph_answers_as_its_document_says() {
    if library().is_some() {
        prove(&small("passengers-forest"), 30, &UNBOUNDED);
    }
}

#[test]
fn the_tensors_of_a_graph_are_as_its_document_says() {
    if library().is_some() {
        let (directory, _) = raw_graph();
        prove(directory.path(), 30, &UNBOUNDED);
    }
}

#[test]
fn a_model_of_pictures_answers_as_its_document_says() {
    if library().is_some()
        && let Some(directory) = cached("models/text-direction/3.0.0", "fetch_models.py")
    {
        prove(&directory, 20, &UNBOUNDED);
    }
}

/// An artefact of the small language model of `scripts/make_gguf.py` that takes any text. Texts are
/// short, so that many are written.
fn language_model() -> Option<TempDir> {
    let weights = cached("models/gguf/chat/weights.gguf", "make_gguf.py")?;
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(weights, directory.path().join("weights.gguf")).unwrap();
    let manifest = json!({
        "schemaVersion": 1, "name": "chat", "version": "1", "kind": "generation",
        "task": "text-generation",
        "inputs": [], "preprocessing": [], "outputs": {},
        "network": {"architecture": "gguf", "weights": "weights.gguf"},
        "limits": {"maxTokens": 8, "maxPromptTokens": 8000},
    });
    let file = directory.path().join("serin-model.json");
    std::fs::write(file, manifest.to_string()).unwrap();
    let path = directory.path().to_str().unwrap();
    let listed = serin_serve(&["manifest", path]).output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    Some(directory)
}

/// Completions and conversations, whole and as streams.
#[test]
fn a_language_model_answers_as_its_document_says() {
    if let Some(model) = language_model() {
        prove(model.path(), 30, &[]);
    }
}
