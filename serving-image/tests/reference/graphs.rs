//! Small graphs of `scripts/record_graphs.py`: what cannot be computed, or is not what the manifest
//! says, is refused when the model is loaded, in words that name it.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};
use serin_serve::artefact::{Artefact, write_manifest};
use serin_serve::model::Model;

use super::{has_library, predict, tests};

/// How the error begins of what the library itself refuses.
const REFUSED: &str = "ONNX Runtime does not take the graph";

/// The manifest of a graph from two numbers to two numbers.
fn manifest() -> Value {
    json!({
        "schemaVersion": 1, "name": "graph", "version": "1.0.0", "kind": "tabular",
        "task": "regression",
        "inputs": [{"name": "a", "type": "number", "nullable": false}, {"name": "b",
        "type": "number", "nullable": false}],
        "preprocessing": [{"step": "order", "features": ["a", "b"]}],
        "network": {"architecture": "onnx", "graph": "model.onnx", "outputs": [{"name": "Y"}]},
        "outputs": {"names": ["left", "right"]},
    })
}

/// Loads a graph under a manifest in which some values are others, with further files beside it.
fn load(graph: &[u8], changes: &Value, files: &[(&str, &[u8])]) -> Result<Model, String> {
    let directory = tempfile::tempdir().unwrap();
    let mut manifest = manifest();
    for (pointer, value) in changes.as_object().unwrap() {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        manifest.pointer_mut(parent).unwrap()[name] = value.clone();
    }
    let write = |path: &str, bytes: &[u8]| {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let path = manifest["network"]["graph"].as_str().unwrap();
    write(path, graph);
    for (name, bytes) in files {
        write(name, bytes);
    }
    write("serin-model.json", manifest.to_string().as_bytes());
    write_manifest(directory.path()).unwrap();
    let artefact = Artefact::open(directory.path(), None).unwrap();
    Model::load(artefact).map_err(|error| error.to_string())
}

fn graph(name: &str) -> Vec<u8> {
    std::fs::read(tests().join("graphs").join(name)).unwrap()
}

fn refused(name: &str, changes: &Value, words: &[&str]) {
    let error = load(&graph(&format!("{name}.onnx")), changes, &[]).unwrap_err();
    for word in words {
        assert!(error.contains(word), "{name}: {word:?} is not in {error:?}");
    }
}

#[test]
fn what_the_library_does_not_take_is_told_by_operator_and_node() {
    if !has_library() {
        return;
    }
    for (name, words) in [
        (
            "unknown-operator",
            &["Frobnicate", "the_node", "No Op registered"][..],
        ),
        ("unknown-domain", &["com.example:Frobnicate", "the_node"]),
        (
            "newer-operator",
            &[
                "No Op registered for Gelu with domain_version of 17",
                "the_node",
            ],
        ),
        ("newer-opset", &["guarantees", "opset", "99"]),
        ("newer-domain", &["guarantees", "ai.onnx.ml", "99"]),
        ("newer-file", &["Unsupported model IR version: 99"]),
        (
            "wrong-type",
            &["Type 'tensor(string)'", "(Erf)", "the_node"],
        ),
        (
            "no-kernel",
            &["Could not find an implementation for Sin(22)", "the_node"],
        ),
        (
            "no-attribute",
            &["Required attribute 'to' is missing", "Cast", "the_node"],
        ),
        (
            "no-weights",
            &["input 'W' is not a graph input, initializer"],
        ),
        (
            "wrong-shape",
            &["MatMul", "the_node", "Incompatible dimensions"],
        ),
        ("circle", &["not acyclic"]),
        ("no-output", &["output (Y) does not exist"]),
        ("cut", &["protobuf parsing failed"]),
    ] {
        refused(name, &json!({}), &[&[REFUSED], words].concat());
    }
    for (bytes, word) in [
        (&b""[..], "No graph was found"),
        (b"no graph at all", "protobuf parsing failed"),
    ] {
        let error = load(bytes, &json!({}), &[]).unwrap_err();
        assert!(error.contains(REFUSED) && error.contains(word), "{error}");
    }
}

#[test]
fn what_the_manifest_says_of_another_graph_is_told_by_name_type_and_shape() {
    if !has_library() {
        return;
    }
    let a = json!([{"name": "a", "type": "number", "nullable": false}]);
    let no_order = |inputs: Value| json!({"/preprocessing": [], "/network/inputs": inputs});
    let raw = |inputs: Value| {
        json!({
            "/kind": "tensor", "/task": "raw", "/preprocessing": [], "/inputs": inputs,
            "/outputs": {},
            "/network": {"architecture": "onnx", "graph": "model.onnx"},
        })
    };
    let tensor = |name: &str, dtype: &str| {
        json!({"name": name, "type": "tensor",
        "nullable": false, "dtype": dtype, "shape": [2]})
    };
    let labels = |labels: Value, holds: &str| {
        json!({
            "/task": "classification", "/outputs": {"labels": labels},
            "/network/outputs": [{"name": "Y", "holds": holds}],
        })
    };
    let of_label = |labels: Value| {
        json!({
            "/task": "classification", "/outputs": {"labels": labels},
            "/network/outputs": [{"name": "label", "holds": "label"}],
        })
    };
    for (name, changes, words) in [
        (
            "sound",
            json!({"/inputs": a, "/preprocessing": [{"step": "order", "features": ["a"]}]}),
            &["input X", "rows of 1"][..],
        ),
        (
            "sound",
            no_order(json!([])),
            &["input X", "no field has this name"],
        ),
        (
            "sound",
            no_order(json!([{"name": "Z", "fields": ["a", "b"]}])),
            &["no input Z, but X"],
        ),
        (
            "sound",
            no_order(json!([{"name": "X", "fields": ["a"]}])),
            &["input X", "rows of 1"],
        ),
        (
            "two-inputs",
            json!({}),
            &["input A", "one input, but the graph has several"],
        ),
        (
            "integers",
            json!({}),
            &["input X", "not what the manifest gives"],
        ),
        (
            "four-rows",
            json!({}),
            &["input X", "the first axis", "must be the instances"],
        ),
        (
            "sound",
            raw(json!([tensor("Z", "float32")])),
            &["input X", "no input of the manifest has this name"],
        ),
        (
            "sound",
            raw(json!([tensor("X", "float64")])),
            &["input X", "not what the manifest gives"],
        ),
        (
            "sound",
            raw(json!([tensor("X", "float32"), tensor("Z", "float32")])),
            &["no input of the graph takes Z", "X ("],
        ),
        (
            "total",
            raw(json!([tensor("X", "float32")])),
            &["output Y", "no axis of instances"],
        ),
        (
            "sound",
            json!({"/network/outputs": [{"name": "Z"}]}),
            &["no output Z, but Y"],
        ),
        ("half", json!({}), &["output Y", "cannot be answered"]),
        ("sequence", json!({}), &["output Y", "cannot be answered"]),
        (
            "sound",
            json!({"/outputs": {"names": ["a", "b", "c"]}}),
            &[
                "output Y",
                "2 numbers for each instance, but the manifest wants 3",
            ],
        ),
        (
            "sound",
            labels(json!(["no", "yes", "both"]), "probabilities"),
            &["output Y", "2 numbers", "wants 3"],
        ),
        (
            "sound",
            labels(json!(["no", "yes"]), "label"),
            &["output Y", "a label is a text or a 64-bit integer"],
        ),
        (
            "names",
            labels(json!(["no", "maybe"]), "probabilities"),
            &[
                "output Y",
                "the graph's labels are no, yes, but the manifest's no, maybe",
            ],
        ),
        (
            "labels",
            of_label(json!(["no", "yes", "maybe"])),
            &["output label", "no, yes, but the manifest's no, yes, maybe"],
        ),
        (
            "labels",
            labels(json!(["yes", "no"]), "probabilities"),
            &[
                "output Y",
                "in the order of its numbers are no, yes, but the manifest's yes, no",
            ],
        ),
        (
            "numbers",
            of_label(json!(["3", "7"])),
            &["output label", "the numbers 3, 7, but the manifest's"],
        ),
    ] {
        refused(name, &changes, words);
    }
}

/// The manifest of a graph of tensors with one picture of 2 × 2, and these fields beside its size.
fn of_picture(fields: &Value) -> Value {
    let mut step = json!({"step": "image", "input": "X", "resize": {"width": 2, "height": 2,
        "mode": "exact"}});
    let fields = fields.as_object().unwrap().clone();
    step.as_object_mut().unwrap().extend(fields);
    json!({
        "/kind": "tensor", "/task": "raw", "/inputs": [{"name": "X", "type": "image"}],
        "/preprocessing": [step],
        "/network": {"architecture": "onnx", "graph": "model.onnx"}, "/outputs": {},
    })
}

#[test]
fn an_image_of_another_type_or_layout_is_refused_with_what_to_change() {
    if !has_library() {
        return;
    }
    let scaled =
        json!({"rescale": 1, "mean": [0, 0, 0], "std": [1, 1, 1], "layout": "channelsLast"});
    let levels = json!({"dtype": "uint8", "layout": "channelsLast"});
    for (name, changes, words) in [
        (
            "bytes",
            of_picture(&scaled),
            &[
                "input X",
                "its image step gives float32; with \"dtype\": \"uint8\" and without rescale, \
                 mean and std",
            ][..],
        ),
        (
            "sound",
            of_picture(&levels),
            &[
                "input X",
                "its image step gives uint8; without dtype, and with rescale",
            ],
        ),
        (
            "bytes",
            of_picture(&json!({"dtype": "uint8"})),
            &[
                "input X",
                "its image step gives 3 × 2 × 2 for each instance: see its layout",
            ],
        ),
        (
            "sound",
            of_picture(&scaled),
            &[
                "input X",
                "its image step gives 2 × 2 × 3 for each instance",
            ],
        ),
        (
            "bytes",
            json!({
                "/kind": "tensor", "/task": "raw", "/outputs": {},
                "/inputs": [{"name": "X", "type": "tensor", "dtype": "uint8", "shape": [2, 2, 3]}],
                "/preprocessing": [{
                    "step": "image", "input": "X", "rescale": 1, "mean": [0, 0, 0], "std": [1, 1,
                    1],
                }],
                "/network": {"architecture": "onnx", "graph": "model.onnx"},
            }),
            &[
                "input X",
                "its image step gives float32; without the step it gives levels",
            ],
        ),
    ] {
        refused(name, &changes, words);
    }
    load(&graph("bytes.onnx"), &of_picture(&levels), &[]).unwrap();
}

#[test]
fn bytes_go_into_a_graph_as_a_plain_tensor() {
    if !has_library() {
        return;
    }
    let tensor = json!({
        "/kind": "tensor", "/task": "raw", "/preprocessing": [], "/outputs": {},
        "/inputs": [{"name": "X", "type": "tensor", "dtype": "uint8", "shape": [2, 2, 3]}],
        "/network": {"architecture": "onnx", "graph": "model.onnx"},
    });
    let model = load(&graph("bytes.onnx"), &tensor, &[]).unwrap();
    let levels = json!([[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [128, 254, 255]]]);
    let answer = predict(&model, &[json!({"X": levels})]);
    let expected = [0, 1, 2, 3, 4, 5, 6, 7, 8, 128, 254, 255];
    assert_eq!(answer[0].output, expected.map(|level| level as f32));
}

#[test]
fn a_label_is_answered_by_its_name() {
    if !has_library() {
        return;
    }
    let of_label = json!({
        "/task": "classification", "/outputs": {"labels": ["yes", "no"]},
        "/network/outputs": [{"name": "label", "holds": "label"}],
    });
    let model = load(&graph("labels.onnx"), &of_label, &[]).unwrap();
    let answer = predict(&model, &[json!({"a": 1, "b": 10}), json!({"a": 2, "b": 0})]);
    assert_eq!(answer[0].output, [1.0, 0.0]);
    assert_eq!(answer[1].output, [0.0, 1.0]);
}

#[test]
fn weights_beside_the_graph_are_those_of_the_artefact() {
    if !has_library() {
        return;
    }
    let weights = graph("weights.bin");
    for (path, beside) in [
        ("model.onnx", "weights.bin"),
        ("onnx/model.onnx", "onnx/weights.bin"),
    ] {
        let place = json!({"/network/graph": path});
        let model = load(&graph("outside.onnx"), &place, &[(beside, &weights)]).unwrap();
        let answer = predict(&model, &[json!({"a": 1, "b": 10})]);
        assert_eq!(answer[0].output, [31.0, 42.0]);
    }
    for (name, file) in [
        ("outside", "other.bin"),
        ("outside", "onnx/weights.bin"),
        // What another part of the process has in its memory.
        ("outside-address", "*/_ORT_MEM_ADDR_/*"),
    ] {
        let error = load(
            &graph(&format!("{name}.onnx")),
            &json!({}),
            &[(file, &weights)],
        )
        .unwrap_err();
        assert!(
            error.contains("which the manifest does not list"),
            "{name}, {file}: {error}"
        );
    }
    load(
        &graph("outside-beyond.onnx"),
        &json!({}),
        &[("weights.bin", &weights)],
    )
    .unwrap_err();
}

fn cases() -> ProptestConfig {
    if std::env::var_os("PROPTEST_CASES").is_some() {
        ProptestConfig::default()
    } else {
        ProptestConfig {
            rng_seed: RngSeed::Fixed(1),
            ..ProptestConfig::with_cases(200)
        }
    }
}

proptest! {
    #![proptest_config(cases())]

    /// The library reads graphs in C++: whatever one holds, it is computed or refused, and the
    /// process lives on.
    #[test]
    fn a_damaged_graph_is_refused_or_computed(
        which: Index, changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..4),
            end in any::<Option<Index>>(),
    ) {
        if has_library() {
            let names = ["sound", "outside", "names", "no-weights", "integers"];
            let mut graph = graph(&format!("{}.onnx", which.get(&names)));
            for (place, byte) in changes {
                let place = place.index(graph.len());
                graph[place] = byte;
            }
            if let Some(end) = end {
                graph.truncate(end.index(graph.len()));
            }
            let weights = [1_u8; 16];
            if let Ok(model) = load(&graph, &json!({}), &[("weights.bin", &weights)]) {
                let predictions = predict(&model, &[json!({"a": 1, "b": 2})]);
                prop_assert_eq!(predictions.len(), 1);
            }
        }
    }
}

#[test]
fn every_graph_is_used() {
    let source = include_str!("graphs.rs");
    for entry in std::fs::read_dir(tests().join("graphs")).unwrap() {
        let name = entry.unwrap().path();
        let name = Path::new(&name).file_stem().unwrap().to_str().unwrap();
        assert!(source.contains(&format!("\"{name}")), "{name} is not used");
    }
}
