//! Models in ONNX and tabular models of every task, over HTTP.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Server, serin_serve};

pub fn model(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    folder.join(name)
}

/// ONNX Runtime's library, or none where it is missing; then SERIN_REQUIRE_MODELS decides.
pub fn library() -> Option<String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache");
    let library = cache
        .unwrap_or_else(home)
        .join("serin/onnxruntime/1.31.1/libonnxruntime.so.1.31.1");
    if library.exists() {
        return Some(library.to_str().unwrap().to_owned());
    }
    assert!(
        std::env::var_os("SERIN_REQUIRE_MODELS").is_none(),
        "{} is missing; scripts/fetch_onnxruntime.py fetches it",
        library.display()
    );
    println!("skipped: {} is missing", library.display());
    None
}

/// A graph whose own tensors are the answer, a text and three numbers, with two instances for it.
pub fn raw_graph() -> (TempDir, [Value; 2]) {
    let directory = tempfile::tempdir().unwrap();
    let from = model("iris-svm");
    fs::copy(from.join("model.onnx"), directory.path().join("model.onnx")).unwrap();
    let manifest = fs::read(from.join("serin-model.json")).unwrap();
    let of_iris: Value = serde_json::from_slice(&manifest).unwrap();
    let manifest = json!({
        "schemaVersion": 1, "name": "tensors", "version": "1", "kind": "tensor", "task": "raw",
        "inputs": [{"name": "X", "type": "tensor", "dtype": "float32", "shape": [4]}],
        "preprocessing": [], "outputs": {}, "files": of_iris["files"],
        "network": {"architecture": "onnx", "graph": "model.onnx"},
    });
    let file = directory.path().join("serin-model.json");
    fs::write(file, manifest.to_string()).unwrap();
    let instances = [[5.1, 3.5, 1.4, 0.2], [6.3, 2.9, 5.6, 1.8]];
    (directory, instances.map(|row| json!({"X": row})))
}

fn predict(server: &Server, instance: &Value) -> Value {
    let answer = server.post("/predict", &json!({"instances": [instance]}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["predictions"][0].clone()
}

#[test]
fn a_graph_of_texts_and_numbers_is_served() {
    let Some(library) = library() else { return };
    let server = Server::start(&model("passengers-forest"), &["--onnxruntime", &library]);
    let instance = json!({"age": null, "fare": 12.5, "meal": "large", "port": "Cherbourg"});
    let answer = predict(&server, &instance);
    let sum: f64 = ["no", "yes"]
        .iter()
        .map(|label| answer["probabilities"][label].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-6, "{answer}");
    let wrong = server.post(
        "/predict",
        &json!({"instances": [{"age": 3, "fare": 1, "meal": "huge", "port": ""}]}),
    );
    assert_eq!(wrong.status, 422);
    assert_eq!(
        wrong.json()["errors"],
        json!([
            {"field": "/instances/0/meal", "expected": r#"one of "none", "small", "large""#},
            {"field": "/instances/0/port",
            "expected": "a text that is not empty, of at most 40 characters, or null"},
        ])
    );
}

#[test]
fn a_graph_without_the_library_is_refused_and_told_where_it_was_looked_for() {
    let output = serin_serve(&["check", "--onnxruntime", "/nowhere/libonnxruntime.so"])
        .arg(model("iris-forest"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("this model needs ONNX Runtime")
            && said.contains("looked for /nowhere/libonnxruntime.so")
            && said.contains("--onnxruntime"),
        "{said}"
    );
}

#[test]
fn a_regression_answers_its_value() {
    let server = Server::start(&model("diabetes-ridge"), &[]);
    let fixture = crate::support::fixture("diabetes-ridge.json");
    let value = predict(&server, &fixture["instances"][7])["value"]
        .as_f64()
        .unwrap();
    let expected = fixture["outputs"][7][0].as_f64().unwrap();
    assert!((value - expected).abs() < 1e-3, "{value} {expected}");
}
