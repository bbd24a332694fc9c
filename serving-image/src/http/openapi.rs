//! `/openapi.json`, generated from the manifest: the contract that requests are held to, for people and clients.

use serde_json::{Map, Value, json};

use crate::artefact::{Input, InputType, Kind, Manifest, Task};

/// The OpenAPI 3.1 document of a model served as `name`, `version`.
pub(super) fn document(manifest: &Manifest, name: &str, version: &str, max_body: usize) -> Value {
    let mut paths = Map::new();
    let prediction = match manifest.task {
        Task::Classification => class_schema(manifest),
        _ => vector_schema(manifest),
    };
    let predict_request = object(&json!({
        "instances": {
            "type": "array", "items": instance_schema(manifest),
            "minItems": 1, "maxItems": manifest.limits.max_instances,
        }
    }));
    let predict_answer = answer(json!({"predictions": {"type": "array", "items": prediction}}));
    paths.insert(
        "/predict".into(),
        post("Predict", &predict_request, &predict_answer, max_body),
    );
    if manifest.kind == Kind::Text {
        paths.insert(
            "/v1/embeddings".into(),
            openai_path(manifest, name, max_body),
        );
    }
    for (path, summary, content) in [
        ("/livez", "Whether the process lives", "text/plain"),
        ("/readyz", "Whether predictions are answered", "text/plain"),
        (
            "/metrics",
            "Series for Prometheus",
            crate::metrics::CONTENT_TYPE,
        ),
        (
            "/version",
            "What is served, by name, version and digest",
            "application/json",
        ),
        ("/openapi.json", "This document", "application/json"),
    ] {
        let mut get = json!({
            "summary": summary,
            "responses": {"200": {"description": "OK", "content": {content: {}}}},
        });
        if path == "/readyz" {
            get["responses"]["503"] = problem("Loading or draining");
        }
        paths.insert(path.into(), json!({"get": get}));
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": name, "version": version, "description": manifest.description},
        "paths": paths,
        "components": {"schemas": {"Problem": problem_schema()}},
    })
}

fn openai_path(manifest: &Manifest, name: &str, max_body: usize) -> Value {
    let text = instance_schema(manifest);
    let mut request = object(&json!({
        "input": {"oneOf": [
            text,
            {"type": "array", "items": text, "minItems": 1, "maxItems": manifest.limits.max_instances},
        ]}
    }));
    request["properties"]["model"] = json!({"const": name});
    request["properties"]["dimensions"] = json!({"const": manifest.outputs.dimensions});
    request["properties"]["encoding_format"] =
        json!({"enum": ["float", "base64"], "default": "float"});
    request["properties"]["user"] = json!({"type": "string", "description": "Ignored"});
    let datum = object(&json!({
        "object": {"const": "embedding"},
        "index": {"type": "integer"},
        "embedding": {"oneOf": [vector(manifest), {"type": "string", "contentEncoding": "base64"}]},
    }));
    let count = json!({"type": "integer"});
    let answer = answer(json!({
        "object": {"const": "list"},
        "data": {"type": "array", "items": datum},
        "usage": object(&json!({"prompt_tokens": count, "total_tokens": count})),
    }));
    post("Embed, as OpenAI's API does", &request, &answer, max_body)
}

fn post(summary: &str, request: &Value, answer: &Value, max_body: usize) -> Value {
    let ok = json!({
        "description": "OK",
        "headers": {
            "x-model-name": {"schema": {"type": "string"}},
            "x-model-version": {"schema": {"type": "string"}},
            "x-request-id": {"schema": {"type": "string"}},
        },
        "content": {"application/json": {"schema": answer}},
    });
    json!({"post": {
        "summary": summary,
        "requestBody": {"required": true, "content": {"application/json": {"schema": request}}},
        "responses": {
            "200": ok,
            "400": problem("Not JSON"),
            "408": problem("The body came too slowly"),
            "413": problem(&format!("A body of more than {max_body} bytes")),
            "415": problem("Not application/json"),
            "422": problem("Fields that are not as expected, all of them"),
            "429": problem("Overloaded; try again later"),
            "500": problem("The prediction failed"),
            "503": problem("Loading"),
        },
    }})
}

/// An object of which every property is required, and no other is allowed.
fn object(properties: &Value) -> Value {
    let required: Vec<String> = properties
        .as_object()
        .map(|map| map.keys().cloned().collect())
        .unwrap_or_default();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// An answer's object: the model's name and version, and `properties`.
fn answer(mut properties: Value) -> Value {
    properties["model"] = json!({"type": "string"});
    properties["model_version"] = json!({"type": "string"});
    object(&properties)
}

fn instance_schema(manifest: &Manifest) -> Value {
    match (manifest.kind, manifest.inputs.as_slice()) {
        (Kind::Text, [text]) => input_schema(text),
        (_, inputs) => {
            let properties: Map<String, Value> = inputs
                .iter()
                .map(|input| (input.name.clone(), input_schema(input)))
                .collect();
            let required: Vec<&str> = inputs
                .iter()
                .filter(|input| !input.nullable)
                .map(|input| input.name.as_str())
                .collect();
            json!({
                "type": "object", "properties": properties, "required": required, "additionalProperties": false,
            })
        }
    }
}

fn input_schema(input: &Input) -> Value {
    let kind = match input.kind {
        InputType::Number => "number",
        InputType::Integer => "integer",
        InputType::Boolean => "boolean",
        InputType::String => "string",
        InputType::Tensor => "array",
    };
    let mut schema = if input.nullable {
        json!({"type": [kind, "null"]})
    } else {
        json!({"type": kind})
    };
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            schema[key] = value;
        }
    };
    set("minimum", input.min.map(Value::from));
    set("maximum", input.max.map(Value::from));
    set(
        "minLength",
        (input.kind == InputType::String).then(|| 1.into()),
    );
    set("maxLength", input.max_length.map(Value::from));
    set(
        "description",
        input.unit.as_ref().map(|unit| format!("in {unit}").into()),
    );
    schema
}

fn class_schema(manifest: &Manifest) -> Value {
    let labels = &manifest.outputs.labels;
    let probability = json!({"type": "number", "minimum": 0, "maximum": 1});
    let probabilities: Map<String, Value> = labels
        .iter()
        .map(|label| (label.clone(), probability.clone()))
        .collect();
    object(&json!({"label": {"enum": labels}, "probabilities": object(&probabilities.into())}))
}

fn vector_schema(manifest: &Manifest) -> Value {
    object(&json!({
        "embedding": vector(manifest),
        "tokens": {"type": "integer"},
        "truncated": {"type": "boolean"},
    }))
}

fn vector(manifest: &Manifest) -> Value {
    let length = manifest.outputs.dimensions;
    json!({"type": "array", "items": {"type": "number"}, "minItems": length, "maxItems": length})
}

fn problem(description: &str) -> Value {
    json!({
        "description": description,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    })
}

/// RFC 9457, with what is ours.
fn problem_schema() -> Value {
    let text = json!({"type": "string"});
    let field = object(&json!({
        "field": {"type": "string", "format": "json-pointer"},
        "expected": text,
    }));
    let mut schema = object(&json!({
        "type": {"type": "string", "format": "uri"},
        "title": text,
        "status": {"type": "integer"},
        "detail": text,
        "model": text,
        "model_version": text,
        "request_id": text,
    }));
    schema["properties"]["errors"] = json!({"type": "array", "items": field});
    schema["properties"]["errors_total"] = json!({"type": "integer"});
    schema
}
