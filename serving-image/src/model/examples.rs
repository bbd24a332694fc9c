//! A small BERT with made-up weights, and as an artefact: for its own tests, and those of what is
//! around it.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use crate::artefact::write_manifest;

/// What a model of made-up weights has of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) hidden: usize,
    pub(crate) wide: usize,
    pub(crate) heads: usize,
    pub(crate) layers: usize,
    pub(crate) words: usize,
    pub(crate) positions: usize,
}

/// The model that is laid out as an artefact; its words are those of [`TOKENIZER`].
pub(crate) const SMALL: Sizes = Sizes {
    hidden: 16,
    wide: 32,
    heads: 2,
    layers: 1,
    words: 16,
    positions: 64,
};

/// A tokeniser of a few words, as Hugging Face writes it.
pub(crate) const TOKENIZER: &str = r###"{
  "version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [
    {"id": 0, "content": "[PAD]", "single_word": false, "lstrip": false,
     "rstrip": false, "normalized": false, "special": true},
    {"id": 1, "content": "[UNK]", "single_word": false, "lstrip": false,
     "rstrip": false, "normalized": false, "special": true},
    {"id": 2, "content": "[CLS]", "single_word": false, "lstrip": false,
     "rstrip": false, "normalized": false, "special": true},
    {"id": 3, "content": "[SEP]", "single_word": false, "lstrip": false,
     "rstrip": false, "normalized": false, "special": true},
    {"id": 4, "content": "[MASK]", "single_word": false, "lstrip": false,
     "rstrip": false, "normalized": false, "special": true}
  ],
  "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
    "strip_accents": null, "lowercase": true},
  "pre_tokenizer": {"type": "BertPreTokenizer"},
  "post_processor": {
    "type": "TemplateProcessing",
    "single": [
      {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
      {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
    "pair": [
      {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
      {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
      {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}
    ],
    "special_tokens": {
      "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
      "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}
    }
  },
  "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
  "model": {
    "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
    "vocab": {
      "[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4,
      "a": 5, "fine": 6, "film": 7, "not": 8, "bad": 9, "##ly": 10, ".": 11,
      "the": 12, "end": 13, "too": 14, "long": 15
    }
  }
}"###;

impl Sizes {
    /// Its `config.json`.
    pub(crate) fn config(&self) -> Value {
        json!({
            "hidden_size": self.hidden, "intermediate_size": self.wide,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers, "max_position_embeddings": self.positions,
            "layer_norm_eps": 1e-12,
            "hidden_act": "gelu",
        })
    }

    /// Its manifest, without files, with what is added to the network.
    pub(crate) fn manifest(
        &self,
        (kind, task): (&str, &str),
        network: Value,
        outputs: &Value,
    ) -> Value {
        let texts: &[&str] = if kind == "text" {
            &["text"]
        } else {
            &["text", "pair"]
        };
        let inputs = texts
            .iter()
            .map(|name| json!({"name": name, "type": "string"}));
        let inputs: Vec<Value> = inputs.collect();
        let mut network = network;
        network["architecture"] = json!("bert");
        network["config"] = json!("config.json");
        network["weights"] = json!("model.safetensors");
        json!({
            "schemaVersion": 1, "name": "words", "version": "1.0.0", "kind": kind, "task": task,
            "inputs": inputs,
            "preprocessing": [{"step": "tokenize", "tokenizer": "tokenizer.json",
            "maxTokens": self.positions}],
            "network": network, "outputs": outputs,
        })
    }

    /// Its weights under Hugging Face's names, with a head of that many outputs; the same at every
    /// call.
    pub(crate) fn weights(&self, outputs: usize) -> HashMap<String, Tensor> {
        let (hidden, wide) = (self.hidden, self.wide);
        let mut random = fastrand::Rng::with_seed(4);
        let mut weights = HashMap::new();
        let mut add = |name: &str, shape: &[usize], mean: f32| {
            let count = shape.iter().product();
            let numbers = std::iter::repeat_with(|| mean + 0.7 * (random.f32() - 0.5)).take(count);
            let tensor = Tensor::from_vec(numbers.collect::<Vec<_>>(), shape, &Device::Cpu);
            weights.insert(name.to_owned(), tensor.unwrap());
        };
        let embeddings = [
            ("word", self.words),
            ("position", self.positions),
            ("token_type", 2),
        ];
        for (name, rows) in embeddings {
            let name = format!("bert.embeddings.{name}_embeddings.weight");
            add(&name, &[rows, hidden], 0.0);
        }
        let mut norms = vec!["bert.embeddings.LayerNorm".to_owned()];
        let mut products = vec![
            ("bert.pooler.dense".to_owned(), hidden, hidden),
            ("classifier".to_owned(), outputs, hidden),
        ];
        for layer in 0..self.layers {
            let at = |name: &str| format!("bert.encoder.layer.{layer}.{name}");
            norms.extend(["attention.output.LayerNorm", "output.LayerNorm"].map(at));
            products.extend([
                (at("attention.self.query"), hidden, hidden),
                (at("attention.self.key"), hidden, hidden),
                (at("attention.self.value"), hidden, hidden),
                (at("attention.output.dense"), hidden, hidden),
                (at("intermediate.dense"), wide, hidden),
                (at("output.dense"), hidden, wide),
            ]);
        }
        for name in norms {
            add(&format!("{name}.weight"), &[hidden], 1.0);
            add(&format!("{name}.bias"), &[hidden], 0.0);
        }
        for (name, rows, columns) in products {
            add(&format!("{name}.weight"), &[rows, columns], 0.0);
            add(&format!("{name}.bias"), &[rows], 0.0);
        }
        weights
    }
}

/// Weights of [`SMALL`] in safetensors.
pub(crate) fn weights(outputs: usize) -> Vec<u8> {
    safetensors::serialize(&SMALL.weights(outputs), None).unwrap()
}

/// The manifest of [`SMALL`] with a classifier.
pub(crate) fn manifest(kind: &str, task: &str, outputs: &Value) -> Value {
    SMALL.manifest((kind, task), json!({"head": "classifier"}), outputs)
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
        ("config.json", SMALL.config().to_string().into_bytes()),
        ("tokenizer.json", TOKENIZER.into()),
        ("model.safetensors", weights(outputs)),
    ] {
        fs::write(directory.join(name), bytes).unwrap();
    }
    write_manifest(directory).unwrap();
}
