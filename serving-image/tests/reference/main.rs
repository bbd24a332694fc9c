//! Every engine against what the model's own framework predicts, within the tolerance that the
//! recorded fixture says; and alone against in a batch, bit for bit where each row is summed in one
//! order.
#![allow(clippy::unwrap_used)]

mod encoders;
mod gguf;
mod graphs;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use serin_serve::artefact::Artefact;
use serin_serve::model::{Model, use_library};
use serin_serve::prediction::Prediction;
use serin_serve::preprocess::Location;

const LIBRARY: &str = "onnxruntime/1.31.1/libonnxruntime.so.1.31.1";

/// How much a graph's answer may depend on the batch, relative to numbers above 1. In Python
/// magika's does by 8e-5, trees' not at all.
const GRAPH_TOLERANCE: f32 = 1e-4;

/// How much a text's probabilities may depend on the texts beside it: 2e-7 was seen.
const TEXT_TOLERANCE: f32 = 2e-6;

/// What `scripts/record_*.py` write.
#[derive(Deserialize)]
struct Fixture {
    source: String,
    tolerance: f32,
    instances: Vec<Value>,
    outputs: Vec<Vec<f32>>,
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// A path below the project's cache, or none where it is missing; then SERIN_REQUIRE_MODELS
/// decides.
fn cached(path: &str, script: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache");
    let path = cache.unwrap_or_else(home).join("serin").join(path);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("SERIN_REQUIRE_MODELS").is_none(),
        "{} is missing; scripts/{script} fetches it",
        path.display()
    );
    println!("skipped: {} is missing", path.display());
    None
}

fn predict(model: &Model, instances: &[Value]) -> Vec<Prediction> {
    let batch = model
        .prepare(instances, Location::List("/instances"))
        .unwrap();
    model.forward(&batch).unwrap()
}

/// Loads an artefact, and compares all that its fixture holds.
fn compare(directory: &Path, fixture: &str) {
    let fixture = tests().join("fixtures").join(fixture);
    let fixture: Fixture = serde_json::from_slice(&std::fs::read(fixture).unwrap()).unwrap();
    let model = Model::load(Artefact::open(directory, None).unwrap()).unwrap();
    let name = &model.manifest.name;
    assert!(
        !model.manifest.golden.is_empty(),
        "{name} has no golden examples"
    );
    let together = predict(&model, &fixture.instances);
    assert_eq!(together.len(), fixture.outputs.len());
    let mut largest = 0_f32;
    for (index, (found, expected)) in together.iter().zip(&fixture.outputs).enumerate() {
        assert_eq!(found.output.len(), expected.len(), "{name} {index}");
        for (found, expected) in found.output.iter().zip(expected) {
            let difference = (found - expected).abs();
            assert!(
                difference <= fixture.tolerance,
                "{name}, instance {index}: {found}, but {} has {expected}",
                fixture.source
            );
            largest = largest.max(difference);
        }
    }
    // Our own loops sum in one order, but for texts, of which several share a register: where one
    // lies, it decides about the last bits. ONNX Runtime chooses its kernels by the size of the
    // batch.
    let allowed = match model.manifest.network.architecture() {
        "onnx" => GRAPH_TOLERANCE,
        "bert" => TEXT_TOLERANCE,
        _ => 0.0,
    };
    let mut by_batch = 0_f32;
    for (instance, expected) in fixture.instances.iter().zip(&together) {
        let alone = predict(&model, std::slice::from_ref(instance));
        for (alone, together) in alone[0].output.iter().zip(&expected.output) {
            by_batch = by_batch.max((alone - together).abs() / together.abs().max(1.0));
            assert!(
                alone.to_bits() == together.to_bits() || by_batch < allowed,
                "{name}: {alone} alone, {together} in a batch"
            );
        }
    }
    println!(
        "{name}: {} instances, largest difference to {} {largest:e}, of alone to in a batch \
         {by_batch:e}",
        together.len(),
        fixture.source
    );
}

fn small(name: &str) {
    compare(&tests().join("models").join(name), &format!("{name}.json"));
}

/// Whether the library is there; it is then used.
fn has_library() -> bool {
    let library = cached(LIBRARY, "fetch_onnxruntime.py");
    library.inspect(|path| use_library(path)).is_some()
}

#[test]
fn linear_models_and_perceptrons_are_scikit_learns() {
    for name in [
        "diabetes-ridge",
        "diabetes-mlp",
        "cancer-mlp",
        "passengers-logistic",
    ] {
        small(name);
    }
}

/// A classifier of texts, and a reranker of pairs.
#[test]
fn what_was_trained_here_on_minilm_is_transformers() {
    for name in ["minilm-sentiment", "minilm-reranker"] {
        if let Some(directory) = cached(&format!("models/{name}/1.0.0"), "fetch_trained.py") {
            compare(&directory, &format!("{name}.json"));
        }
    }
}

#[test]
fn graphs_of_scikit_learn_xgboost_and_lightgbm_are_theirs() {
    if !has_library() {
        return;
    }
    for name in [
        "iris-forest",
        "iris-logistic",
        "iris-svm",
        "cancer-mlp-graph",
        "cancer-boosting",
        "cancer-xgboost",
        "cancer-lightgbm",
        "diabetes-boosting",
        "passengers-forest",
    ] {
        small(name);
    }
}

/// A graph that takes bytes, and answers the sums of their levels: one level that is off would be
/// seen.
#[test]
fn levels_of_pictures_are_those_that_python_gives_the_graph() {
    if has_library() {
        small("picture-levels");
    }
}

/// Models of others: a tensor in, an image in, and texts through a graph that PyTorch exported.
#[test]
fn real_graphs_answer_as_in_python() {
    if !has_library() {
        return;
    }
    for (directory, fixture) in [
        ("magika/3.3.0", "magika.json"),
        ("text-direction/2.0.0", "text-direction.json"),
        ("text-direction/3.0.0", "text-direction-png.json"),
        ("text-direction/3.0.0", "text-direction-jpeg.json"),
        ("all-minilm-l6-v2/2.0.0", "all-minilm-l6-v2-int8.json"),
    ] {
        if let Some(directory) = cached(&format!("models/{directory}"), "fetch_models.py") {
            compare(&directory, fixture);
        }
    }
}
