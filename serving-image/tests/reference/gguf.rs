//! Language models of random weights (`scripts/make_gguf.py`), one for each family and
//! quantisation, against llama.cpp.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serin_serve::generate::Vocabulary;
use serin_serve::model::llama::{Llama, Piece, Scratch};
use sha2::{Digest as _, Sha256};

use crate::{cached, tests};

/// How much a log probability may differ from llama.cpp's. From one token to another they differ by
/// about 1.
fn tolerance(name: &str) -> f32 {
    match name {
        // llama.cpp rounds activations to the weights' format, too.
        "bf16" => 0.03,
        "f16" => 0.005,
        // Both round activations to 8 bits, by other blocks; 0.05 for one layer, 0.09 for two. What
        // is read wrongly is off by 1 and more.
        quantised if quantised.starts_with('q') && !quantised.starts_with("qwen") => 0.15,
        // Both sum in 32 bits, in another order.
        _ => 1e-3,
    }
}

/// What `scripts/record_gguf.py` writes.
#[derive(Deserialize)]
struct Fixture {
    files: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    file: String,
    sha256: String,
    /// Of the prompt.
    #[serde(default)]
    tokens: Vec<u32>,
    /// The likeliest tokens that follow, with their log probabilities; the first is the next step's
    /// last token.
    #[serde(default)]
    steps: Vec<Vec<(u32, f32)>>,
}

/// The recorded files with their bytes; none where they were not made.
fn cases() -> Option<Vec<(Case, Vec<u8>)>> {
    let directory = cached("models/gguf", "make_gguf.py")?;
    let fixture = fs::read(tests().join("fixtures/gguf.json")).unwrap();
    let fixture: Fixture = serde_json::from_slice(&fixture).unwrap();
    let read = |case: Case| {
        let bytes = read(&directory, &case);
        (case, bytes)
    };
    Some(fixture.files.into_iter().map(read).collect())
}

fn read(directory: &Path, case: &Case) -> Vec<u8> {
    let path = directory.join(&case.file);
    let bytes = fs::read(&path).unwrap();
    let digest = Sha256::digest(&bytes);
    let mut hexadecimal = String::new();
    for byte in digest {
        write!(hexadecimal, "{byte:02x}").unwrap();
    }
    let path = path.display();
    assert_eq!(
        hexadecimal, case.sha256,
        "{path} is another file: run scripts/make_gguf.py"
    );
    bytes
}

/// Logarithms of the probabilities that scores stand for.
fn log_probabilities(scores: &[f32]) -> Vec<f32> {
    let total: f64 = scores.iter().map(|score| f64::from(*score).exp()).sum();
    let total = total.ln() as f32;
    scores.iter().map(|score| score - total).collect()
}

/// The largest difference of a log probability to the recorded ones.
fn largest_difference(model: &Llama, case: &Case) -> f32 {
    let mut cache = model.cache(case.tokens.len() + case.steps.len());
    let mut scratch = Scratch::default();
    // The prompt in two pieces, then one token: the ways in which a text is computed.
    let (first, second) = case.tokens.split_at(20);
    let mut pieces = vec![first.to_vec(), second.to_vec()];
    pieces.extend(case.steps.iter().map(|best| vec![best[0].0]));
    let mut largest = 0_f32;
    for (index, tokens) in pieces[..=case.steps.len()].iter().enumerate() {
        let piece = Piece {
            cache: &mut cache,
            tokens,
            scores: index > 0,
        };
        model.forward(&mut [piece], &mut scratch).unwrap();
        if index > 0 {
            let found = log_probabilities(scratch.scores(0, model.vocabulary()));
            for (token, expected) in &case.steps[index - 1] {
                largest = largest.max((found[*token as usize] - expected).abs());
            }
        }
    }
    largest
}

#[test]
fn every_family_and_quantisation_is_llama_cpps() {
    let Some(cases) = cases() else { return };
    let served: Vec<_> = cases
        .iter()
        .filter(|(case, _)| !case.steps.is_empty())
        .collect();
    assert!(served.len() >= 18, "{}", served.len());
    let mut differences = Vec::new();
    for (case, bytes) in served {
        let name = case.file.trim_end_matches(".gguf");
        let (model, header) = Llama::read(&mut bytes.as_slice(), bytes.len() as u64).unwrap();
        let vocabulary = Vocabulary::read(&header).unwrap();
        assert_eq!(model.vocabulary(), vocabulary.len());
        let largest = largest_difference(&model, case);
        println!("{name}: largest difference of a log probability {largest:.5}");
        differences.push((name, largest));
    }
    for (name, largest) in differences {
        assert!(largest < tolerance(name), "{name}: {largest}");
    }
}

#[test]
fn a_format_that_is_not_computed_is_refused_by_tensor_and_name() {
    let Some(cases) = cases() else { return };
    let mut refused = 0;
    for (case, bytes) in cases.iter().filter(|(case, _)| case.steps.is_empty()) {
        let error = Llama::read(&mut bytes.as_slice(), bytes.len() as u64).unwrap_err();
        let expected = "tensor blk.0.ffn_up.weight is IQ4_NL, which this build does not compute";
        assert!(
            error.to_string().starts_with(expected),
            "{}: {error}",
            case.file
        );
        refused += 1;
    }
    assert_eq!(refused, 1);
}
