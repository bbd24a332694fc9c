//! The paths of a model that writes: OpenAI's, with the fields that this server takes.

use serde_json::{Map, Value, json};

use super::Contract;
use super::schema::{object, page};
use crate::http::generate::{IGNORED, IGNORED_OF_COMPLETIONS};

/// `/v1/completions` and `/v1/chat/completions`.
pub(super) fn paths(contract: &Contract) -> Map<String, Value> {
    [
        ("/v1/completions".to_owned(), completions(contract)),
        ("/v1/chat/completions".to_owned(), chat(contract)),
    ]
    .into_iter()
    .collect()
}

fn completions(contract: &Contract) -> Value {
    let prompt = json!({"type": "string", "minLength": 1});
    let one_prompt = json!({"type": "array", "items": prompt, "minItems": 1, "maxItems": 1});
    let mut request = object(&json!({"prompt": {"oneOf": [prompt, one_prompt]}}));
    add_fields(&mut request, contract, &["max_tokens"]);
    for (name, schema) in [
        ("logprobs", json!({"type": "null"})),
        ("best_of", json!({"enum": [1, null]})),
        ("echo", json!({"enum": [false, null]})),
        ("suffix", json!({"type": "null"})),
    ] {
        request["properties"][name] = schema;
    }
    for name in &IGNORED[..IGNORED_OF_COMPLETIONS] {
        request["properties"][name] = json!({"description": "Ignored"});
    }
    tell_length(&mut request, contract, "prompt");
    if let Some(golden) = contract.manifest.golden.first() {
        request["example"] = json!({"prompt": golden.instance, "max_tokens": 8, "temperature": 0});
    }
    let choice = choice("text", &json!({"type": "string"}));
    let path = contract.post_openai(
        "Complete a text",
        &request,
        &answer("text_completion", &choice),
    );
    with_stream(path)
}

fn chat(contract: &Contract) -> Value {
    let text = json!({"type": "string"});
    let part = object(&json!({"type": {"const": "text"}, "text": text}));
    let parts = json!({"type": "array", "items": part, "minItems": 1});
    let mut message = object(&json!({
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {"oneOf": [text, parts]},
    }));
    let nothing = json!({"type": "null"});
    let no_list = json!({"type": ["array", "null"], "maxItems": 0});
    for (name, schema) in [
        (
            "name",
            json!({"type": ["string", "null"], "description": "Ignored"}),
        ),
        ("refusal", nothing.clone()),
        ("audio", nothing.clone()),
        ("function_call", nothing),
        ("annotations", no_list.clone()),
        ("tool_calls", no_list.clone()),
    ] {
        message["properties"][name] = schema;
    }
    let mut request = object(&json!({
        "messages": {"type": "array", "items": message, "minItems": 1, "maxItems": 1024}
    }));
    add_fields(
        &mut request,
        contract,
        &["max_tokens", "max_completion_tokens"],
    );
    tell_length(&mut request, contract, "messages");
    request["not"] = json!({
        "properties": {"max_tokens": {"type": "integer"}},
        "required": ["max_tokens", "max_completion_tokens"],
    });
    for (name, schema) in [
        ("logprobs", json!({"enum": [false, null]})),
        ("top_logprobs", json!({"type": "null"})),
        ("response_format", json!({"enum": [{"type": "text"}, null]})),
        ("chat_template_kwargs", json!({"type": ["object", "null"]})),
        ("tools", no_list),
        ("tool_choice", json!({"enum": ["none", "auto", null]})),
        ("modalities", json!({"enum": [["text"], null]})),
    ] {
        request["properties"][name] = schema;
    }
    for name in IGNORED {
        request["properties"][name] = json!({"description": "Ignored"});
    }
    request["example"] =
        json!({"messages": [{"role": "user", "content": "What is 2 + 2?"}], "max_tokens": 16});
    let message = object(&json!({
        "role": {"const": "assistant"}, "content": text, "refusal": {"type": "null"},
    }));
    let choice = choice("message", &message);
    let path = contract.post_openai(
        "Answer in a conversation",
        &request,
        &answer("chat.completion", &choice),
    );
    with_stream(path)
}

/// Says in words what a schema has no words for: how many tokens the model reads.
fn tell_length(request: &mut Value, contract: &Contract, field: &str) {
    if let Some(most) = contract.manifest.limits.max_prompt_tokens {
        request["properties"][field]["description"] = format!("At most {most} tokens").into();
    }
}

/// The fields of both endpoints, each optional.
fn add_fields(request: &mut Value, contract: &Contract, lengths: &[&str]) {
    let penalty = json!({"type": ["number", "null"], "minimum": -2, "maximum": 2, "default": 0});
    let stop = json!({"type": "string", "minLength": 1, "maxLength": 256});
    let options = json!({
        "type": ["object", "null"], "properties": {"include_usage": {"type": ["boolean", "null"]}},
        "additionalProperties": false, "description": "Only where stream is true",
    });
    let mut fields = json!({
        "model": {"enum": [contract.name, null]},
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2, "default": 1},
        "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1, "default": 1},
        "top_k": {"type": ["integer", "null"], "minimum": -1, "maximum": i64::MAX},
        "seed": {"type": ["integer", "null"], "minimum": i64::MIN, "maximum": i64::MAX},
        "stop": {"oneOf": [stop, {"type": "array", "items": stop, "minItems": 1, "maxItems": 4},
        {"type": "null"}]},
        "frequency_penalty": penalty,
        "presence_penalty": penalty,
        "stream": {"type": ["boolean", "null"], "default": false},
        "stream_options": options,
        "n": {"enum": [1, null]},
        "logit_bias": {"type": ["object", "null"], "maxProperties": 0},
    });
    let most = contract.manifest.limits.max_tokens;
    for name in lengths {
        fields[*name] = json!({"type": ["integer", "null"], "minimum": 1});
        if let Some(most) = most {
            fields[*name]["maximum"] = most.into();
        }
    }
    if let (Value::Object(own), Value::Object(fields)) = (&mut request["properties"], fields) {
        own.extend(fields);
    }
    request["anyOf"] = json!([
        {"properties": {"stream_options": {"type": "null"}}},
        {"properties": {"stream": {"const": true}}, "required": ["stream"]},
    ]);
}

fn choice(name: &str, content: &Value) -> Value {
    object(&json!({
        "index": {"const": 0},
        name: content,
        "logprobs": {"type": "null"},
        "finish_reason": {"enum": ["stop", "length"]},
    }))
}

fn answer(kind: &str, choice: &Value) -> Value {
    let count = json!({"type": "integer", "minimum": 0});
    page(json!({
        "id": {"type": "string"},
        "object": {"const": kind},
        "created": count,
        "choices": {"type": "array", "items": choice, "minItems": 1, "maxItems": 1},
        "usage": object(&json!({
            "prompt_tokens": count, "completion_tokens": count, "total_tokens": count,
        })),
    }))
}

/// The other form of the same answer: a stream, of which the schema describes each event.
fn with_stream(mut path: Value) -> Value {
    let description =
        "With stream: one event for each piece of the text, then one whose data is [DONE]";
    path["post"]["responses"]["200"]["headers"]["x-ignored-fields"] =
        json!({"schema": {"type": "string"}, "description": "Fields that changed nothing"});
    path["post"]["responses"]["200"]["content"]["text/event-stream"] = json!({"schema": {
        "type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"],
        "description": description,
    }});
    path
}
