//! JSON Schemas (2020-12, as OpenAPI 3.1 has it) of what the manifest describes.

use serde_json::{Map, Value, json};

use crate::artefact::{Dtype, Input, InputType, Kind, Limits, Manifest, Scalar, Task};

/// An object of which every property is required, and no other is allowed.
pub(super) fn object(properties: &Value) -> Value {
    let required: Vec<String> = properties
        .as_object()
        .map(|map| map.keys().cloned().collect())
        .unwrap_or_default();
    json!({"type": "object", "properties": properties, "required": required,
        "additionalProperties": false})
}

/// An answer's object: the model's name and version, and `properties`.
pub(super) fn page(mut properties: Value) -> Value {
    properties["model"] = json!({"type": "string"});
    properties["model_version"] = json!({"type": "string"});
    object(&properties)
}

/// The inputs of an instance, in order.
pub(super) fn fields(manifest: &Manifest) -> Vec<Value> {
    let limits = &manifest.limits;
    let inputs = manifest.inputs.iter();
    inputs.map(|one| input(one, limits)).collect()
}

/// One instance.
pub(super) fn instance(manifest: &Manifest) -> Value {
    let limits = &manifest.limits;
    match (manifest.kind, manifest.inputs.as_slice()) {
        (Kind::Text, [text]) => input(text, limits),
        (_, inputs) => {
            let properties: Map<String, Value> = inputs
                .iter()
                .map(|one| (one.name.clone(), input(one, limits)))
                .collect();
            let required: Vec<&str> = inputs
                .iter()
                .filter(|input| !input.nullable)
                .map(|input| input.name.as_str())
                .collect();
            json!({
                "type": "object", "properties": properties, "required": required,
                "additionalProperties": false,
            })
        }
    }
}

fn input(input: &Input, limits: &Limits) -> Value {
    let mut schema = match input.kind {
        InputType::Number => json!({"type": "number"}),
        InputType::Integer => json!({"type": "integer"}),
        InputType::Boolean => json!({"type": "boolean"}),
        // Without NUL, which no C library takes.
        InputType::String => {
            json!({"type": "string", "minLength": 1, "pattern": "^[^\\u0000]*$"})
        }
        InputType::Image => return picture(limits),
        InputType::Tensor => return tensor(input),
    };
    if input.nullable {
        schema["type"] = json!([schema["type"], "null"]);
    }
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            schema[key] = value;
        }
    };
    set("minimum", input.min.map(Value::from));
    set("maximum", input.max.map(Value::from));
    set("maxLength", input.max_length.map(Value::from));
    set("enum", allowed(input));
    set(
        "description",
        input.unit.as_ref().map(|unit| format!("in {unit}").into()),
    );
    schema
}

fn allowed(input: &Input) -> Option<Value> {
    let value = |scalar: &Scalar| match scalar {
        Scalar::Boolean(truth) => Value::from(*truth),
        Scalar::Number(number) => Value::from(*number),
        Scalar::Text(text) => Value::from(text.as_str()),
    };
    let null = input.nullable.then_some(Value::Null);
    let values: Vec<Value> = input.allowed.iter().map(value).chain(null).collect();
    (!input.allowed.is_empty()).then(|| values.into())
}

/// A file in base64.
fn picture(limits: &Limits) -> Value {
    let types = ["image/jpeg", "image/png"].map(|kind| json!({"contentMediaType": kind}));
    json!({
        "type": "string",
        "contentEncoding": "base64",
        "anyOf": types,
        "pattern": "^[A-Za-z0-9+/]+={0,2}$",
        "maxLength": limits.image_text(),
        "description": format!("A JPEG or PNG picture of at most {} bytes and {} pixels",
        limits.image_bytes(), limits.image_pixels()),
    })
}

/// Nested arrays, an array an axis.
fn tensor(input: &Input) -> Value {
    let element = match input.dtype {
        Some(Dtype::Bool) => json!({"type": "boolean"}),
        Some(Dtype::Int32 | Dtype::Int64 | Dtype::Uint8) => json!({"type": "integer"}),
        Some(Dtype::Float32 | Dtype::Float64) | None => json!({"type": "number"}),
    };
    let mut schema = element;
    let range = input.dtype.and_then(Dtype::range);
    for (key, bound) in [
        ("minimum", input.min.or(range.map(|range| range.0))),
        ("maximum", input.max.or(range.map(|range| range.1))),
    ] {
        if let Some(bound) = bound.filter(|_| input.dtype != Some(Dtype::Bool)) {
            schema[key] = bound.into();
        }
    }
    for length in input.shape.iter().flatten().rev() {
        schema = json!({"type": "array", "items": schema});
        if let Some(length) = length {
            schema["minItems"] = (*length).into();
            schema["maxItems"] = (*length).into();
        }
    }
    schema
}

/// One prediction, as [`crate::answer::Answer`] writes it.
pub(super) fn prediction(manifest: &Manifest) -> Value {
    let number = json!({"type": "number"});
    let outputs = &manifest.outputs;
    let mut properties = match manifest.task {
        Task::Classification => {
            let probability = json!({"type": "number", "minimum": 0, "maximum": 1});
            json!({
                "label": {"enum": outputs.labels},
                "probabilities": named(&outputs.labels, &probability),
            })
        }
        Task::Regression if outputs.names.is_empty() => json!({"value": number}),
        Task::Regression => json!({"values": named(&outputs.names, &number)}),
        Task::Reranking => json!({"score": number}),
        Task::SentenceEmbedding => json!({"embedding": vector(manifest)}),
        Task::Raw => {
            let length = json!({"type": "integer", "minimum": 0});
            let element = json!({"type": ["number", "boolean", "string"]});
            let array = object(&json!({
                "shape": {"type": "array", "items": length},
                "data": {"type": "array", "items": element},
            }));
            json!({"outputs": {"type": "object", "additionalProperties": array}})
        }
        Task::TextGeneration => json!({"output": {"type": "array", "items": number}}),
    };
    if matches!(manifest.kind, Kind::Text | Kind::TextPair) {
        properties["tokens"] = json!({"type": "integer"});
        properties["truncated"] = json!({"type": "boolean"});
    }
    object(&properties)
}

fn named(names: &[String], schema: &Value) -> Value {
    let properties: Map<String, Value> = names
        .iter()
        .map(|name| (name.clone(), schema.clone()))
        .collect();
    object(&properties.into())
}

/// A sentence's vector.
pub(super) fn vector(manifest: &Manifest) -> Value {
    let length = manifest.outputs.dimensions;
    json!({"type": "array", "items": {"type": "number"}, "minItems": length, "maxItems": length})
}

/// RFC 9457, with the fields of this server.
pub(super) fn problem() -> Value {
    let text = json!({"type": "string"});
    let field = object(&json!({
        "field": {"type": "string", "description": "JSON pointer into the request's body"},
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
