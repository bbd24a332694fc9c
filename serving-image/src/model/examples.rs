//! A BERT of one layer with made-up weights, as an artefact: for tests of what is around it.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use crate::artefact::write_manifest;

const HIDDEN: usize = 16;
const WIDE: usize = 32;
const POSITIONS: usize = 64;
/// Tokens of [`TOKENIZER`].
const WORDS: usize = 16;

/// A tokeniser of a few words, as Hugging Face writes it.
pub(crate) const TOKENIZER: &str = r###"{
  "version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [
    {"id": 0, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 1, "content": "[UNK]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 2, "content": "[CLS]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 3, "content": "[SEP]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 4, "content": "[MASK]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
  ],
  "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
  "pre_tokenizer": {"type": "BertPreTokenizer"},
  "post_processor": {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
    "pair": [
      {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
      {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}
    ],
    "special_tokens": {
      "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}, "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}
    }
  },
  "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
  "model": {
    "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
    "vocab": {
      "[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4,
      "a": 5, "fine": 6, "film": 7, "not": 8, "bad": 9, "##ly": 10, ".": 11, "the": 12, "end": 13, "too": 14, "long": 15
    }
  }
}"###;

/// Its `config.json`.
pub(crate) fn config() -> Value {
    json!({
        "hidden_size": HIDDEN, "intermediate_size": WIDE, "num_attention_heads": 2, "num_hidden_layers": 1,
        "max_position_embeddings": POSITIONS, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
    })
}

/// Its manifest, without files.
pub(crate) fn manifest(kind: &str, task: &str, outputs: &Value) -> Value {
    let texts: &[&str] = if kind == "text" {
        &["text"]
    } else {
        &["text", "pair"]
    };
    let inputs = texts
        .iter()
        .map(|name| json!({"name": name, "type": "string"}));
    let inputs: Vec<Value> = inputs.collect();
    json!({
        "schemaVersion": 1, "name": "words", "version": "1.0.0", "kind": kind, "task": task, "inputs": inputs,
        "preprocessing": [{"step": "tokenize", "tokenizer": "tokenizer.json", "maxTokens": POSITIONS}],
        "network": {
            "architecture": "bert", "config": "config.json", "weights": "model.safetensors", "head": "classifier",
        },
        "outputs": outputs,
    })
}

/// Its weights under Hugging Face's names, with a head of that many outputs, in safetensors; the same at every call.
pub(crate) fn weights(outputs: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(4);
    let mut weights = HashMap::new();
    let mut add = |name: &str, shape: &[usize], mean: f32| {
        let count = shape.iter().product();
        let numbers = std::iter::repeat_with(|| mean + random.f32() - 0.5).take(count);
        let tensor = Tensor::from_vec(numbers.collect::<Vec<_>>(), shape, &Device::Cpu);
        weights.insert(name.to_owned(), tensor.unwrap());
    };
    for (name, rows) in [("word", WORDS), ("position", POSITIONS), ("token_type", 2)] {
        let name = format!("bert.embeddings.{name}_embeddings.weight");
        add(&name, &[rows, HIDDEN], 0.0);
    }
    let layer = "bert.encoder.layer.0";
    for (name, rows, columns) in [
        ("attention.self.query", HIDDEN, HIDDEN),
        ("attention.self.key", HIDDEN, HIDDEN),
        ("attention.self.value", HIDDEN, HIDDEN),
        ("attention.output.dense", HIDDEN, HIDDEN),
        ("intermediate.dense", WIDE, HIDDEN),
        ("output.dense", HIDDEN, WIDE),
    ] {
        add(&format!("{layer}.{name}.weight"), &[rows, columns], 0.0);
        add(&format!("{layer}.{name}.bias"), &[rows], 0.0);
    }
    for name in [
        "bert.embeddings.LayerNorm".to_owned(),
        format!("{layer}.attention.output.LayerNorm"),
        format!("{layer}.output.LayerNorm"),
    ] {
        add(&format!("{name}.weight"), &[HIDDEN], 1.0);
        add(&format!("{name}.bias"), &[HIDDEN], 0.0);
    }
    add("bert.pooler.dense.weight", &[HIDDEN, HIDDEN], 0.0);
    add("bert.pooler.dense.bias", &[HIDDEN], 0.0);
    add("classifier.weight", &[outputs, HIDDEN], 0.0);
    add("classifier.bias", &[outputs], 0.0);
    safetensors::serialize(&weights, None).unwrap()
}

/// Lays a classifier of texts with the labels `bad` and `fine` into a directory.
pub(crate) fn write_classifier(directory: &Path, background: Value) {
    let mut manifest = manifest(
        "text",
        "classification",
        &json!({"labels": ["bad", "fine"]}),
    );
    manifest["background"] = background;
    write(directory, &manifest, 2);
}

/// Lays a reranker of pairs of texts into a directory.
pub(crate) fn write_reranker(directory: &Path, background: Value) {
    let mut manifest = manifest("text-pair", "reranking", &json!({}));
    manifest["background"] = background;
    write(directory, &manifest, 1);
}

fn write(directory: &Path, manifest: &Value, outputs: usize) {
    for (name, bytes) in [
        ("serin-model.json", manifest.to_string().into_bytes()),
        ("config.json", config().to_string().into_bytes()),
        ("tokenizer.json", TOKENIZER.into()),
        ("model.safetensors", weights(outputs)),
    ] {
        fs::write(directory.join(name), bytes).unwrap();
    }
    write_manifest(directory).unwrap();
}
