//! Texts and pairs of texts: token ids.

use serde::de::IgnoredAny;
use serde_json::Value;
use tokenizers::{EncodeInput, Encoding, Tokenizer, TruncationParams};

use super::errors::{FieldErrors, Location};
use super::field::{Field, read_object};
use super::{PreprocessError, Tokens};
use crate::artefact::{Kind, Manifest, Step};
use crate::compute::here;

/// The tokeniser of a text model, and its bounds.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) fields: Vec<Field>,
    tokenizer: Box<Tokenizer>,
    max_tokens: usize,
    truncate: bool,
    /// Whether an instance is an object of two texts.
    pub(super) pair: bool,
}

impl Text {
    /// With the content of the tokeniser's file.
    pub(super) fn new(manifest: &Manifest, tokenizer: &[u8]) -> Result<Self, PreprocessError> {
        let unusable = |error: tokenizers::Error| PreprocessError::Tokenizer(error.to_string());
        let (max_tokens, truncate) = manifest
            .preprocessing
            .iter()
            .find_map(|step| match step {
                Step::Tokenize {
                    max_tokens,
                    truncate,
                    ..
                } => Some((*max_tokens, *truncate)),
                _ => None,
            })
            .ok_or(PreprocessError::MissingStep("tokenize"))?;
        let mut tokenizer = read_tokenizer(tokenizer)?;
        // The file's own settings would pad every text to 128 tokens and cut it there in silence.
        tokenizer.with_padding(None);
        let truncation = truncate.then(|| TruncationParams {
            max_length: max_tokens,
            ..Default::default()
        });
        tokenizer.with_truncation(truncation).map_err(unusable)?;
        let text = Self {
            fields: Field::all(manifest),
            tokenizer: Box::new(tokenizer),
            max_tokens,
            truncate,
            pair: manifest.kind == Kind::TextPair,
        };
        // A file whose parts do not fit together fails over every text: better now than at the
        // first request.
        let probe: EncodeInput<'_> = if text.pair {
            ("a", "b").into()
        } else {
            "a".into()
        };
        text.encode(probe).map_err(PreprocessError::Tokenizer)?;
        Ok(text)
    }

    /// The library panics where parts of its file do not fit together.
    fn encode(&self, input: EncodeInput<'_>) -> Result<Encoding, String> {
        match here(|| self.tokenizer.encode_fast(input, true)) {
            Ok(encoding) => encoding.map_err(|error| error.to_string()),
            Err(panicked) => Err(panicked.to_string()),
        }
    }

    /// The tokens of every instance that has no error.
    pub(super) fn prepare(
        &self,
        instances: &[Value],
        location: Location,
        errors: &mut FieldErrors,
    ) -> Vec<Tokens> {
        let located = instances.iter().enumerate();
        let tokens = located.filter_map(|(index, instance)| {
            let tokens = if self.pair {
                self.pair(instance, || location.pointer(index), errors)?
            } else {
                self.single(instance)
            };
            tokens
                .map_err(|expected| errors.push(|| location.pointer(index), expected))
                .ok()
        });
        tokens.collect()
    }

    fn single(&self, instance: &Value) -> Result<Tokens, String> {
        let field = self.fields.first().ok_or("no input at all")?;
        let text = field.text(instance).ok_or_else(|| field.expected.clone())?;
        self.tokenize(text.into())
    }

    /// None where a text is wrong, which the errors then tell.
    fn pair(
        &self,
        instance: &Value,
        pointer: impl Fn() -> String,
        errors: &mut FieldErrors,
    ) -> Option<Result<Tokens, String>> {
        let mut texts = Vec::with_capacity(2);
        read_object(&self.fields, instance, pointer, errors, |field, value| {
            let text = value.and_then(|value| field.text(value));
            let required = if value.is_none() { " (required)" } else { "" };
            texts.push(text.ok_or_else(|| format!("{}{required}", field.expected))?);
            Ok(())
        });
        match texts.as_slice() {
            [text, pair] => Some(self.tokenize((*text, *pair).into())),
            _ => None,
        }
    }

    fn tokenize(&self, input: EncodeInput<'_>) -> Result<Tokens, String> {
        let what = if self.pair {
            "texts of together"
        } else {
            "a text of"
        };
        let encoding = self
            .encode(input)
            .map_err(|_| "a text that the tokeniser can read".to_owned())?;
        if !self.truncate && encoding.len() > self.max_tokens {
            return Err(format!("{what} at most {} tokens", self.max_tokens));
        }
        Ok(Tokens {
            ids: encoding.get_ids().to_vec(),
            types: if self.pair {
                encoding.get_type_ids().to_vec()
            } else {
                Vec::new()
            },
            truncated: !encoding.get_overflowing().is_empty(),
        })
    }
}

/// The tokeniser that a file describes. The library panics over JSON that is broken, and over some
/// that is not.
fn read_tokenizer(file: &[u8]) -> Result<Tokenizer, PreprocessError> {
    let unusable = |reason: String| PreprocessError::Tokenizer(reason);
    serde_json::from_slice::<IgnoredAny>(file).map_err(|error| unusable(error.to_string()))?;
    match here(|| Tokenizer::from_bytes(file)) {
        Ok(read) => read.map_err(|error| unusable(error.to_string())),
        Err(panicked) => Err(unusable(panicked.to_string())),
    }
}
