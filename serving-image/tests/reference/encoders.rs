//! BERT's relatives, with random weights, against transformers; and what of them cannot be served.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use serin_serve::artefact::{Artefact, write_manifest};
use serin_serve::model::Model;

use super::{small, tests};

#[test]
fn relatives_of_bert_are_transformers() {
    for family in ["distilbert", "roberta", "xlm-roberta"] {
        for task in ["embedding", "classification", "reranking"] {
            small(&format!("{family}-{task}"));
        }
    }
}

/// What is said of a model of `tests/models` after a change to one of its JSON files.
fn refusal(name: &str, file: &str, change: impl Fn(&mut Value)) -> String {
    let directory = tempfile::tempdir().unwrap();
    let place = |file: &str| directory.path().join(file);
    for entry in fs::read_dir(tests().join("models").join(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), place(entry.file_name().to_str().unwrap())).unwrap();
    }
    let mut json: Value = serde_json::from_slice(&fs::read(place(file)).unwrap()).unwrap();
    change(&mut json);
    fs::write(place(file), json.to_string()).unwrap();
    load(directory.path()).unwrap_err()
}

fn load(directory: &Path) -> Result<Model, String> {
    write_manifest(directory).unwrap();
    let artefact = Artefact::open(directory, None).map_err(|error| error.to_string())?;
    Model::load(artefact).map_err(|error| error.to_string())
}

#[test]
fn texts_that_are_longer_than_the_positions_are_refused_when_loaded() {
    for (name, expected) in [
        (
            "distilbert-embedding",
            "maxTokens is 101, but the model has room for 100: max_position_embeddings is 100",
        ),
        (
            "roberta-embedding",
            "maxTokens is 101, but the model has room for 100: max_position_embeddings is 102, of \
             which the first 2 are no text's",
        ),
    ] {
        let found = refusal(name, "serin-model.json", |manifest| {
            manifest["preprocessing"][0]["maxTokens"] = json!(101);
        });
        assert!(found.contains(expected), "{found}");
    }
    // With another padding token, fewer positions are left.
    let found = refusal("xlm-roberta-embedding", "config.json", |config| {
        config["pad_token_id"] = json!(9);
    });
    assert!(
        found.contains("has room for 92") && found.contains("the first 10"),
        "{found}"
    );
}

#[test]
fn what_a_family_lacks_is_named() {
    for (name, key, value, expected) in [
        (
            "roberta-embedding",
            "model_type",
            json!("deberta"),
            "model_type is deberta, but only bert, distilbert, roberta, xlm-roberta are supported",
        ),
        (
            "distilbert-embedding",
            "activation",
            json!("relu"),
            "hidden_act is relu",
        ),
        (
            "distilbert-classification",
            "model_type",
            json!("bert"),
            "there is no tensor embeddings.word_embeddings.weight",
        ),
        (
            "roberta-reranking",
            "model_type",
            json!("bert"),
            "there is no tensor embeddings.word_embeddings.weight",
        ),
    ] {
        let found = refusal(name, "config.json", |config| config[key] = value.clone());
        assert!(found.contains(expected), "{found}");
    }
}
