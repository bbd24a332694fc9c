//! Against plain candle operations, on random weights: any lengths, any number of threads, each
//! head.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use candle_nn::ops::{sigmoid, softmax_last_dim};
use serde_json::{Value, json};

use super::reference::Reference;
use super::{Bert, Config, chunks};
use crate::artefact::Manifest;
use crate::model::examples::Sizes;
use crate::preprocess::Tokens;

const SIZES: Sizes = Sizes {
    hidden: 48,
    wide: 200, // more than one slice of the wide layer, and the last is not full
    heads: 3,
    layers: 2,
    words: 50,
    positions: 160,
};

/// The configuration with a change.
fn config(name: &str, value: impl Into<Value>) -> Config {
    let mut config = SIZES.config();
    config[name] = value.into();
    serde_json::from_value(config).unwrap()
}

fn sound() -> Config {
    config("model_type", "bert")
}

fn manifest(kind: &str, task: &str, network: Value, outputs: &Value) -> Manifest {
    let manifest = SIZES.manifest((kind, task), network, outputs);
    Manifest::parse(manifest.to_string().as_bytes()).unwrap()
}

fn text(length: usize, types: bool) -> Tokens {
    Tokens {
        ids: (0..length)
            .map(|token| (token * 31 + length) as u32 % SIZES.words as u32)
            .collect(),
        types: if types {
            (0..length)
                .map(|token| u32::from(token > length / 2))
                .collect()
        } else {
            Vec::new()
        },
        truncated: false,
    }
}

fn assert_close(found: &[f32], expected: &Tensor) {
    let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!(
            (found - expected).abs() < 1e-5,
            "{found} instead of {expected}"
        );
    }
}

/// Loads both, predicts texts of many lengths with 1 to 5 threads, and compares with `answer` of
/// the plain encoder's output.
fn compare(
    manifest: &Manifest,
    outputs: usize,
    types: bool,
    answer: impl Fn(&HashMap<String, Tensor>, Tensor) -> Tensor,
) {
    let weights = SIZES.weights(outputs);
    let bert = Bert::load(&weights, &sound(), manifest).unwrap();
    let reference = Reference::load(&weights, &sound()).unwrap();
    let lengths = [1, 2, 16, 17, 47, 48, 49, 96, 100, 144, 145, 160, 3, 3, 3];
    let texts: Vec<Tokens> = lengths
        .into_iter()
        .map(|length| text(length, types))
        .collect();
    let expected: Vec<Tensor> = texts
        .iter()
        .map(|text| answer(&weights, reference.encode(text).unwrap()))
        .collect();
    for threads in 1..=5 {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        for count in [1, 3, texts.len()] {
            let predictions = pool.install(|| bert.predict(&texts[..count])).unwrap();
            assert_eq!(predictions.len(), count);
            for (index, prediction) in predictions.iter().enumerate() {
                assert_eq!(prediction.tokens, lengths[index]);
                assert_close(&prediction.output, &expected[index]);
            }
        }
    }
}

fn unit(vector: &Tensor) -> Tensor {
    let length = vector.sqr().unwrap().sum_all().unwrap().sqrt().unwrap();
    vector.broadcast_div(&length).unwrap()
}

/// The classifier's logits, of the first token's vector.
fn logits(weights: &HashMap<String, Tensor>, hidden: &Tensor) -> Tensor {
    let dense = |x: &Tensor, name: &str| {
        let weight = weights[&format!("{name}.weight")].t().unwrap();
        x.matmul(&weight)
            .unwrap()
            .broadcast_add(&weights[&format!("{name}.bias")])
            .unwrap()
    };
    let first = hidden.narrow(0, 0, 1).unwrap();
    dense(
        &dense(&first, "bert.pooler.dense").tanh().unwrap(),
        "classifier",
    )
}

#[test]
fn embeddings_are_those_of_plain_operations() {
    for pooling in ["mean", "cls"] {
        let manifest = manifest(
            "text",
            "sentence-embedding",
            json!({"pooling": pooling}),
            &json!({"dimensions": SIZES.hidden}),
        );
        compare(&manifest, 2, false, |_, hidden| {
            unit(&if pooling == "mean" {
                hidden.mean(0).unwrap()
            } else {
                hidden.get(0).unwrap()
            })
        });
    }
}

#[test]
fn a_classifier_gives_the_probabilities_of_its_labels() {
    let manifest = manifest(
        "text",
        "classification",
        json!({"head": "classifier"}),
        &json!({"labels": ["a", "b", "c"]}),
    );
    compare(&manifest, 3, false, |weights, hidden| {
        softmax_last_dim(&logits(weights, &hidden)).unwrap()
    });
}

#[test]
fn a_reranker_gives_one_number_for_a_pair() {
    let manifest = manifest(
        "text-pair",
        "reranking",
        json!({"head": "classifier"}),
        &json!({}),
    );
    compare(&manifest, 1, true, |weights, hidden| {
        sigmoid(&logits(weights, &hidden)).unwrap()
    });
}

#[test]
fn tokens_and_positions_that_the_model_lacks_are_errors() {
    let manifest = manifest(
        "text",
        "sentence-embedding",
        json!({}),
        &json!({"dimensions": SIZES.hidden}),
    );
    let bert = Bert::load(&SIZES.weights(2), &sound(), &manifest).unwrap();
    let error = bert
        .predict(&[text(SIZES.positions + 1, false)])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("position 160 is not among the 160"),
        "{error}"
    );
    let mut wrong = text(3, false);
    wrong.ids[1] = SIZES.words as u32;
    let error = bert.predict(&[wrong]).unwrap_err().to_string();
    assert!(error.contains("token 50 is not among the 50"), "{error}");
}

#[test]
fn what_does_not_fit_the_configuration_is_named() {
    let embeds = manifest(
        "text",
        "sentence-embedding",
        json!({}),
        &json!({"dimensions": SIZES.hidden}),
    );
    let mut narrow = SIZES.weights(2);
    narrow.insert(
        "bert.encoder.layer.1.output.dense.weight".into(),
        Tensor::zeros((SIZES.hidden, 8), candle_core::DType::F32, &Device::Cpu).unwrap(),
    );
    let error = Bert::load(&narrow, &sound(), &embeds)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("encoder.layer.1.output.dense.weight is [48, 8]"),
        "{error}"
    );

    let classifies = manifest(
        "text",
        "classification",
        json!({"head": "classifier"}),
        &json!({"labels": ["a", "b"]}),
    );
    let error = Bert::load(&SIZES.weights(3), &sound(), &classifies)
        .unwrap_err()
        .to_string();
    assert!(error.contains("want 2 × 48"), "{error}");

    for (name, value) in [
        ("intermediate_size", json!(100)),
        ("model_type", json!("electra")),
        ("position_embedding_type", json!("relative_key")),
    ] {
        let error = Bert::load(&SIZES.weights(2), &config(name, value.clone()), &embeds)
            .unwrap_err()
            .to_string();
        let expected = format!("{name} is {}", value.to_string().trim_matches('"'));
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn chunks_hold_every_text_once_and_few_tokens() {
    for (lengths, threads, expected) in [
        (vec![16; 32], 2, 4),   // 512 tokens: 128 each, a multiple of the threads
        (vec![128; 32], 2, 32), // two would be too long
        (vec![16], 8, 1),
        (vec![500, 1, 1], 2, 2), // the long one alone
        (vec![], 2, 0),
    ] {
        let texts: Vec<Tokens> = lengths.iter().map(|length| text(*length, false)).collect();
        let chunks = chunks(&texts, threads);
        assert_eq!(chunks.len(), expected, "{lengths:?}");
        let together: Vec<usize> = chunks.into_iter().flatten().collect();
        assert_eq!(together, (0..texts.len()).collect::<Vec<_>>());
    }
}
