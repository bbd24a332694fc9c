//! Text to tokens and back, with the vocabulary and merges that the GGUF file carries.

use std::collections::HashMap;

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use crate::model::llama::gguf::{GgufError, Header, Value, required, unusable};

/// Most tokens of a vocabulary. Gemma has 262,144.
const MAX_VOCABULARY: usize = 1 << 20;

/// llama.cpp's type of a token that is never text: `<|im_start|>`.
const CONTROL: i32 = 3;
/// llama.cpp's type of a token that its author added, and that is text.
const USER_DEFINED: i32 = 4;

/// How Llama 3 cuts a text into words.
const LLAMA_3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// How Qwen 2 does: the same, but for numbers, which are cut into digits.
const QWEN_2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// A byte-level BPE tokeniser.
#[derive(Debug)]
pub struct Vocabulary {
    tokenizer: Tokenizer,
    /// The bytes of each token; none for control tokens.
    bytes: Vec<Box<[u8]>>,
    /// Put before a text that begins a conversation, where the file says so.
    begin: Option<u32>,
    /// Tokens that end a text.
    ends: Vec<u32>,
    /// How the file writes its begin and end token, for chat templates.
    names: [Option<String>; 2],
}

/// Why a file's vocabulary cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VocabularyError {
    /// The header.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Vocabulary and merges do not fit together.
    #[error("the GGUF file's tokeniser cannot be built: {0}")]
    Build(#[from] tokenizers::Error),
}

impl Vocabulary {
    /// Builds the tokeniser of a file. An error where the file has none, or one of a kind that this
    /// build does not read.
    pub fn read(header: &Header) -> Result<Self, VocabularyError> {
        let model = "tokenizer.ggml.model";
        if required(model, header.text(model)?)? != "gpt2" {
            return Err(unusable(
                model,
                "gpt2, byte-level BPE; this build has no SentencePiece",
            )
            .into());
        }
        let tokens_key = "tokenizer.ggml.tokens";
        let tokens = header.texts(tokens_key)?;
        if tokens.is_empty() || tokens.len() > MAX_VOCABULARY {
            return Err(unusable(tokens_key, format!("1 to {MAX_VOCABULARY} tokens")).into());
        }
        let types_key = "tokenizer.ggml.token_type";
        let types = match header.get(types_key) {
            Some(Value::Integers(types)) if types.len() == tokens.len() => types.as_slice(),
            None => &[],
            Some(_) => return Err(unusable(types_key, "one integer for each token").into()),
        };
        let type_of = |id: usize| types.get(id).copied().unwrap_or(1);
        let number = |name: &str| {
            let key = format!("tokenizer.ggml.{name}");
            header.number(&key, tokens.len() - 1)
        };

        let merges_key = "tokenizer.ggml.merges";
        let merges = header.texts(merges_key)?;
        let pairs = merges.iter().map(|merge| {
            let pair = merge
                .split_once(' ')
                .map(|(a, b)| (a.to_owned(), b.to_owned()));
            pair.ok_or_else(|| unusable(merges_key, "pairs of tokens"))
        });
        let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
        let ids: HashMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
        let pre = header.text("tokenizer.ggml.pre")?.unwrap_or("default");
        let bpe = BPE::builder()
            .vocab_and_merges(ids.into_iter().collect::<ahash::AHashMap<_, _>>(), pairs)
            .ignore_merges(pre == "llama-bpe")
            .build()?;
        let mut tokenizer = Tokenizer::new(bpe);
        tokenizer.with_pre_tokenizer(Some(pre_tokenizer(pre)?));
        let added = |wanted: i32, special: bool| {
            let of_type = tokens
                .iter()
                .enumerate()
                .filter(move |(id, _)| type_of(*id) == wanted);
            of_type
                .map(move |(_, token)| AddedToken::from(token.clone(), special).normalized(false))
        };
        tokenizer.add_special_tokens(added(CONTROL, true))?;
        tokenizer.add_tokens(added(USER_DEFINED, false))?;

        let end = number("eos_token_id")?;
        let end_of_turn = number("eot_token_id")?;
        // Files name one of the two; what ends a turn by its text ends one by its number, too.
        let ends_by_name = [
            "<|im_end|>",
            "<|eot_id|>",
            "<|endoftext|>",
            "<|end_of_text|>",
        ];
        let named = tokens.iter().enumerate().filter(|(id, token)| {
            type_of(*id) == CONTROL && ends_by_name.contains(&token.as_str())
        });
        let mut ends: Vec<u32> = named.map(|(id, _)| id as u32).collect();
        ends.extend(end.into_iter().chain(end_of_turn).map(|id| id as u32));
        ends.sort_unstable();
        ends.dedup();

        let begin = number("bos_token_id")?;
        let name = |id: Option<usize>| id.map(|id| tokens[id].clone());
        let adds_begin = header
            .flag("tokenizer.ggml.add_bos_token")?
            .unwrap_or(false);
        let of_bytes = bytes_of_letters();
        Ok(Self {
            bytes: tokens
                .iter()
                .enumerate()
                .map(|(id, token)| match type_of(id) {
                    CONTROL => Box::default(),
                    USER_DEFINED => token.as_bytes().into(),
                    _ => token_bytes(token, &of_bytes),
                })
                .collect(),
            begin: begin.filter(|_| adds_begin).map(|id| id as u32),
            ends,
            names: [name(begin), name(end)],
            tokenizer,
        })
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none: never.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The tokens of a text that a client wrote as a prompt. Names of control tokens in it become
    /// those tokens. An error where the tokeniser gives one up.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, tokenizers::Error> {
        let encoding = self.tokenizer.encode_fast(text, false)?;
        let ids = encoding.get_ids();
        let begins = self.begin.filter(|begin| ids.first() != Some(begin));
        Ok(begins.into_iter().chain(ids.iter().copied()).collect())
    }

    /// The bytes that a token adds to a text; a character may come in pieces.
    pub fn bytes(&self, token: u32) -> &[u8] {
        self.bytes.get(token as usize).map_or(&[], |bytes| bytes)
    }

    /// Whether the text ends here.
    pub fn is_end(&self, token: u32) -> bool {
        self.ends.binary_search(&token).is_ok()
    }

    /// How the file writes its begin token.
    pub fn begin_name(&self) -> &str {
        self.names[0].as_deref().unwrap_or_default()
    }

    /// How the file writes its end token.
    pub fn end_name(&self) -> &str {
        self.names[1].as_deref().unwrap_or_default()
    }
}

/// How a text is cut into words before bytes are merged.
fn pre_tokenizer(name: &str) -> Result<PreTokenizerWrapper, VocabularyError> {
    let bytes = |words| PreTokenizerWrapper::from(ByteLevel::new(false, false, words));
    let split = |pattern: &str| -> tokenizers::Result<PreTokenizerWrapper> {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        let words = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
        Ok(Sequence::new(vec![words.into(), bytes(false)]).into())
    };
    Ok(match name {
        "default" | "gpt-2" | "gpt2" => bytes(true),
        "smollm" => Sequence::new(vec![Digits::new(true).into(), bytes(true)]).into(),
        "llama-bpe" | "llama3" | "llama-v3" => split(LLAMA_3)?,
        "qwen2" => split(QWEN_2)?,
        _ => {
            let known = "gpt-2, smollm, llama-bpe or qwen2";
            return Err(unusable("tokenizer.ggml.pre", known).into());
        }
    })
}

/// GPT-2 writes each byte as a letter: those that are visible in Latin-1 as themselves, the others
/// from U+0100 on.
fn bytes_of_letters() -> HashMap<char, u8> {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut hidden = 0x100_u32;
    (0..=255_u8)
        .filter_map(|byte| {
            if visible(byte) {
                return Some((char::from(byte), byte));
            }
            hidden += 1;
            char::from_u32(hidden - 1).map(|letter| (letter, byte))
        })
        .collect()
}

fn token_bytes(token: &str, of_letters: &HashMap<char, u8>) -> Box<[u8]> {
    let bytes: Option<Vec<u8>> = token
        .chars()
        .map(|letter| of_letters.get(&letter).copied())
        .collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec()).into()
}

/// Puts characters together from the bytes of tokens.
#[derive(Debug, Default)]
pub struct Utf8 {
    held: Vec<u8>,
}

impl Utf8 {
    /// The characters that are complete now. Bytes that can never be one become U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        let mut done = 0;
        for chunk in self.held.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            let at_end = done + invalid.len() == self.held.len();
            if at_end && may_go_on(invalid) {
                break;
            }
            if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
            done += invalid.len();
        }
        self.held.drain(..done);
        text
    }

    /// The rest, when no more bytes come.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}

/// Whether bytes that are no character could become one with what follows: the standard library
/// cuts an invalid sequence as soon as it can go no further, so that one which is a correct
/// beginning is at the end only.
fn may_go_on(invalid: &[u8]) -> bool {
    let needed = match invalid.first() {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => return false,
    };
    invalid.len() < needed
        && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_byte_has_its_letter() {
        let letters = bytes_of_letters();
        assert_eq!(letters.len(), 256);
        assert_eq!(letters[&'Ġ'], b' ');
        assert_eq!(letters[&'Ċ'], b'\n');
        assert_eq!(letters[&'A'], b'A');
    }

    #[test]
    fn a_character_in_pieces_waits_for_the_last_one() {
        let mut text = Utf8::default();
        assert_eq!(text.push(b"a\xf0\x9f"), "a");
        assert_eq!(text.push(b"\xa6"), "");
        assert_eq!(text.push(b"\x9cb"), "🦜b");
        assert_eq!(text.push(b"\xff"), "\u{fffd}");
        assert_eq!(text.push(b"\xe2\x82"), "");
        assert_eq!(text.finish(), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_gives(bytes in proptest::collection::vec(any::<u8>(), 0..40),
            cut in 0..40_usize) {
            let cut = cut.min(bytes.len());
            let mut pieces = Utf8::default();
            let text = pieces.push(&bytes[..cut]) + &pieces.push(&bytes[cut..]) + &pieces.finish();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
