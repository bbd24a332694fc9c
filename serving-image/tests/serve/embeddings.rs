//! all-MiniLM-L6-v2 with its real weights, against vectors computed by numpy in 64-bit floats.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Server, cached, fixture};

const TOLERANCE: f64 = 1e-5;

/// The artefact that `serving-image/scripts/fetch_minilm.py` lays out, if it has been.
pub fn minilm() -> Option<PathBuf> {
    let manifest = cached(
        "models/all-minilm-l6-v2/1.0.0/serin-model.json",
        "fetch_minilm.py",
    )?;
    manifest.parent().map(Path::to_path_buf)
}

fn vector(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|number| number.as_f64().unwrap())
        .collect()
}

fn difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found
        .iter()
        .zip(expected)
        .map(|(found, expected)| (found - expected).abs())
        .fold(0.0, f64::max)
}

fn decode_base64_floats(text: &str) -> Vec<f64> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap();
    bytes
        .chunks_exact(4)
        .map(|four| f64::from(f32::from_le_bytes(four.try_into().unwrap())))
        .collect()
}

#[test]
fn vectors_are_those_of_the_reference_by_either_path() {
    let Some(model) = minilm() else { return };
    let reference = fixture("all-minilm-l6-v2.json");
    let texts = reference["texts"].as_array().unwrap();
    let server = Server::start(&model, &[]);

    let answer = server.post("/predict", &json!({"instances": texts}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    assert_eq!(body["model"], "all-minilm-l6-v2");
    let floats = server
        .post(
            "/v1/embeddings",
            &json!({"input": texts, "model": "all-minilm-l6-v2"}),
        )
        .json();
    let base64 = server
        .post(
            "/v1/embeddings",
            &json!({"input": texts, "encoding_format": "base64"}),
        )
        .json();
    let total: u64 = reference["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tokens| tokens.as_u64().unwrap())
        .sum();
    assert_eq!(
        floats["usage"],
        json!({"prompt_tokens": total, "total_tokens": total})
    );

    let mut largest = 0_f64;
    for (index, expected) in reference["vectors"].as_array().unwrap().iter().enumerate() {
        let expected = vector(expected);
        let prediction = &body["predictions"][index];
        assert_eq!(prediction["tokens"], reference["tokens"][index]);
        let datum = &floats["data"][index];
        assert_eq!(
            (&datum["index"], &datum["object"]),
            (&json!(index), &json!("embedding"))
        );
        for found in [
            vector(&prediction["embedding"]),
            vector(&datum["embedding"]),
            decode_base64_floats(base64["data"][index]["embedding"].as_str().unwrap()),
        ] {
            largest = largest.max(difference(&found, &expected));
        }
    }
    println!(
        "{} texts, largest difference to numpy in 64-bit floats {largest:e}",
        texts.len()
    );
    assert!(largest < TOLERANCE, "{largest:e}");

    // A text alone gives the vector that it gives in company: padding does not leak.
    let alone = server
        .post("/v1/embeddings", &json!({"input": texts[3]}))
        .json();
    let expected = vector(&reference["vectors"][3]);
    assert!(difference(&vector(&alone["data"][0]["embedding"]), &expected) < TOLERANCE);
    assert!(
        server
            .get("/metrics")
            .text()
            .contains(r#"class="embedding"} 19"#)
    );
}

#[test]
fn wrong_texts_are_named() {
    let Some(model) = minilm() else { return };
    let server = Server::start(&model, &[]);
    let long = "word ".repeat(300);
    let cases = [
        (
            "/predict",
            json!({"instances": ["a", "", 7, long]}),
            vec!["/instances/1", "/instances/2", "/instances/3"],
        ),
        (
            "/predict",
            json!({"instances": vec!["a"; 65]}),
            vec!["/instances"],
        ),
        ("/v1/embeddings", json!({"input": ""}), vec!["/input"]),
        (
            "/v1/embeddings",
            json!({"input": [[1, 2]]}),
            vec!["/input/0"],
        ),
        (
            "/v1/embeddings",
            json!({"input": 7, "model": 4, "dimensions": 3, "encoding_format": "xml",
                "colour": 1}),
            vec![
                "/input",
                "/model",
                "/dimensions",
                "/encoding_format",
                "/colour",
            ],
        ),
    ];
    for (path, body, expected) in cases {
        let answer = server.post(path, &body);
        let status = if path == "/predict" { 422 } else { 400 };
        assert_eq!(answer.status, status, "{}", answer.text());
        let errors = answer.json()["errors"].clone();
        let named: Vec<_> = errors
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["field"].as_str().unwrap())
            .collect();
        assert_eq!(named, expected, "{errors}");
    }
    let answer = server
        .post("/predict", &json!({"instances": [long]}))
        .json();
    assert_eq!(
        answer["errors"][0]["expected"],
        "a text of at most 256 tokens"
    );
}

#[test]
fn where_the_manifest_allows_it_a_long_text_is_cut_and_the_answer_says_so() {
    let Some(model) = minilm() else { return };
    let directory = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::os::unix::fs::symlink(model.join(file), directory.path().join(file)).unwrap();
    }
    let mut manifest: Value =
        serde_json::from_slice(&std::fs::read(model.join("serin-model.json")).unwrap()).unwrap();
    manifest["preprocessing"][0]["truncate"] = json!(true);
    std::fs::write(
        directory.path().join("serin-model.json"),
        manifest.to_string(),
    )
    .unwrap();
    let server = Server::start(directory.path(), &[]);

    // 254 words and the two special tokens fill the 256 places; what follows them changes nothing.
    let (fits, cut) = ("word ".repeat(254), "word ".repeat(254) + "and much more");
    let answer = server
        .post("/predict", &json!({"instances": [fits, cut]}))
        .json();
    let [fits, cut] = [0, 1].map(|index| answer["predictions"][index].clone());
    assert_eq!(
        [&fits["tokens"], &cut["tokens"]],
        [&json!(256), &json!(256)]
    );
    assert_eq!(
        [&fits["truncated"], &cut["truncated"]],
        [&json!(false), &json!(true)]
    );
    assert!(difference(&vector(&fits["embedding"]), &vector(&cut["embedding"])) < 1e-6);
}
