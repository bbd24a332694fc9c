//! Requests, field by field, and files that a model which generates text refuses.

use serde_json::{Value, json};

use crate::generation::smollm2;
use crate::support::{Server, serin_serve};

/// A field, a value that it must not have, and the fields that the answer names.
fn wrong_values() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("prompt", json!(""), "/prompt"),
        ("prompt", json!(["a", "b"]), "/prompt"),
        ("prompt", json!([1, 2]), "/prompt"),
        ("model", json!(4), "/model"),
        ("top_k", json!(-2), "/top_k"),
        ("max_tokens", json!(0), "/max_tokens"),
        ("max_tokens", json!(1.5), "/max_tokens"),
        ("max_tokens", json!(1_000_000), "/max_tokens"),
        ("temperature", json!(-0.1), "/temperature"),
        ("temperature", json!("hot"), "/temperature"),
        ("top_p", json!(0), "/top_p"),
        ("top_p", json!(1.1), "/top_p"),
        ("seed", json!("seven"), "/seed"),
        ("stop", json!([]), "/stop"),
        ("stop", json!(["a", "b", "c", "d", "e"]), "/stop"),
        ("stop", json!(["a", ""]), "/stop"),
        ("stop", json!(7), "/stop"),
        ("frequency_penalty", json!(3), "/frequency_penalty"),
        ("presence_penalty", json!(-3), "/presence_penalty"),
        ("stream", json!("yes"), "/stream"),
        (
            "stream_options",
            json!({"include_usage": true}),
            "/stream_options",
        ),
        ("n", json!(2), "/n"),
        ("best_of", json!(2), "/best_of"),
        ("echo", json!(true), "/echo"),
        ("suffix", json!("!"), "/suffix"),
        ("logprobs", json!(3), "/logprobs"),
        ("logit_bias", json!({"5": 1}), "/logit_bias"),
        ("tools", json!([]), "/tools"),
    ]
}

#[test]
fn each_wrong_field_is_named_and_no_value_is_repeated() {
    let Some(directory) = smollm2() else { return };
    let server = Server::start(&directory, &[]);
    let mut all = json!({"prompt": "secret"});
    for (name, value, pointer) in wrong_values() {
        let mut body = json!({"prompt": "secret", "max_tokens": 1});
        body[name] = value.clone();
        all[name] = value;
        let response = server.post("/v1/completions", &body);
        assert_eq!(response.status, 400, "{body}");
        let errors = response.json()["errors"].clone();
        assert_eq!(errors[0]["field"], pointer, "{errors}");
        assert_eq!(errors.as_array().unwrap().len(), 1, "{errors}");
        assert!(!response.text().contains("secret"));
    }
    let errors = server.post("/v1/completions", &all).json()["errors"].clone();
    let mut named: Vec<String> = errors
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["field"].as_str().unwrap().to_owned())
        .collect();
    named.sort_unstable();
    let mut expected: Vec<&str> = wrong_values()
        .iter()
        .map(|(_, _, pointer)| *pointer)
        .collect();
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(named, expected, "all at once");
}

#[test]
fn a_conversation_is_held_to_its_form() {
    let Some(directory) = smollm2() else { return };
    let server = Server::start(&directory, &[]);
    let user = json!({"role": "user", "content": "Hi"});
    for (messages, pointer) in [
        (json!([]), "/messages"),
        (json!("Hi"), "/messages"),
        (json!([user, "Hi"]), "/messages/1"),
        (
            json!([{"role": "tool", "content": "Hi"}]),
            "/messages/0/role",
        ),
        (json!([{"role": "user"}]), "/messages/0/content"),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            "/messages/0/content",
        ),
        (
            json!([{"role": "user", "content": "Hi", "tool_calls": [{}]}]),
            "/messages/0/tool_calls",
        ),
    ] {
        let response = server.post("/v1/chat/completions", &json!({"messages": messages}));
        assert_eq!(response.status, 400, "{messages}");
        assert_eq!(response.json()["errors"][0]["field"], pointer);
    }
    let both = json!({"messages": [user], "max_tokens": 5, "max_completion_tokens": 5});
    let response = server.post("/v1/chat/completions", &both);
    assert_eq!(response.json()["errors"][0]["field"], "/max_tokens");
    let probabilities = json!({"messages": [user], "logprobs": true, "top_logprobs": 2});
    let errors = server.post("/v1/chat/completions", &probabilities).json()["errors"].clone();
    assert_eq!(
        (&errors[0]["field"], &errors[1]["field"]),
        (&json!("/logprobs"), &json!("/top_logprobs"))
    );
}

#[test]
fn prompt_and_answer_must_fit_the_context() {
    let Some(directory) = smollm2() else { return };
    // 8 MiB hold 182 positions of 30 layers × 2 × 192 floats.
    let server = Server::start(&directory, &["--generation-cache-mib", "8"]);
    let words = |count: usize| vec!["word"; count].join(" ");
    let long = server.post(
        "/v1/completions",
        &json!({"prompt": words(500), "max_tokens": 5}),
    );
    assert_eq!(
        (long.status, &long.json()["errors"][0]["field"]),
        (400, &json!("/prompt"))
    );
    let fits = json!({"prompt": words(100), "max_tokens": 80});
    assert_eq!(server.post("/v1/completions", &fits).status, 200);
    let too_much = server.post(
        "/v1/completions",
        &json!({"prompt": words(100), "max_tokens": 100}),
    );
    let problem = too_much.json();
    assert_eq!(
        (too_much.status, &problem["errors"][0]["field"]),
        (400, &json!("/max_tokens"))
    );
    let expected = problem["errors"][0]["expected"].as_str().unwrap();
    assert!(expected.starts_with("at most 82:"), "{expected}");
}

#[test]
fn a_file_that_is_no_gguf_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let manifest = json!({
        "schemaVersion": 1, "name": "m", "version": "1", "kind": "generation",
        "task": "text-generation",
        "inputs": [], "preprocessing": [], "network": {"architecture": "gguf",
        "weights": "m.gguf"}, "outputs": {},
    });
    std::fs::write(
        directory.path().join("serin-model.json"),
        manifest.to_string(),
    )
    .unwrap();
    let path = directory.path().to_str().unwrap();
    let endless = [b"GGUF\x03\0\0\0".as_slice(), &[0xff; 64]].concat();
    for (bytes, reason) in [
        (b"not a model".as_slice(), "no GGUF file"),
        (b"GGUF\x03\0\0\0", "longer than the file"),
        (&endless, "tensors are too many"),
    ] {
        std::fs::write(directory.path().join("m.gguf"), bytes).unwrap();
        assert!(
            serin_serve(&["manifest", path])
                .output()
                .unwrap()
                .status
                .success()
        );
        let output = serin_serve(&["check", path]).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(
            !output.status.success() && printed.contains(reason),
            "{printed}"
        );
    }
}
