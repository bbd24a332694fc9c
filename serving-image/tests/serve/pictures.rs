//! A model of pictures, by every way that an instance can take: PaddleOCR's classifier of how a
//! line of text stands.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::graphs::{library, model};
use crate::support::{Server, cached, fixture, serin_serve};

/// The model and ONNX Runtime's library.
fn text_direction() -> Option<(PathBuf, String)> {
    let directory = cached("models/text-direction/3.0.0", "fetch_models.py")?;
    Some((directory, library()?))
}

fn predict(server: &Server, instances: &[Value]) -> Value {
    let answer = server.post("/predict", &json!({"instances": instances}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["predictions"].clone()
}

fn expected(server: &Server, picture: &Value) -> String {
    let answer = server.post("/predict", &json!({"instances": [{"x": picture}]}));
    assert_eq!(answer.status, 422, "{}", answer.text());
    let problem = answer.json();
    assert_eq!(problem["errors"][0]["field"], "/instances/0/x");
    problem["errors"][0]["expected"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn pictures_are_classified_and_what_is_none_is_refused_by_its_field() {
    let Some((model, library)) = text_direction() else {
        return;
    };
    let server = Server::start(&model, &["--onnxruntime", &library]);
    for kind in ["png", "jpeg"] {
        let fixture = fixture(&format!("text-direction-{kind}.json"));
        let instances = fixture["instances"].as_array().unwrap();
        let answers = predict(&server, &instances[..2]);
        assert_eq!(answers[0]["label"], "0", "{kind}");
        assert_eq!(answers[1]["label"], "180", "{kind}");
    }
    // More than a body without pictures may have, and still a picture that is too large, not a
    // body.
    for (picture, words) in [
        (
            json!(7),
            "a JPEG or PNG picture in base64, padded, without line breaks",
        ),
        (
            json!("no picture"),
            "a JPEG or PNG picture in base64, padded, without line breaks",
        ),
        (json!("R0lGODlhAQABAAAAACw="), "a picture in JPEG or PNG"),
        (json!("iVBORw0KGgo="), "a JPEG or PNG file that is whole"),
        (
            json!("A".repeat(5_700_000)),
            "a picture of at most 4194304 bytes",
        ),
    ] {
        assert_eq!(expected(&server, &picture), words);
    }
    let missing = server.post("/predict", &json!({"instances": [{}]}));
    assert_eq!(
        missing.json()["errors"],
        json!([{"field": "/instances/0/x",
            "expected": "a JPEG or PNG picture in base64 (required)"}])
    );
    let explain = server.post("/explain", &json!({"instances": [{"x": ""}]}));
    assert_eq!(explain.status, 404);
    assert_eq!(explain.json()["type"], "urn:serin:problem:not-explained");
}

#[test]
fn v2_batch_and_predict_answer_alike() {
    let Some((model, library)) = text_direction() else {
        return;
    };
    let server = Server::start(&model, &["--onnxruntime", &library]);
    let fixture = fixture("text-direction-png.json");
    let instances = fixture["instances"].as_array().unwrap();
    // Alone: ONNX Runtime chooses its kernels by the size of the batch.
    let one = &instances[2];
    let probabilities = predict(&server, std::slice::from_ref(one))[0]["probabilities"].clone();

    let metadata = server.get("/v2/models/text-direction").json();
    assert_eq!(
        metadata["inputs"],
        json!([{"name": "x", "datatype": "BYTES", "shape": [-1]}])
    );
    let tensor = json!({"name": "x", "shape": [1], "datatype": "BYTES", "data": [one["x"]]});
    let answer = server.post(
        "/v2/models/text-direction/infer",
        &json!({"inputs": [tensor], "outputs": [{"name": "probabilities"}]}),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        answer.json()["outputs"][0]["data"],
        json!([probabilities["0"], probabilities["180"]])
    );

    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("in.jsonl"), format!("{one}\n{{\"x\": \"AAAA\"}}\n")).unwrap();
    let picture = one["x"].as_str().unwrap();
    fs::write(path("in.csv"), format!("x\n{picture}\nAAAA\n")).unwrap();
    for input in ["in.jsonl", "in.csv"] {
        let output = path(&format!("{input}.out.jsonl"));
        let rejects = path(&format!("{input}.rejects.jsonl"));
        let ended = serin_serve(&["batch", "--onnxruntime", &library, "--max-rejects", "1"])
            .args(["--model-dir".as_ref(), model.as_os_str()])
            .args(["--input".as_ref(), path(input).as_os_str()])
            .args(["--output".as_ref(), output.as_os_str()])
            .args(["--rejects".as_ref(), rejects.as_os_str()])
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(0), "{input}: {ended:?}");
        assert_eq!(
            only_line(&output)["probabilities"],
            probabilities,
            "{input}"
        );
        assert_eq!(
            only_line(&rejects),
            json!({"row": 2, "field": "x", "expected": "a picture in JPEG or PNG"})
        );
    }
}

/// Bytes for a graph that scales them by itself, as TensorFlow exports it. The sums of the levels
/// are exact.
#[test]
fn levels_go_into_a_graph_of_bytes_by_every_way() {
    let Some(library) = library() else { return };
    let model = model("picture-levels");
    let server = Server::start(&model, &["--onnxruntime", &library]);
    let fixture = fixture("picture-levels.json");
    let (instances, outputs) = (&fixture["instances"], &fixture["outputs"]);
    let instances = instances.as_array().unwrap();
    let numbers = |list: &Value| -> Vec<f64> {
        let list = list.as_array().unwrap().iter();
        list.map(|number| number.as_f64().unwrap()).collect()
    };
    let sums = |index: usize| numbers(&outputs[index])[..3].to_vec();

    let answers = predict(&server, instances);
    for index in 0..instances.len() {
        let found = &answers[index]["outputs"]["level_sums"]["data"];
        assert_eq!(numbers(found), sums(index), "{}", answers[index]);
    }

    let metadata = server.get("/v2/models/picture-levels").json();
    let name = "image_tensor:0";
    assert_eq!(
        metadata["inputs"],
        json!([{"name": name, "datatype": "BYTES", "shape": [-1]}])
    );
    let pictures = [&instances[1][name], &instances[2][name]];
    let tensor = json!({"name": name, "shape": [2], "datatype": "BYTES", "data": pictures});
    let answer = server.post(
        "/v2/models/picture-levels/infer",
        &json!({"inputs": [tensor], "outputs": [{"name": "level_sums"}]}),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    let output = &answer.json()["outputs"][0];
    assert_eq!(output["datatype"], "INT64");
    assert_eq!(output["shape"], json!([2, 3]));
    assert_eq!(numbers(&output["data"]), [sums(1), sums(2)].concat());

    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let picture = instances[3][name].as_str().unwrap();
    fs::write(path("in.csv"), format!("{name}\n{picture}\n")).unwrap();
    let ended = serin_serve(&["batch", "--onnxruntime", &library])
        .args(["--model-dir".as_ref(), model.as_os_str()])
        .args(["--input".as_ref(), path("in.csv").as_os_str()])
        .args(["--output".as_ref(), path("out.jsonl").as_os_str()])
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let line = only_line(&path("out.jsonl"));
    let found = &line["outputs"]["level_sums"]["data"];
    assert_eq!(numbers(found), sums(3), "{line}");
}

fn only_line(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn the_document_tells_what_a_picture_is() {
    let Some((model, library)) = text_direction() else {
        return;
    };
    let server = Server::start(&model, &["--onnxruntime", &library]);
    let document = server.get("/openapi.json").json();
    let body = &document["paths"]["/predict"]["post"]["requestBody"]["content"];
    let instances = &body["application/json"]["schema"]["properties"]["instances"];
    assert_eq!(
        instances["items"]["properties"]["x"],
        json!({
            "type": "string", "contentEncoding": "base64", "pattern": "^[A-Za-z0-9+/]+={0,2}$",
            "maxLength": 5_592_408,
            "anyOf": [{"contentMediaType": "image/jpeg"}, {"contentMediaType": "image/png"}],
            "description": "A JPEG or PNG picture of at most 4194304 bytes and 16777216 pixels",
        })
    );
}
