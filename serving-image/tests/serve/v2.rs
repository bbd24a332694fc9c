//! The Open Inference Protocol V2, by its REST specification.

use serde_json::{Value, json};

use crate::embeddings::minilm;
use crate::graphs::{library, raw_graph};
use crate::support::{Server, fixture, iris};

const FIELDS: [&str; 4] = ["sepal_length", "sepal_width", "petal_length", "petal_width"];

fn infer(server: &Server, request: &Value) -> (u16, Value) {
    let response = server.post("/v2/models/iris/infer", request);
    (response.status, response.json())
}

/// One tensor a field.
fn by_field(instances: &[Value]) -> Vec<Value> {
    let tensor = |field: &&str| {
        let data: Vec<&Value> = instances.iter().map(|one| &one[*field]).collect();
        json!({"name": field, "shape": [instances.len()], "datatype": "FP64", "data": data})
    };
    FIELDS.iter().map(tensor).collect()
}

/// The instances as the rows of a table.
fn rows(instances: &[Value]) -> Vec<Vec<&Value>> {
    let mut rows = Vec::new();
    for instance in instances {
        rows.push(FIELDS.map(|field| &instance[field]).to_vec());
    }
    rows
}

#[test]
fn the_server_and_its_model_describe_themselves() {
    let server = Server::start(&iris("1.0.0"), &[]);
    let about = server.get("/v2").json();
    assert_eq!(about["name"], "serin-serve");
    assert_eq!(about["extensions"], json!(["binary_tensor_data"]));
    assert_eq!(server.get("/v2/").json(), about);
    assert_eq!(server.get("/v2/health/live").json(), json!({"live": true}));
    assert_eq!(
        server.get("/v2/health/ready").json(),
        json!({"live": true, "ready": true})
    );
    for path in ["/v2/models/iris", "/v2/models/iris/versions/1.0.0"] {
        let metadata = server.get(path).json();
        assert_eq!(metadata["name"], "iris");
        assert_eq!(metadata["versions"], json!(["1.0.0"]));
        assert_eq!(metadata["platform"], "candle_safetensors");
        assert_eq!(
            metadata["inputs"][1],
            json!({"name": "sepal_width", "datatype": "FP64", "shape": [-1]})
        );
        assert_eq!(
            metadata["outputs"],
            json!([
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
            ])
        );
        assert_eq!(
            server.get(&format!("{path}/ready")).json(),
            json!({"name": "iris", "ready": true})
        );
    }
    for path in [
        "/v2/models/rose",
        "/v2/models/iris/versions/9",
        "/v2/models/iris/versions/9/ready",
        "/v2/models/%ff",
        "/v2/nowhere",
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let body = answer.json();
        assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
        assert!(body["error"].is_string(), "{body}");
    }
}

#[test]
fn every_layout_of_the_tensors_predicts_what_named_fields_predict() {
    let server = Server::start(&iris("1.0.0"), &[]);
    let fixture = fixture("iris-1.0.0.json");
    let instances = &fixture["instances"].as_array().unwrap()[40..60];
    let expected = server
        .post("/predict", &json!({"instances": instances}))
        .json();
    let table = rows(instances);
    let flat: Vec<&Value> = table.iter().flatten().copied().collect();
    let column = by_field(instances)
        .into_iter()
        .map(|mut tensor| {
            tensor["shape"] = json!([20, 1]);
            tensor["datatype"] = json!("FP32");
            tensor
        })
        .rev() // in any order
        .collect::<Vec<_>>();
    for (layout, inputs) in [
        ("one tensor a field", json!(by_field(instances))),
        ("columns", json!(column)),
        (
            "a flat table",
            json!([{"name": "x", "shape": [20, 4], "datatype": "FP64", "data": flat}]),
        ),
        (
            "a nested table",
            json!([{"name": "x", "shape": [20, 4], "datatype": "FP64", "data": table}]),
        ),
    ] {
        let (status, answer) = infer(&server, &json!({"id": "7", "inputs": inputs}));
        assert_eq!(status, 200, "{layout}: {answer}");
        assert_eq!(answer["id"], "7");
        assert_eq!(
            (&answer["model_name"], &answer["model_version"]),
            (&json!("iris"), &json!("1.0.0"))
        );
        let [labels, probabilities] = answer["outputs"].as_array().unwrap().as_slice() else {
            panic!("{answer}")
        };
        assert_eq!(labels["shape"], json!([20]));
        assert_eq!(probabilities["shape"], json!([20, 3]));
        let predictions = expected["predictions"].as_array().unwrap();
        for (row, prediction) in predictions.iter().enumerate() {
            assert_eq!(labels["data"][row], prediction["label"], "{layout}");
            for (class, label) in ["setosa", "versicolor", "virginica"].iter().enumerate() {
                assert_eq!(
                    probabilities["data"][3 * row + class],
                    prediction["probabilities"][label],
                    "{layout}"
                );
            }
        }
    }
}

#[test]
fn only_the_outputs_asked_for_are_answered_and_no_id_is_made_up() {
    let server = Server::start(&iris("1.0.0"), &[]);
    let fixture = fixture("iris-1.0.0.json");
    let inputs = by_field(&fixture["instances"].as_array().unwrap()[..2]);
    let request = json!({
        "inputs": inputs, "outputs": [{"name": "label", "parameters": {"x": 1}}],
        "parameters": {"content_type": "np"},
    });
    let path = "/v2/models/iris/versions/1.0.0/infer";
    let answer = server.post(path, &request).json();
    assert_eq!(
        answer["outputs"],
        json!([{"name": "label", "datatype": "BYTES", "shape": [2], "data": ["setosa", "setosa"]}])
    );
    assert!(answer.get("id").is_none(), "{answer}");
    // It is counted as any other prediction.
    let metrics = server.get("/metrics");
    let line = r#"model_predictions_total{model="iris",model_version="1.0.0",class="setosa"} 2"#;
    assert!(metrics.text().contains(line), "{}", metrics.text());
}

#[test]
fn each_wrong_tensor_is_told_in_one_error_text() {
    let server = Server::start(&iris("1.0.0"), &[]);
    let good = by_field(&[
        json!({"sepal_length": 5.0, "sepal_width": 3.0, "petal_length": 1.0, "petal_width": 0.2}),
    ]);
    let with = |pointer: &str, value: Value| {
        let mut request = json!({"inputs": good});
        *request.pointer_mut(pointer).unwrap() = value;
        request
    };
    let table = |shape: Value, data: Value| {
        json!({"inputs": [{"name": "x", "shape": shape,
        "datatype": "FP64", "data": data}]})
    };
    for (request, expected) in [
        (json!({}), vec!["/inputs: expected an array"]),
        (json!({"inputs": []}), vec!["/inputs: expected an array"]),
        (
            json!({"inputs": [1]}),
            vec!["/inputs/0: expected an object"],
        ),
        (
            json!({"inputs": [{}], "id": 7, "colour": 1, "outputs": [{"name": "x"}]}),
            vec![
                "/id: expected a text",
                "/colour: expected no such field",
                "/outputs/0/name: expected one of label, probabilities",
                "/inputs/0/name: expected a text",
                "/inputs/0/datatype: expected BOOL",
                "/inputs/0/shape: expected an array",
                "/inputs/0/data: expected an array",
            ],
        ),
        (
            with("/inputs/0/name", json!("secret-4711")),
            vec![
                "/inputs/0/name: expected one of sepal_length",
                "/inputs: expected a tensor named sepal_length",
            ],
        ),
        (
            with("/inputs/1/name", json!("sepal_length")),
            vec!["/inputs/1/name: expected each tensor once"],
        ),
        (
            with("/inputs/0/datatype", json!("BYTES")),
            vec!["/inputs/0/data/0: expected an element of BYTES"],
        ),
        (
            with("/inputs/0/shape", json!([2])),
            vec!["/inputs/0/data: expected as many elements"],
        ),
        (
            with("/inputs/0/shape", json!([1, 1, 1])),
            vec!["/inputs/0/shape: expected [n] or [n, 1]"],
        ),
        (
            with("/inputs/0/shape", json!([u32::MAX, u32::MAX, u32::MAX])),
            vec!["/inputs/0/data: expected as many elements"],
        ),
        (
            with("/inputs/2/data", json!([4711])),
            vec!["/inputs/2/data/0: expected a number from 0 to 30 cm"],
        ),
        (
            with("/inputs/2/data", json!([null])),
            vec!["/inputs/2/data/0: expected a number from 0 to 30 cm (required)"],
        ),
        (
            table(json!([2, 4]), json!([[1, 2, 3, 4], [1, 2, 3, 4711]])),
            vec!["/inputs/0/data/1/3: expected a number from 0"],
        ),
        (
            table(json!([2, 4]), json!([1, 2, 3, 4, 1, 2, -1, 4])),
            vec!["/inputs/0/data/6: expected a number from 0"],
        ),
        (
            table(json!([1, 4]), json!([[1, 2, 3]])),
            vec!["/inputs/0/data: expected as many elements"],
        ),
        (
            json!({"inputs": good, "parameters": {"binary_data_output": "yes"}}),
            vec!["/parameters/binary_data_output: expected true or false"],
        ),
        (
            json!({"inputs": good, "model_name": "rose-4711"}),
            vec!["/model_name: expected \"iris\", or nothing"],
        ),
        (
            json!({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32",
                "parameters": {"binary_data_size": 16}}]}),
            vec!["/inputs/0/parameters/binary_data_size: expected the bytes of the tensor"],
        ),
        (
            json!({"inputs": good, "outputs": [{"name": "label",
                "parameters": {"classification": 2}}]}),
            vec!["/outputs/0/parameters/classification: expected nothing"],
        ),
    ] {
        let (status, answer) = infer(&server, &request);
        assert_eq!(status, 400, "{request}: {answer}");
        let error = answer["error"].as_str().unwrap();
        for part in expected {
            assert!(error.contains(part), "{request}: {error}");
        }
        assert!(!error.contains("4711"), "{error}");
    }
}

#[test]
fn texts_are_bytes() {
    let Some(model) = minilm() else { return };
    let server = Server::start(&model, &[]);
    let name = "all-minilm-l6-v2";
    let metadata = server.get(&format!("/v2/models/{name}")).json();
    assert_eq!(metadata["inputs"][0]["datatype"], "BYTES");
    let text = metadata["inputs"][0]["name"].clone();
    let texts = json!(["a cat", "a dog"]);
    let request =
        json!({"inputs": [{"name": text, "shape": [2], "datatype": "BYTES", "data": texts}]});
    let answer = server
        .post(&format!("/v2/models/{name}/infer"), &request)
        .json();
    assert_eq!(answer["outputs"][0]["name"], "embedding");
    assert_eq!(answer["outputs"][0]["shape"], json!([2, 384]));
    let expected = server.post("/predict", &json!({"instances": texts})).json();
    let vectors: Vec<&Value> = expected["predictions"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|one| one["embedding"].as_array().unwrap())
        .collect();
    assert_eq!(json!(vectors), answer["outputs"][0]["data"]);
    assert_eq!(answer["outputs"][2]["data"], json!([false, false]));
}

/// A graph whose own tensors are the answer: a text and three numbers for each instance.
#[test]
fn the_tensors_of_a_graph_are_answered_by_their_names() {
    let Some(library) = library() else { return };
    let (directory, instances) = raw_graph();
    let server = Server::start(directory.path(), &["--onnxruntime", &library]);
    let predicted = server.post("/predict", &json!({"instances": instances}));
    assert_eq!(predicted.status, 200, "{}", predicted.text());
    let predicted = predicted.json()["predictions"].clone();

    let metadata = server.get("/v2/models/tensors").json();
    assert_eq!(
        (&metadata["inputs"], &metadata["outputs"]),
        (
            &json!([{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]),
            &json!([
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
            ])
        )
    );
    let count = instances.len();
    let rows: Vec<&Value> = instances.iter().map(|one| &one["X"]).collect();
    let input = json!({"name": "X", "shape": [count, 4], "datatype": "FP32", "data": rows});
    let infer = |outputs: Value| {
        let request = json!({"id": "7", "inputs": [input], "outputs": outputs});
        let answer = server.post("/v2/models/tensors/infer", &request);
        (answer.status, answer.json())
    };
    let (status, answer) = infer(json!([]));
    assert_eq!((status, &answer["id"]), (200, &json!("7")), "{answer}");
    let [label, probabilities] = answer["outputs"].as_array().unwrap().as_slice() else {
        panic!("{answer}");
    };
    assert_eq!(
        (&label["name"], &label["shape"]),
        (&json!("label"), &json!([count]))
    );
    assert_eq!(label["datatype"], "BYTES");
    assert_eq!(probabilities["shape"], json!([count, 3]));
    for (index, prediction) in predicted.as_array().unwrap().iter().enumerate() {
        let outputs = &prediction["outputs"];
        assert_eq!(label["data"][index], outputs["label"]["data"][0]);
        let row = &probabilities["data"].as_array().unwrap()[3 * index..3 * index + 3];
        assert_eq!(row, outputs["probabilities"]["data"].as_array().unwrap());
    }

    let (status, answer) = infer(json!([{"name": "probabilities"}]));
    assert_eq!(
        (status, answer["outputs"].as_array().unwrap().len()),
        (200, 1)
    );
    let (status, answer) = infer(json!([{"name": "label"}, {"name": "score"}]));
    assert_eq!(
        (status, answer["error"].as_str().unwrap()),
        (
            400,
            "1 field is not as expected; /outputs/1/name: expected one of label, probabilities"
        )
    );
}
