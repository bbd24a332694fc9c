//! Whole random and damaged GGUF files: read and computed, or refused.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::examples::{ARRAY, F32, I32, Parts, STRING, U32, array, text};
use super::{Llama, LoadGgufError, Piece, Scratch};
use crate::fuzzing::{bounded, cases, damage};
use crate::generate::Vocabulary;

/// A format's number in ggml, weights in a block, and bytes of one.
type Format = (u32, u64, u64);

/// Those in which rows of 32 weights may be.
const SHORT: [Format; 8] = [
    (0, 1, 4),   // F32
    (1, 1, 2),   // F16
    (2, 32, 18), // Q4_0
    (3, 32, 20), // Q4_1
    (6, 32, 22), // Q5_0
    (7, 32, 24), // Q5_1
    (8, 32, 34), // Q8_0
    (30, 1, 2),  // BF16
];

/// Those whose rows have a multiple of 256.
const LONG: [Format; 5] = [
    (10, 256, 84),  // Q2_K
    (11, 256, 110), // Q3_K
    (12, 256, 144), // Q4_K
    (13, 256, 176), // Q5_K
    (14, 256, 210), // Q6_K
];

/// A model of one layer and four tokens, its matrices in these formats in turn, and the length of
/// its header.
fn file(first: usize) -> (Vec<u8>, usize) {
    let number = |number: u32| number.to_le_bytes();
    let tokens = ["a", "b", "ab", "<|im_end|>"].map(text);
    let types = [1, 1, 1, 3].map(|kind: i32| kind.to_le_bytes().to_vec());
    let mut parts = Parts::default()
        .key("general.architecture", STRING, text("llama"))
        .key("llama.block_count", U32, number(1))
        .key("llama.embedding_length", U32, number(256))
        .key("llama.attention.head_count", U32, number(1))
        .key("llama.attention.key_length", U32, number(32))
        .key("llama.feed_forward_length", U32, number(32))
        .key("llama.context_length", U32, number(64))
        .key(
            "llama.attention.layer_norm_rms_epsilon",
            F32,
            1e-5_f32.to_le_bytes(),
        )
        .key("tokenizer.ggml.model", STRING, text("gpt2"))
        .key("tokenizer.ggml.tokens", ARRAY, array(STRING, &tokens))
        .key("tokenizer.ggml.token_type", ARRAY, array(I32, &types))
        .key(
            "tokenizer.ggml.merges",
            ARRAY,
            array(STRING, &[text("a b")]),
        )
        .key("tokenizer.ggml.eos_token_id", U32, number(3));
    let mut end = 0;
    let mut lengths = Vec::new();
    let matrices = [
        ("token_embd", 4, 256),
        ("output", 4, 256),
        ("blk.0.attn_q", 32, 256),
        ("blk.0.attn_k", 32, 256),
        ("blk.0.attn_v", 32, 256),
        ("blk.0.attn_output", 256, 32),
        ("blk.0.ffn_gate", 32, 256),
        ("blk.0.ffn_up", 32, 256),
        ("blk.0.ffn_down", 256, 32),
    ];
    let vectors = ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"];
    let all = matrices
        .iter()
        .copied()
        .chain(vectors.map(|name| (name, 1, 256)));
    for (index, (name, rows, columns)) in all.enumerate() {
        let turn = first + index;
        let (format, block, bytes) = match columns {
            _ if rows == 1 => SHORT[0],
            256 if turn.is_multiple_of(2) => LONG[turn / 2 % LONG.len()],
            _ => SHORT[turn / 2 % SHORT.len()],
        };
        let shape = [columns, rows];
        let shape = if rows == 1 { &shape[..1] } else { &shape[..] };
        parts = parts.tensor(&format!("{name}.weight"), format, shape, end);
        lengths.push(rows * columns / block * bytes);
        end = (end + rows * columns / block * bytes).next_multiple_of(32);
    }
    let mut file = parts.header();
    let header = file.len();
    let start = header.next_multiple_of(32);
    // Small whatever they are read as, 16-bit floats or 32-bit ones.
    file.resize(start + end as usize, 0x2c);
    (file, header)
}

/// Reads the file, and has three tokens computed where it is one.
fn try_out(file: &[u8]) -> Result<Vec<f32>, LoadGgufError> {
    let (model, header) = Llama::read(&mut &file[..], file.len() as u64)?;
    if let Ok(vocabulary) = Vocabulary::read(&header) {
        let _ = vocabulary.encode("abba");
    }
    let mut cache = model.cache(3);
    let tokens = [0, 1, 2].map(|token: u32| token.min(model.vocabulary() as u32 - 1));
    let mut piece = [Piece {
        cache: &mut cache,
        tokens: &tokens,
        scores: true,
    }];
    let mut scratch = Scratch::default();
    model.forward(&mut piece, &mut scratch)?;
    Ok(scratch.scores(0, model.vocabulary()).to_vec())
}

#[test]
fn the_file_that_gets_damaged_is_sound_in_every_format() {
    for first in 0..16 {
        let (file, _) = file(first);
        let scores = try_out(&file).unwrap();
        assert_eq!(scores.len(), 4);
        assert!(
            scores.iter().all(|score| score.is_finite()),
            "{first}: {scores:?}"
        );
    }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_file_with_changes_is_refused_or_computed(
        first in 0..16_usize, changes in damage(), everywhere: bool,
    ) {
        let (file, header) = file(first);
        let file = changes.of(&file, if everywhere { file.len() } else { header });
        let _ = bounded(file.len(), || try_out(&file));
    }
}
