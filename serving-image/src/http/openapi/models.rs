//! The paths that OpenAI's clients and those of KServe's V1 protocol ask about the model, and V1's
//! predictions.

use serde_json::{Map, Value, json};

use super::schema::{self, object, page};
use super::{Contract, failure, ok};
use crate::artefact::Kind;

/// The schema of an error of OpenAI's paths.
pub(super) fn error() -> Value {
    let text = json!({"type": "string"});
    let error = object(&json!({
        "message": text, "type": text, "param": {"type": ["string", "null"]}, "code": text,
    }));
    let mut body = object(&json!({"error": error, "request_id": text}));
    let field = object(&json!({"field": text, "expected": text}));
    body["properties"]["errors"] = json!({"type": "array", "items": field});
    body
}

/// `/v1/models` and the model below it.
pub(super) fn paths(contract: &Contract) -> Map<String, Value> {
    let text = json!({"type": "string"});
    let model = object(&json!({
        "id": {"const": contract.name}, "object": {"const": "model"},
        "created": {"type": "integer"}, "owned_by": text, "name": {"const": contract.name},
        "ready": {"type": "boolean"}, "model_version": text,
    }));
    let list = object(&json!({
        "object": {"const": "list"},
        "data": {"type": "array", "items": model, "minItems": 1, "maxItems": 1},
        "models": {"type": "array", "items": text},
    }));
    let not = failure("Another method", "OpenAiError");
    let list = json!({"get": {
        "summary": "The served model, in a list of one",
        "responses": {"200": ok(&list), "405": not},
    }});
    let loading = json!({
        "description": "Not ready", "content": {"application/json": {"schema": model}},
    });
    let name = json!({"type": "string", "enum": [contract.name]});
    let one = json!({
        "parameters": [{"name": "model", "in": "path", "required": true, "schema": name}],
        "get": {
            "summary": "The served model",
            "responses": {
                "200": ok(&model), "404": failure("Another model", "OpenAiError"), "405": not,
                "503": loading,
            },
        },
    });
    let alive = object(&json!({"status": {"const": "alive"}}));
    let alive = json!({"get": {
        "summary": "Whether it lives, as KServe's V1 protocol asks",
        "responses": {"200": ok(&alive), "405": super::problem("Another method")},
    }});
    Map::from_iter([
        ("/".to_owned(), alive),
        ("/v1/models".to_owned(), list),
        ("/v1/models/{model}".to_owned(), one),
    ])
}

/// `/v1/models/NAME:predict`.
pub(super) fn predict(contract: &Contract) -> Value {
    let manifest = contract.manifest;
    let mut item = schema::instance(manifest);
    if manifest.kind == Kind::Tabular {
        let count = manifest.inputs.len();
        let row = json!({"type": "array", "minItems": count, "maxItems": count,
            "prefixItems": schema::fields(manifest), "items": false});
        item = json!({"oneOf": [item, row]});
    }
    let request = object(&json!({
        "instances": {
            "type": "array", "items": item, "minItems": 1,
            "maxItems": manifest.limits.max_instances,
        }
    }));
    let predictions = json!({"type": "array", "items": schema::prediction(manifest)});
    let answer = page(json!({"predictions": predictions}));
    let answers = contract.refusals_with_400("V2Error");
    Contract::post_with(
        "Predict, as KServe's V1 protocol has it",
        &request,
        &answer,
        answers,
    )
}
