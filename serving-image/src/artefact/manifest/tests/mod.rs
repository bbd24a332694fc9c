//! Contradictions, and that a sound manifest has none.
#![allow(clippy::unwrap_used)]

mod images;

use super::*;
use serde_json::json;

fn tabular() -> Value {
    json!({
        "schemaVersion": 1, "name": "m", "version": "1", "kind": "tabular",
        "task": "classification",
        "inputs": [{"name": "a", "type": "number"}, {"name": "b", "type": "integer",
        "nullable": true}],
        "preprocessing": [
            {"step": "impute", "values": {"b": 1.0}},
            {"step": "order", "features": ["a", "b"]},
            {"step": "standardScale", "mean": [0.0, 0.0], "scale": [1.0, 2.0]}
        ],
        "network": {"architecture": "mlp", "activation": "relu", "weights": "w.safetensors"},
        "outputs": {"labels": ["x", "y"]}
    })
}

/// Ages, sizes and colours: every step that named fields know.
pub(crate) fn categories() -> Value {
    json!({
        "schemaVersion": 1, "name": "m", "version": "1", "kind": "tabular", "task": "regression",
        "inputs": [
            {"name": "age", "type": "number", "nullable": true},
            {"name": "size", "type": "string", "allowed": ["S", "M", "L"]},
            {"name": "colour", "type": "string", "maxLength": 20, "nullable": true},
            {"name": "class", "type": "integer", "allowed": [1, 2]}
        ],
        "preprocessing": [
            {"step": "impute", "values": {"age": 30.5, "colour": "red"}},
            {"step": "ordinal", "categories": {"size": ["S", "M", "L"]}},
            {"step": "oneHot", "categories": {"colour": ["blue", "red"]}, "ignoreUnknown": true},
            {"step": "oneHot", "categories": {"class": [1, 2]}, "drop": "ifBinary"},
            {"step": "order", "features": ["colour", "age", "size", "class"]},
            {"step": "minMaxScale", "features": ["age"], "min": [0], "max": [100]},
            {"step": "robustScale", "features": ["age", "size"], "center": [0.5, 1], "scale": [0.2,
            1]}
        ],
        "network": {"architecture": "linear", "weights": "w"},
        "outputs": {"names": ["price", "days"], "unit": "EUR"},
        "reference": {
            "inputs": {
                "age": {"edges": [20.0, 40.0], "shares": [0.25, 0.5, 0.25]},
                "colour": {"shares": {"blue": 0.4, "red": 0.5}}
            },
            "outputs": {"edges": [1.0], "shares": [0.5, 0.5]}
        },
        "background": {"means": {"colour=blue": 0.4, "colour=red": 0.6, "age": 0.3, "size": 0.1,
        "class=2": 0.5}}
    })
}

fn of_kind(kind: &str) -> Value {
    let mut manifest = tabular();
    let (inputs, steps, network, task, outputs) = match kind {
        "text" => (
            json!([{"name": "text", "type": "string"}]),
            json!([{"step": "tokenize", "tokenizer": "t", "maxTokens": 8}]),
            json!({"architecture": "bert", "config": "c", "weights": "w"}),
            "sentence-embedding",
            json!({"dimensions": 3}),
        ),
        "text-pair" => (
            json!([{"name": "text", "type": "string"}, {"name": "pair", "type": "string"}]),
            json!([{"step": "tokenize", "tokenizer": "t", "maxTokens": 8}]),
            json!({"architecture": "bert", "config": "c", "weights": "w", "head": "classifier"}),
            "reranking",
            json!({}),
        ),
        "tensor" => (
            json!([{"name": "x", "type": "tensor", "dtype": "uint8", "shape": [4, null, 3]}]),
            json!([{"step": "image", "input": "x", "rescale": 0.1, "mean": [0, 0, 0], "std": [1, 1,
                1]}]),
            json!({"architecture": "onnx", "graph": "g", "outputs": [{"name": "y"}]}),
            "raw",
            json!({}),
        ),
        _ => (
            json!([]),
            json!([]),
            json!({"architecture": "gguf", "weights": "w"}),
            "text-generation",
            json!({}),
        ),
    };
    manifest["kind"] = kind.into();
    manifest["task"] = task.into();
    manifest["inputs"] = inputs;
    manifest["preprocessing"] = steps;
    manifest["network"] = network;
    manifest["outputs"] = outputs;
    manifest
}

fn parse(manifest: &Value) -> Result<Manifest, ManifestError> {
    Manifest::parse(manifest.to_string().as_bytes())
}

/// Each change, alone, is refused with these words.
fn refused(sound: &Value, changes: &[(&str, Value, &str)]) {
    parse(sound).unwrap();
    for (pointer, value, expected) in changes {
        let mut manifest = sound.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match manifest.pointer_mut(parent).unwrap() {
            Value::Array(list) => list[key.parse::<usize>().unwrap()] = value.clone(),
            object => object[key] = value.clone(),
        }
        let problem = parse(&manifest).unwrap_err().to_string();
        assert!(
            problem.contains(expected),
            "{pointer} = {value}: {problem}, not {expected}"
        );
    }
}

#[test]
fn a_sound_manifest_is_read() {
    let manifest = parse(&tabular()).unwrap();
    assert_eq!(manifest.features(), ["a", "b"]);
    assert_eq!(manifest.limits.max_instances, 1024);
    assert_eq!(manifest.output_width(), Some(2));
    let manifest = parse(&categories()).unwrap();
    assert_eq!(
        manifest.features(),
        ["colour=blue", "colour=red", "age", "size", "class=2"]
    );
    assert_eq!(manifest.output_width(), Some(2));
    for kind in ["text", "text-pair", "tensor", "generation"] {
        parse(&of_kind(kind)).unwrap();
    }
    // The name of the kind before there were classifiers of text.
    let mut text = of_kind("text");
    text["kind"] = "embedding".into();
    assert_eq!(parse(&text).unwrap().kind, Kind::Text);
}

/// What is written back must not change a digest without need.
#[test]
fn the_manifest_of_iris_is_written_as_it_was_read() {
    for version in ["1.0.0", "2.0.0"] {
        let path = format!(
            "{}/../examples/models/iris/{version}/{MANIFEST_FILE}",
            env!("CARGO_MANIFEST_DIR")
        );
        let bytes = std::fs::read(path).unwrap();
        let mut written = serde_json::to_vec_pretty(&Manifest::parse(&bytes).unwrap()).unwrap();
        written.push(b'\n');
        assert!(written == bytes, "iris {version}");
    }
}

#[test]
fn a_contradiction_is_named() {
    refused(
        &tabular(),
        &[
            ("/schemaVersion", json!(2), "schemaVersion must be 1"),
            ("/name", json!(""), "name is empty"),
            ("/inputs", json!([]), "inputs is empty"),
            ("/inputs/0/name", json!("b"), "two inputs share a name"),
            (
                "/inputs/0/type",
                json!("string"),
                "input a: a string of a tabular model needs allowed",
            ),
            (
                "/inputs/0/type",
                json!("string"),
                "input a is a string, but no oneHot or ordinal",
            ),
            (
                "/inputs/0/type",
                json!("tensor"),
                "input a: dtype and shape belong to a tensor",
            ),
            (
                "/inputs/0/allowed",
                json!(["x"]),
                "input a: allowed has a value of another type",
            ),
            (
                "/inputs/0/maxLength",
                json!(5),
                "input a: maxLength is for strings",
            ),
            (
                "/inputs/0",
                json!({"name": "a", "type": "number", "min": 2, "max": 1}),
                "min is above max",
            ),
            (
                "/preprocessing/0/values",
                json!({}),
                "input b is nullable, but no impute step fills it",
            ),
            (
                "/preprocessing/0/values",
                json!({"c": 1.0, "b": 1.0}),
                "preprocessing[0]: c is not an input",
            ),
            (
                "/preprocessing/0/values",
                json!({"b": "x"}),
                "the value for b is of another type",
            ),
            (
                "/preprocessing/1/features",
                json!([]),
                "preprocessing[1]: features is empty",
            ),
            (
                "/preprocessing/1",
                json!({"step": "impute", "values": {}}),
                "preprocessing has no order step",
            ),
            (
                "/preprocessing/2/scale",
                json!([1.0]),
                "preprocessing[2]: mean and scale need one number",
            ),
            (
                "/preprocessing/2/scale",
                json!([1.0, 0.0]),
                "preprocessing[2]: a scale is 0",
            ),
            ("/outputs/labels", json!(["x"]), "at least 2 labels"),
            (
                "/outputs/labels",
                json!(["x", "x"]),
                "two labels are the same",
            ),
            (
                "/outputs/dimensions",
                json!(3),
                "dimensions is for sentence-embedding",
            ),
            (
                "/outputs/unit",
                json!("cm"),
                "outputs.unit are for regression",
            ),
            (
                "/limits",
                json!({"maxInstances": 0}),
                "limits.maxInstances is 0",
            ),
            ("/limits", json!({"maxTokens": 9}), "are for generation"),
            (
                "/golden",
                json!([{"instance": {}, "tolerance": 0.1}]),
                "golden[0]: output is what is known",
            ),
            (
                "/kind",
                json!("text"),
                "a text model takes exactly 1 string input",
            ),
            (
                "/files",
                json!([{"path": "../w", "size": 1, "sha256": "00"}]),
                "file ../w: only relative paths",
            ),
            ("/colour", json!("red"), "unknown field `colour`"),
        ],
    );
}

#[test]
fn a_contradiction_among_categories_is_named() {
    refused(
        &categories(),
        &[
            (
                "/preprocessing/1/categories",
                json!({"size": ["S", "M"]}),
                "size needs allowed values that all",
            ),
            (
                "/preprocessing/1/categories",
                json!({"size": ["S", "M", "L", "S"]}),
                "size has a category twice",
            ),
            (
                "/preprocessing/1/categories",
                json!({"size": [1, 2]}),
                "a category of size is of another type",
            ),
            (
                "/preprocessing/2/ignoreUnknown",
                json!(false),
                "colour needs allowed values that all",
            ),
            (
                "/preprocessing/2/drop",
                json!("first"),
                "background.means needs one number for each of colour=red, age",
            ),
            (
                "/preprocessing/2/categories",
                json!({"size": ["S"], "colour": ["red"]}),
                "size is encoded a second time",
            ),
            (
                "/preprocessing/3",
                json!({"step": "oneHot", "categories": {"class": [1]}, "drop": "first"}),
                "class has no column",
            ),
            (
                "/preprocessing/5/max",
                json!([0]),
                "preprocessing[5]: a min is not below its max",
            ),
            (
                "/preprocessing/5/features",
                json!(["colour"]),
                "preprocessing[5]: colour is one-hot",
            ),
            (
                "/preprocessing/5/features",
                json!([]),
                "min and max need one number for each of 5 features",
            ),
            (
                "/preprocessing/5/range",
                json!([1, 1]),
                "the range's first number",
            ),
            (
                "/preprocessing/6/features",
                json!(["age", "shape"]),
                "preprocessing[6]: shape is not in the order",
            ),
            (
                "/reference/inputs/age/edges",
                json!([40.0, 20.0]),
                "edges must be at most 11 and rise",
            ),
            (
                "/reference/inputs/age/shares",
                json!([0.5, 0.5]),
                "shares must be one more than edges",
            ),
            (
                "/reference/inputs/colour/shares",
                json!({"blue": 1.5}),
                "shares are from 0 to 1",
            ),
            (
                "/reference/inputs/size",
                json!({"edges": [], "shares": [1.0]}),
                "a string has no edges",
            ),
            (
                "/reference/inputs/weight",
                json!({"shares": {}}),
                "reference.inputs.weight is not an input",
            ),
            (
                "/reference/outputs",
                json!({"shares": {"x": 1.0}}),
                "needs the shares of the labels",
            ),
        ],
    );
}

#[test]
fn a_contradiction_of_a_kind_is_named() {
    refused(
        &of_kind("text"),
        &[
            ("/outputs", json!({}), "outputs.dimensions is missing"),
            (
                "/network/head",
                json!("classifier"),
                "network.head must be none for sentence-embedding",
            ),
            (
                "/network",
                json!({"architecture": "gguf", "weights": "w"}),
                "architecture must be bert or onnx",
            ),
            ("/preprocessing", json!([]), "exactly one tokenize step"),
            ("/task", json!("raw"), "a text model's task must be"),
        ],
    );
    refused(
        &of_kind("text-pair"),
        &[
            (
                "/network/head",
                json!("none"),
                "classifier for any other task",
            ),
            ("/inputs/1/name", json!("text"), "two inputs share a name"),
            (
                "/inputs",
                json!([{"name": "text", "type": "string"}]),
                "takes exactly 2 string input",
            ),
        ],
    );
    refused(
        &of_kind("tensor"),
        &[
            (
                "/preprocessing/0/mean",
                json!([0]),
                "with a mean and a std for each channel",
            ),
            ("/preprocessing/0/std", json!([0, 1, 1]), "a std is 0"),
            (
                "/inputs/0/shape",
                json!([4, 4]),
                "height × width × channels",
            ),
            (
                "/inputs/0/shape",
                json!([4096, 4096, 3]),
                "its shape has more than 16777216 elements",
            ),
            (
                "/inputs/0/dtype",
                json!("float16"),
                "unknown variant `float16`",
            ),
            (
                "/network",
                json!({"architecture": "linear", "weights": "w"}),
                "architecture must be onnx",
            ),
            (
                "/network/outputs/0/holds",
                json!("logits"),
                "this is no answer of the task",
            ),
            (
                "/task",
                json!("classification"),
                "network.outputs y: this is no answer of the task",
            ),
        ],
    );
    refused(
        &of_kind("generation"),
        &[
            (
                "/inputs",
                json!([{"name": "p", "type": "string"}]),
                "has neither inputs nor preprocessing",
            ),
            (
                "/golden",
                json!([{"instance": "a", "output": [1.0]}]),
                "golden[0]: text is what is known",
            ),
            (
                "/network",
                json!({"architecture": "onnx", "graph": "g"}),
                "architecture must be gguf",
            ),
        ],
    );
}
