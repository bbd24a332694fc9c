//! Random and damaged files and requests: an error, never a panic, and memory bounded by the size
//! of the input.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::examples::{self, SMALL, TOKENIZER};
use crate::artefact::{Artefact, Manifest, write_manifest};
use crate::fuzzing::{bounded, cases, damage, json, replace};
use crate::preprocess::{Location, Preprocessor};

/// Sound manifests of tables and tensors, of every step.
const MANIFESTS: [&str; 5] = [
    include_str!("../../../examples/models/iris/2.0.0/serin-model.json"),
    include_str!("../../tests/models/passengers-logistic/serin-model.json"),
    include_str!("../../tests/models/passengers-forest/serin-model.json"),
    include_str!("../../models/text-direction/serin-model.json"),
    include_str!("../../models/text-direction-pictures/serin-model.json"),
];

const WEIGHTS: &[u8] = include_bytes!("../../../examples/models/iris/2.0.0/model.safetensors");

fn manifest(which: usize) -> Value {
    let mut manifest: Value = serde_json::from_str(MANIFESTS[which]).unwrap();
    manifest["golden"] = json!([]);
    manifest
}

/// `config.json`, weights, tokeniser and manifest of BERT's relatives.
const RELATIVES: [[&[u8]; 4]; 3] = [
    [
        include_bytes!("../../tests/models/distilbert-classification/config.json"),
        include_bytes!("../../tests/models/distilbert-classification/model.safetensors"),
        include_bytes!("../../tests/models/distilbert-classification/tokenizer.json"),
        include_bytes!("../../tests/models/distilbert-classification/serin-model.json"),
    ],
    [
        include_bytes!("../../tests/models/roberta-embedding/config.json"),
        include_bytes!("../../tests/models/roberta-embedding/model.safetensors"),
        include_bytes!("../../tests/models/roberta-embedding/tokenizer.json"),
        include_bytes!("../../tests/models/roberta-embedding/serin-model.json"),
    ],
    [
        include_bytes!("../../tests/models/xlm-roberta-reranking/config.json"),
        include_bytes!("../../tests/models/xlm-roberta-reranking/model.safetensors"),
        include_bytes!("../../tests/models/xlm-roberta-reranking/tokenizer.json"),
        include_bytes!("../../tests/models/xlm-roberta-reranking/serin-model.json"),
    ],
];

/// Writes the files into a directory, lists them as they are, and tries to load what that
/// describes.
fn load(directory: &Path, manifest: &Value, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        fs::write(directory.join(name), bytes).unwrap();
    }
    fs::write(directory.join("serin-model.json"), manifest.to_string()).unwrap();
    write_manifest(directory).unwrap();
    let artefact = Artefact::open(directory, None).unwrap();
    let bytes = files.iter().map(|(_, bytes)| bytes.len()).sum();
    if let Ok((model, _)) = bounded(bytes, || crate::explain::load(artefact)) {
        let batch = model
            .prepare(
                &[model.preprocessor.example()],
                Location::List("/instances"),
            )
            .unwrap();
        assert_eq!(model.forward(&batch).unwrap().len(), 1);
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn bytes_that_are_no_manifest_are_refused(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(bounded(bytes.len(), || Manifest::parse(&bytes)).is_err());
    }

    #[test]
    fn a_manifest_with_a_change_is_refused_or_prepares(
        which in 0..MANIFESTS.len(), place: Index, by in json(), twice: Index, again in json(),
            instance in json(),
    ) {
        let mut changed = manifest(which);
        replace(&mut changed, place, by);
        replace(&mut changed, twice, again);
        let text = changed.to_string();
        bounded(text.len(), || {
            if let Ok(manifest) = Manifest::parse(text.as_bytes())
                && let Ok(preprocessor) = Preprocessor::new(&manifest, None)
            {
                for one in [preprocessor.example(), instance] {
                    let _ = preprocessor.prepare(&[one], Location::List("/instances"));
                }
            }
        });
    }

    #[test]
    fn an_instance_with_a_change_is_refused_or_prepared(
        which in 0..MANIFESTS.len(), place: Index, by in json(),
    ) {
        let manifest = Manifest::parse(manifest(which).to_string().as_bytes()).unwrap();
        let preprocessor = Preprocessor::new(&manifest, None).unwrap();
        let mut instance = preprocessor.example();
        replace(&mut instance, place, by);
        match preprocessor.prepare(&[instance], Location::List("/instances")) {
            Ok(batch) => prop_assert_eq!(batch.len(), 1),
            Err(errors) => prop_assert!(errors.total > 0),
        }
    }

    #[test]
    fn a_tokeniser_with_changes_is_refused_or_reads_any_text(
        place: Index, by in json(), damage in damage(), text: String,
    ) {
        let manifest = examples::manifest("text", "classification", &json!({"labels": ["a", "b"]}));
        let manifest = Manifest::parse(manifest.to_string().as_bytes()).unwrap();
        let mut changed: Value = serde_json::from_str(TOKENIZER).unwrap();
        replace(&mut changed, place, by);
        for file in [changed.to_string().into_bytes(), damage.of(TOKENIZER.as_bytes(),
            TOKENIZER.len())] {
            bounded(file.len() + text.len(), || {
                if let Ok(preprocessor) = Preprocessor::new(&manifest, Some(&file)) {
                    let _ = preprocessor.prepare(&[text.as_str().into()],
                        Location::List("/instances"));
                }
            });
        }
    }
}

proptest! {
    #![proptest_config(cases(100))]

    // Mostly the header is changed: the numbers behind it may be anything.
    #[test]
    fn weights_with_changes_are_refused_or_loaded(damage in damage()) {
        let directory = tempfile::tempdir().unwrap();
        load(directory.path(), &manifest(0), &[("model.safetensors", &damage.of(WEIGHTS, 400))]);
    }

    #[test]
    fn an_encoder_with_changes_is_refused_or_loaded(
        place: Index, by in json(), weights in damage(), tokenizer in damage(), pair: bool,
    ) {
        let (kind, task, outputs) = if pair {
            ("text-pair", "reranking", json!({}))
        } else {
            ("text", "classification", json!({"labels": ["a", "b"]}))
        };
        let mut config = json!({"config": SMALL.config()});
        replace(&mut config, place, by);
        let config = config["config"].to_string();
        let sound = examples::weights(if pair { 1 } else { 2 });
        // Its header of 5 kB says where each tensor is.
        let weights = weights.of(&sound, 6_000);
        let tokenizer = tokenizer.of(TOKENIZER.as_bytes(), TOKENIZER.len());
        let manifest = examples::manifest(kind, task, &outputs);
        for files in [
            [config.as_bytes(), &sound, TOKENIZER.as_bytes()],
            [SMALL.config().to_string().as_bytes(), &weights, TOKENIZER.as_bytes()],
            [SMALL.config().to_string().as_bytes(), &sound, &tokenizer],
        ] {
            let directory = tempfile::tempdir().unwrap();
            let files: Vec<_> = ["config.json", "model.safetensors",
                "tokenizer.json"].into_iter().zip(files).collect();
            load(directory.path(), &manifest, &files);
        }
    }

    #[test]
    fn a_relative_of_bert_with_changes_is_refused_or_loaded(
        which in 0..RELATIVES.len(), place: Index, by in json(), weights in damage(),
            tokenizer in damage(),
    ) {
        let [sound_config, sound_weights, sound_tokenizer, manifest] = RELATIVES[which];
        let mut manifest: Value = serde_json::from_slice(manifest).unwrap();
        manifest["golden"] = json!([]);
        let mut config: Value = serde_json::from_slice(sound_config).unwrap();
        replace(&mut config, place, by);
        let config = config.to_string();
        let weights = weights.of(sound_weights, 4_000);
        let tokenizer = tokenizer.of(sound_tokenizer, sound_tokenizer.len());
        for files in [
            [config.as_bytes(), sound_weights, sound_tokenizer],
            [sound_config, &weights, sound_tokenizer],
            [sound_config, sound_weights, &tokenizer],
        ] {
            let directory = tempfile::tempdir().unwrap();
            let files: Vec<_> = ["config.json", "model.safetensors",
                "tokenizer.json"].into_iter().zip(files).collect();
            load(directory.path(), &manifest, &files);
        }
    }
}
