//! Explains texts: how much each word contributed, by the model's answers to the text with other
//! words masked.
//!
//! The players are the words, or passages of neighbouring words. A coalition's answer is the
//! model's own to the text in which every word of the others is the manifest's mask, such as
//! `[MASK]`; the base value is its answer where all are. What is between words stays as it is.
//!
//! An explanation goes in rounds: first the text in at most 4 passages, then in twice as many, up
//! to its words or 32 passages. A round costs about as much as all before it, and begins while half
//! of the time is left. The last one that has something to say is the answer.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::Range;

use serde_json::Value;

use super::shapley::{self, Hybrid, Sample, Shares};
use super::{Effort, ExplainError, Explanation, Passage, Question, predictions};
use crate::artefact::Kind;
use crate::model::Model;
use crate::prediction::Prediction;
use crate::preprocess::{Batch, Location};

/// Passages of the first round. All their coalitions are tried, however little time there is.
const COARSEST: usize = 4;

/// Most passages: more would each get a number too small to tell from its error.
const FINEST: usize = 32;

/// All coalitions of a round are tried if these are their tokens or fewer. MiniLM takes 2 s of a
/// core for so many.
const EXACT_TOKENS: usize = 1 << 14;

/// The share of the time that must be left for another round.
const ANOTHER_ROUND: f64 = 0.5;

/// Tokens that are computed between two looks at who waits, and for how long.
const STRIDE_TOKENS: usize = 256;

/// Any model of texts.
#[derive(Debug)]
pub(super) struct OfTexts {
    /// The manifest's inputs.
    inputs: Vec<String>,
    /// Whether the instance is the text itself.
    bare: bool,
    mask: String,
}

/// A text and where its words are.
struct Words<'a> {
    text: &'a str,
    words: Vec<Range<usize>>,
}

/// A player: neighbouring words of one text.
#[derive(Debug, PartialEq, Eq)]
struct Player {
    input: usize,
    words: Range<usize>,
}

impl OfTexts {
    /// The mask must be one token, so that a masked text is never longer than the text. An error
    /// where it is not.
    pub fn new(model: &Model, mask: &str) -> Result<Self, ExplainError> {
        let inputs = model.manifest.inputs.iter();
        let of = Self {
            inputs: inputs.map(|input| input.name.clone()).collect(),
            bare: model.manifest.kind == Kind::Text,
            mask: mask.to_owned(),
        };
        let tokens = |text: &str| -> Result<usize, ExplainError> {
            let instance = of.instance(|_| text.to_owned());
            let batch = model.prepare(&[instance], Location::List("/background/mask"));
            match batch.map_err(ExplainError::Instance)? {
                Batch::Tokens(texts) => Ok(texts.iter().map(|text| text.ids.len()).sum()),
                _ => Ok(0),
            }
        };
        let more =
            tokens(&format!("{mask} {mask}"))?.saturating_sub(tokens(mask)?) / of.inputs.len();
        if more == 1 {
            Ok(of)
        } else {
            Err(ExplainError::Mask(more))
        }
    }

    /// Explains the output of that index and value. An error where a prediction fails or the client
    /// has gone.
    pub fn explain(
        &self,
        model: &Model,
        question: &Question<'_>,
        (output, prediction): (usize, &Prediction),
        effort: &mut impl Effort,
    ) -> Result<Explanation, ExplainError> {
        let texts: Vec<Words<'_>> = (0..self.inputs.len())
            .map(|input| Words::new(self.text(question.instance, input)))
            .collect();
        let value = f64::from(prediction.output[output]);
        let mut round = Round {
            of: self,
            model,
            texts: &texts,
            output,
            tokens: prediction.tokens.max(1),
            players: Vec::new(),
            known: HashMap::new(),
        };
        let mut runs = runs(&texts).into_iter().peekable();
        round.begin(runs.next().unwrap_or(1), value);
        let shares = round.exact(effort)?;
        let mut found = round.explanation(value, shares);
        while effort.time_left() >= ANOTHER_ROUND
            && let Some(run) = runs.next()
        {
            round.begin(run, value);
            let is_last = runs.peek().is_none();
            if let Some(shares) = round.sampled(question.seed, is_last, effort)? {
                found = round.explanation(value, shares);
            }
        }
        Ok(found)
    }

    /// One of the instance's texts.
    fn text<'a>(&self, instance: &'a Value, input: usize) -> &'a str {
        let value = if self.bare {
            instance
        } else {
            &instance[&self.inputs[input]]
        };
        value.as_str().unwrap_or_default()
    }

    /// An instance of these texts.
    fn instance(&self, text: impl Fn(usize) -> String) -> Value {
        if self.bare {
            return text(0).into();
        }
        let names = self.inputs.iter().enumerate();
        names
            .map(|(input, name)| (name.clone(), Value::from(text(input))))
            .collect()
    }

    /// The instance in which only a coalition's words are its own.
    fn masked(&self, texts: &[Words<'_>], players: &[Player], coalition: u64) -> Value {
        self.instance(|input| {
            let Words { text, words } = &texts[input];
            let mut masked = String::with_capacity(text.len());
            let mut end = 0;
            for (place, player) in players.iter().enumerate() {
                if player.input != input {
                    continue;
                }
                for word in &words[player.words.clone()] {
                    masked.push_str(&text[end..word.start]);
                    masked.push_str(if coalition >> place & 1 == 1 {
                        &text[word.clone()]
                    } else {
                        &self.mask
                    });
                    end = word.end;
                }
            }
            masked.push_str(&text[end..]);
            masked
        })
    }
}

/// A text in passages, and the answers to their coalitions so far.
struct Round<'a> {
    of: &'a OfTexts,
    model: &'a Model,
    texts: &'a [Words<'a>],
    output: usize,
    /// Of the text.
    tokens: usize,
    players: Vec<Player>,
    /// Answers by coalition, in which each player is a bit.
    known: HashMap<u64, f64>,
}

impl Round<'_> {
    /// Cuts the text into other passages. Its own answer is known, and that to masks alone is the
    /// same in every round.
    fn begin(&mut self, run: usize, value: f64) {
        self.players = players(self.texts, run);
        self.known.retain(|coalition, _| *coalition == 0);
        self.known.insert((1 << self.players.len()) - 1, value);
    }

    /// Those of these coalitions that are not known.
    fn unknown(&self, coalitions: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut unknown: Vec<u64> = coalitions
            .filter(|coalition| !self.known.contains_key(coalition))
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown
    }

    /// Coalitions that are computed together.
    fn stride(&self) -> usize {
        (STRIDE_TOKENS / self.tokens).max(1)
    }

    /// Computes the answers to some coalitions.
    fn learn(&mut self, coalitions: &[u64], effort: &mut impl Effort) -> Result<(), ExplainError> {
        effort.proceed()?;
        let masked = coalitions
            .iter()
            .map(|coalition| self.of.masked(self.texts, &self.players, *coalition));
        let found = predictions(self.model, &masked.collect::<Vec<_>>())?;
        let answers = found
            .iter()
            .map(|found| f64::from(found.output[self.output]));
        self.known.extend(coalitions.iter().copied().zip(answers));
        Ok(())
    }

    /// All coalitions, whatever time that takes.
    fn exact(&mut self, effort: &mut impl Effort) -> Result<Shares, ExplainError> {
        let count = self.players.len();
        for part in self.unknown(0..1 << count).chunks(self.stride()) {
            self.learn(part, effort)?;
        }
        let Ok(shares) = shapley::exact(count, 1, |hybrids| {
            let answers = hybrids.iter().map(|hybrid| self.known[&coalition(hybrid)]);
            Ok::<_, Infallible>(answers.collect())
        });
        Ok(shares)
    }

    /// Random orders until all coalitions are known, or else enough orders; or until the time is
    /// over, or better spent on another round. None where there was not even time to state an
    /// error.
    fn sampled(
        &mut self,
        seed: u64,
        is_last: bool,
        effort: &mut impl Effort,
    ) -> Result<Option<Shares>, ExplainError> {
        let count = self.players.len();
        let all = 1_usize << count;
        let is_finite = all.saturating_mul(self.tokens) <= EXACT_TOKENS;
        let mut sample = Sample::new(count, seed);
        'time: loop {
            let pairs = sample.pairs();
            let is_enough = if is_finite {
                self.known.len() == all
            } else {
                pairs >= effort.pairs()
            };
            let goes_on = !is_last && effort.time_left() >= ANOTHER_ROUND;
            if pairs >= Sample::LEAST && (is_enough || goes_on) {
                break;
            }
            let hybrids = sample.draw(1);
            let unknown = self.unknown(hybrids.iter().map(coalition));
            for part in unknown.chunks(self.stride()) {
                if effort.time_left() <= 0.0 {
                    break 'time;
                }
                self.learn(part, effort)?;
            }
            let answers = hybrids.iter().map(|hybrid| self.known[&coalition(hybrid)]);
            sample.add(&answers.collect::<Vec<_>>());
        }
        if self.known.len() == all {
            return self.exact(effort).map(Some);
        }
        Ok((sample.pairs() >= Sample::LEAST).then(|| sample.shares(self.known[&0])))
    }

    fn explanation(&self, value: f64, shares: Shares) -> Explanation {
        Explanation {
            passages: Some(self.passages()),
            ..Explanation::of_answers(self.model, self.output, value, shares)
        }
    }

    fn passages(&self) -> Vec<Passage> {
        let passage = |player: &Player| Passage {
            input: player.input,
            text: self.texts[player.input].of(&player.words).to_owned(),
        };
        self.players.iter().map(passage).collect()
    }
}

/// The players whose words are the text's own, a bit each.
fn coalition(hybrid: &Hybrid) -> u64 {
    let bits = hybrid.own.iter().enumerate();
    bits.fold(0, |bits, (place, own)| bits | u64::from(*own) << place)
}

impl<'a> Words<'a> {
    /// What is between white space, and each character of the scripts that are written without.
    fn new(text: &'a str) -> Self {
        let mut words: Vec<Range<usize>> = Vec::new();
        let mut goes_on = false;
        for (start, letter) in text.char_indices() {
            let end = start + letter.len_utf8();
            if letter.is_whitespace() {
                goes_on = false;
            } else if stands_alone(letter) {
                words.push(start..end);
                goes_on = false;
            } else if let Some(word) = words.last_mut().filter(|_| goes_on) {
                word.end = end;
            } else {
                words.push(start..end);
                goes_on = true;
            }
        }
        Self { text, words }
    }

    /// The text from the first of some words to the last.
    fn of(&self, words: &Range<usize>) -> &'a str {
        match (self.words.get(words.start), self.words.get(words.end - 1)) {
            (Some(first), Some(last)) => &self.text[first.start..last.end],
            _ => "",
        }
    }
}

/// Kana, and the characters that Chinese, Japanese and Korean share.
fn stands_alone(letter: char) -> bool {
    matches!(
        letter,
        '\u{3040}'..='\u{30ff}'
            | '\u{3400}'..='\u{4dbf}'
            | '\u{4e00}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}'
            | '\u{20000}'..='\u{3ffff}'
    )
}

/// Words to a passage, round by round.
fn runs(texts: &[Words<'_>]) -> Vec<usize> {
    let words: usize = texts.iter().map(|text| text.words.len()).sum();
    let passages = std::iter::successors(Some(COARSEST), |passages| Some(2 * passages));
    let mut runs: Vec<usize> = passages
        .take_while(|passages| *passages <= FINEST)
        .map(|passages| words.div_ceil(passages).max(1))
        .collect();
    runs.dedup();
    runs
}

/// Passages of that many words; the last one of each text may be shorter.
fn players(texts: &[Words<'_>], run: usize) -> Vec<Player> {
    let mut players = Vec::new();
    for (input, text) in texts.iter().enumerate() {
        let count = text.words.len();
        players.extend((0..count).step_by(run).map(|start| Player {
            input,
            words: start..(start + run).min(count),
        }));
    }
    players
}

#[cfg(test)]
mod tests;
