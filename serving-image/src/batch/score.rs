//! Scores a chunk of rows, by exactly the path of a request.

use serde::Serialize;
use serde_json::Value;

use super::decode::{Decoder, Record};
use super::source::Raw;
use crate::model::Model;
use crate::prediction::Prediction;
use crate::preprocess::{FieldError, Location};

/// Rows that are predicted together, in the order of the input.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Number of its first row, from 1.
    pub first_row: u64,
    /// Where the row after it starts in the input.
    pub next_offset: u64,
    pub raw: Raw,
}

/// A chunk with its answers.
#[derive(Debug)]
pub(super) struct Scored {
    /// How many rows it has, rejected ones included.
    pub rows: u64,
    /// Where the row after it starts in the input.
    pub next_offset: u64,
    pub answers: Vec<Answer>,
    /// At least one error for each rejected row.
    pub rejects: Vec<Reject>,
    pub rejected_rows: u64,
}

/// One row's prediction.
#[derive(Debug)]
pub(super) struct Answer {
    pub row: u64,
    pub kept: Vec<Value>,
    pub prediction: Prediction,
}

/// Why a row was not predicted. The value itself is not repeated: it may be personal
/// personal data.
#[derive(Debug, Serialize)]
pub(super) struct Reject {
    pub row: u64,
    pub field: String,
    pub expected: String,
}

/// Predicts what can be predicted, and rejects the rest.
pub(super) fn score(model: &Model, decoder: &Decoder, chunk: Chunk) -> candle_core::Result<Scored> {
    let mut scored = Scored {
        rows: chunk.raw.len() as u64,
        next_offset: chunk.next_offset,
        answers: Vec::new(),
        rejects: Vec::new(),
        rejected_rows: 0,
    };
    let (mut rows, mut instances) = (Vec::new(), Vec::new());
    for (row, Record { instance, kept }) in (chunk.first_row..).zip(decoder.decode(chunk.raw)) {
        match instance {
            Ok(instance) => {
                rows.push((row, kept));
                instances.push(instance);
            }
            Err(error) => scored.reject(row, vec![error]),
        }
    }
    if instances.is_empty() {
        return Ok(scored);
    }
    let batch = if let Ok(batch) = model.prepare(&instances, Location::List("")) {
        batch
    } else {
        // At least one is wrong: find out which, one by one, and go on with the others.
        let mut sound = Vec::new();
        let mut kept_rows = Vec::new();
        for ((row, kept), instance) in rows.into_iter().zip(instances) {
            match model.prepare(std::slice::from_ref(&instance), Location::Single("")) {
                Ok(_) => {
                    kept_rows.push((row, kept));
                    sound.push(instance);
                }
                Err(errors) => scored.reject(row, errors.listed),
            }
        }
        (rows, instances) = (kept_rows, sound);
        // stable: the fields stay in the manifest's order
        scored.rejects.sort_by_key(|reject| reject.row);
        if instances.is_empty() {
            return Ok(scored);
        }
        model
            .prepare(&instances, Location::List(""))
            .map_err(|_| candle_core::Error::Msg("sound rows were refused together".into()))?
    };
    let predictions = model.forward(&batch)?;
    let answer = |((row, kept), prediction)| Answer {
        row,
        kept,
        prediction,
    };
    scored.answers = rows.into_iter().zip(predictions).map(answer).collect();
    Ok(scored)
}

impl Scored {
    fn reject(&mut self, row: u64, errors: Vec<FieldError>) {
        self.rejected_rows += 1;
        self.rejects.extend(errors.into_iter().map(|error| Reject {
            row,
            field: plain(&error.field),
            expected: error.expected,
        }));
    }
}

/// A JSON pointer below a row as people name the field: `/a~1b` is `a/b`.
fn plain(pointer: &str) -> String {
    pointer
        .trim_start_matches('/')
        .replace("~1", "/")
        .replace("~0", "~")
}
