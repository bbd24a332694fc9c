//! The paths of the Open Inference Protocol V2.

use serde_json::{Map, Value, json};

use super::schema::object;
use super::{Contract, ok};
use crate::artefact::Kind;
use crate::http::v2;

/// The protocol's names of the types of elements.
const DATATYPES: [&str; 13] = [
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16",
    "FP32", "FP64", "BYTES",
];

/// The schema of an error answer: one text, as the protocol wants it.
pub(super) fn error() -> Value {
    object(&json!({"error": {"type": "string"}}))
}

pub(super) fn paths(contract: &Contract) -> Map<String, Value> {
    let text = json!({"type": "string"});
    let truth = json!({"type": "boolean"});
    let server = object(&json!({
        "name": text, "version": text, "extensions": {"type": "array", "items": text},
    }));
    let model_ready = object(&json!({"name": text, "ready": truth}));
    let tensors = json!({"type": "array", "items": object(&json!({
        "name": text,
        "datatype": {"enum": DATATYPES},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
    }))});
    let metadata = object(&json!({
        "name": text, "versions": {"type": "array", "items": text}, "platform": text,
        "inputs": tensors, "outputs": tensors,
    }));
    let mut paths = Map::new();
    let mut add = |path: &str, item: Value| {
        paths.insert(path.to_owned(), item);
    };
    add("/v2", get("The server", &server, &[]));
    let live = object(&json!({"live": truth}));
    add("/v2/health/live", get("Whether it lives", &live, &[]));
    let ready = object(&json!({"live": truth, "ready": truth}));
    add(
        "/v2/health/ready",
        get("Whether it is for new requests", &ready, &["503"]),
    );
    if contract.manifest.kind == Kind::Generation {
        return paths;
    }
    let parameter = |name: &str, only: &str| {
        json!({"name": name, "in": "path", "required": true,
        "schema": {"type": "string", "enum": [only]}})
    };
    let model = parameter("model", contract.name);
    let version = parameter("version", contract.version);
    for (prefix, parameters) in [
        ("/v2/models/{model}", json!([model])),
        (
            "/v2/models/{model}/versions/{version}",
            json!([model, version]),
        ),
    ] {
        let mut add = |suffix: &str, mut item: Value| {
            item["parameters"] = parameters.clone();
            add(&format!("{prefix}{suffix}"), item);
        };
        add("", get("The model's tensors", &metadata, &["404"]));
        add(
            "/ready",
            get(
                "Whether the model is for new requests",
                &model_ready,
                &["404", "503"],
            ),
        );
        add("/infer", infer(contract));
    }
    paths
}

fn infer(contract: &Contract) -> Value {
    let text = json!({"type": "string"});
    let scalar = json!({"type": ["string", "number", "boolean"]});
    let parameters = json!({
        "type": "object",
        "additionalProperties": scalar,
        "description": "Those of the binary tensor extension; others are ignored",
        "properties": {
            "binary_data": {"type": "boolean"}, "binary_data_output": {"type": "boolean"},
            "classification": {"const": 0},
        },
        // Of a body that is all JSON no tensor is binary.
        "propertyNames": {"not": {"const": "binary_data_size"}},
    });
    let shape = json!({
        "type": "array", "minItems": 1, "maxItems": 8,
        "items": {"type": "integer", "minimum": 1, "maximum": u32::MAX},
    });
    let mut tensor = object(&json!({
        "name": text, "shape": shape, "datatype": {"enum": DATATYPES}, "data": {"type": "array"},
    }));
    tensor["properties"]["parameters"] = parameters.clone();
    let name = match v2::output_names(contract.manifest) {
        Some(names) => json!({"enum": names}),
        None => text.clone(),
    };
    let mut output = object(&json!({"name": name}));
    output["properties"]["parameters"] = parameters.clone();
    let inputs = json!({"type": "array", "items": tensor, "minItems": 1});
    let mut request = object(&json!({"inputs": inputs}));
    request["properties"]["id"] = text.clone();
    request["properties"]["outputs"] = json!({"type": "array", "items": output});
    request["properties"]["parameters"] = parameters;
    request["properties"]["model_name"] = json!({"const": contract.name});
    if let Some(example) = v2::example(contract.manifest) {
        request["example"] = example;
    }
    let mut answered = object(&json!({
        "name": text,
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"enum": DATATYPES},
    }));
    answered["properties"]["data"] = json!({"type": "array"});
    answered["properties"]["parameters"] = json!({"type": "object"});
    let mut answer = object(&json!({
        "model_name": text, "model_version": text, "outputs": {"type": "array", "items": answered},
    }));
    answer["properties"]["id"] = text;
    let mut responses = contract.refusals_with_400("V2Error");
    responses.insert("404".into(), failure("Another model or version"));
    let mut answered = ok(&answer);
    answered["content"]["application/octet-stream"] = json!({}); // binary tensors
    responses.insert("200".into(), answered);
    json!({"post": {
        "summary": "Predict, as the Open Inference Protocol V2 has it",
        "requestBody": {"required": true, "content": {"application/json": {"schema": request}}},
        "responses": responses,
    }})
}

/// A `GET` path. Its answers with 200 and with 503 have the same schema.
fn get(summary: &str, answer: &Value, others: &[&str]) -> Value {
    let mut responses = Map::from_iter([
        ("200".to_owned(), ok(answer)),
        ("405".to_owned(), failure("Another method")),
    ]);
    for status in others {
        let other = match *status {
            "503" => {
                json!({"description": "Not ready",
                    "content": {"application/json": {"schema": answer}}})
            }
            _ => failure("Another model or version"),
        };
        responses.insert((*status).to_owned(), other);
    }
    json!({"get": {"summary": summary, "responses": responses}})
}

fn failure(description: &str) -> Value {
    super::failure(description, "V2Error")
}
