//! Texts: what each word added to the answer, by the model's answers to the text with other words masked.
//!
//! The players are the words, or runs of neighbouring words where there are many. A coalition's answer is the model's own
//! to the text in which every word of the others is the manifest's mask, such as `[MASK]`; the base value is its answer
//! where all are. What is between words stays as it is.

use std::cell::RefCell;
use std::ops::Range;

use fastrand::Rng;
use serde_json::Value;

use super::shapley::{self, Hybrid};
use super::{Effort, ExplainError, Explanation, Passage, Question, predictions};
use crate::artefact::Kind;
use crate::model::{Model, Prediction};
use crate::preprocess::{Batch, Location};

/// Tokens that are computed at the least: for all coalitions where these are so few, else for two pairs of random orders.
/// MiniLM takes 1 to 3 s for them on two cores.
const LEAST_TOKENS: usize = 1 << 14;

/// Most players: more would each get a number too small to tell from its error.
const MAX_PLAYERS: usize = 32;

/// Fewest, where there are as many words, whatever they cost.
const MIN_PLAYERS: usize = 4;

/// Tokens that are computed between two rests.
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
    /// The mask must be one token, so that a masked text is never longer than the text.
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

    /// Explains the output of that index and value.
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
        let tokens = prediction.tokens.max(1);
        let players = players(&texts, most_players(tokens));
        let count = players.len();
        let effort = RefCell::new(effort);
        let evaluate = |hybrids: &[Hybrid]| {
            let mut answers = Vec::with_capacity(hybrids.len());
            for part in hybrids.chunks((STRIDE_TOKENS / tokens).max(1)) {
                let masked: Vec<Value> = part
                    .iter()
                    .map(|hybrid| self.masked(&texts, &players, &hybrid.own))
                    .collect();
                let found = predictions(model, &masked)?;
                answers.extend(found.iter().map(|found| f64::from(found.output[output])));
                effort.borrow_mut().rest();
            }
            Ok::<_, ExplainError>(answers)
        };
        let is_exact = count < MAX_PLAYERS && tokens << count <= LEAST_TOKENS;
        let shares = if is_exact {
            shapley::exact(count, 1, evaluate)?
        } else {
            let nothing = Hybrid {
                own: vec![false; count],
                background: 0,
            };
            let base = evaluate(&[nothing])?[0];
            let mut rng = Rng::with_seed(question.seed);
            let is_enough = |pairs| effort.borrow_mut().is_enough(pairs);
            shapley::sampled(count, base, 1, &mut rng, is_enough, evaluate)?
        };
        let passage = |player: &Player| Passage {
            input: player.input,
            text: texts[player.input].of(&player.words).to_owned(),
        };
        let value = f64::from(prediction.output[output]);
        Ok(Explanation {
            passages: Some(players.iter().map(passage).collect()),
            ..Explanation::of_answers(model, output, value, shares)
        })
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

    /// The instance in which only some players' words are its own.
    fn masked(&self, texts: &[Words<'_>], players: &[Player], own: &[bool]) -> Value {
        self.instance(|input| {
            let Words { text, words } = &texts[input];
            let mut masked = String::with_capacity(text.len());
            let mut end = 0;
            for (player, own) in players.iter().zip(own) {
                if player.input != input {
                    continue;
                }
                for word in &words[player.words.clone()] {
                    masked.push_str(&text[end..word.start]);
                    masked.push_str(if *own {
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
    matches!(letter, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// How many players there may be for a text of so many tokens: two pairs of orders are `4 · (players + 1)` texts.
fn most_players(tokens: usize) -> usize {
    let texts = LEAST_TOKENS / tokens;
    (texts / 4)
        .saturating_sub(1)
        .clamp(MIN_PLAYERS, MAX_PLAYERS)
}

/// The words, or runs of equally many; the last run of each text may be shorter.
fn players(texts: &[Words<'_>], most: usize) -> Vec<Player> {
    let words: usize = texts.iter().map(|text| text.words.len()).sum();
    let run = words.div_ceil(most).max(1);
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::artefact::Artefact;
    use crate::explain::Explainer;
    use crate::model::examples;

    struct Pairs(usize);

    impl Effort for Pairs {
        fn is_enough(&mut self, pairs: usize) -> bool {
            pairs >= self.0
        }

        fn rest(&mut self) {}
    }

    fn load(directory: &Path, kind: &str, mask: &str) -> Result<Model, String> {
        let background = json!({"mask": mask});
        if kind == "text" {
            examples::write_classifier(directory, background);
        } else {
            examples::write_reranker(directory, background);
        }
        Model::load(Artefact::open(directory, None).unwrap()).map_err(|error| error.to_string())
    }

    fn model(kind: &str) -> Model {
        load(tempfile::tempdir().unwrap().path(), kind, "[MASK]").unwrap()
    }

    fn explain(
        model: &Model,
        instance: &Value,
        output: Option<usize>,
        pairs: usize,
    ) -> Explanation {
        let explainer: &Explainer = model.explainer().unwrap();
        let question = Question {
            instance,
            output,
            seed: 3,
        };
        let explanation = explainer
            .explain(model, &question, &mut Pairs(pairs))
            .unwrap();
        assert!(explanation.residual().abs() < 1e-6, "{explanation:?}");
        explanation
    }

    fn answer(model: &Model, instance: Value, output: usize) -> f64 {
        let found = predictions(model, &[instance]).unwrap();
        f64::from(found[0].output[output])
    }

    /// The mean of what a word adds over every order in which words can join, by the definition.
    fn by_every_order(words: usize, worth: &[f64]) -> Vec<f64> {
        fn orders(rest: &[usize]) -> Vec<Vec<usize>> {
            if rest.is_empty() {
                return vec![Vec::new()];
            }
            let first = |place: usize| {
                let mut others = rest.to_vec();
                let first = others.remove(place);
                let others = orders(&others).into_iter();
                others.map(move |others| [vec![first], others].concat())
            };
            (0..rest.len()).flat_map(first).collect()
        }
        let all = orders(&(0..words).collect::<Vec<_>>());
        let mut shares = vec![0.0; words];
        for order in &all {
            let mut coalition = 0_usize;
            for word in order {
                let before = worth[coalition];
                coalition |= 1 << word;
                shares[*word] += (worth[coalition] - before) / all.len() as f64;
            }
        }
        shares
    }

    #[test]
    fn a_short_text_is_explained_exactly() {
        let model = model("text");
        let words = ["the", "film", "too", "long,", "not  bad"];
        let words: Vec<&str> = words.iter().flat_map(|words| words.split("  ")).collect();
        let text = "the film\ttoo long, not  bad";
        for output in 0..2 {
            let gaps = [" ", "\t", " ", " ", "  ", ""];
            let masked = |coalition: usize| -> String {
                let word = |(place, word): (usize, &&str)| {
                    let own = coalition >> place & 1 == 1;
                    format!("{}{}", if own { word } else { "[MASK]" }, gaps[place])
                };
                words.iter().enumerate().map(word).collect()
            };
            assert_eq!(masked(0b11_1111), text);
            let worth: Vec<f64> = (0..1 << 6)
                .map(|own| answer(&model, masked(own).into(), output))
                .collect();
            let found = explain(&model, &text.into(), Some(output), 2);
            assert_eq!((found.method, found.permutations), ("coalitions", 0));
            assert!(
                (found.base_value - worth[0]).abs() < 1e-9
                    && (found.value - worth[63]).abs() < 1e-9
            );
            for (found, expected) in found.contributions.iter().zip(by_every_order(6, &worth)) {
                assert!((found - expected).abs() < 1e-9, "{found} {expected}");
            }
            let passages: Vec<String> = found
                .passages
                .unwrap()
                .into_iter()
                .map(|passage| passage.text)
                .collect();
            assert_eq!(passages, words);
        }
    }

    #[test]
    fn a_longer_text_is_sampled_with_an_honest_error() {
        let model = model("text");
        let text = "a fine film . not too long the end not bad";
        let words: Vec<&str> = text.split(' ').collect();
        let found = explain(&model, &text.into(), Some(1), 150);
        assert_eq!((found.method, found.permutations), ("permutations", 300));
        let exact = shapley::exact(words.len(), 1, |hybrids| {
            let word = |(word, own): (&&str, &bool)| {
                if *own {
                    (*word).to_owned()
                } else {
                    "[MASK]".to_owned()
                }
            };
            let text = words
                .iter()
                .zip(&hybrids[0].own)
                .map(word)
                .collect::<Vec<_>>()
                .join(" ");
            Ok::<_, ExplainError>(vec![answer(&model, text.into(), 1)])
        });
        let errors = found.standard_errors.as_ref().unwrap();
        for ((found, error), exact) in found
            .contributions
            .iter()
            .zip(errors)
            .zip(exact.unwrap().values)
        {
            // 5 standard errors, of 11 values with a fixed seed.
            assert!(
                (found - exact).abs() <= 5.0 * error + 1e-6,
                "{found} ± {error}, not {exact}"
            );
            assert!(*error < 0.05, "{error}");
        }
    }

    #[test]
    fn a_pair_is_explained_in_both_texts() {
        let model = model("text-pair");
        let instance = json!({"text": "a film", "pair": "the fine end"});
        let found = explain(&model, &instance, None, 2);
        assert_eq!(
            (found.method, found.scale, found.output),
            ("coalitions", "value", 0)
        );
        let passages = found.passages.unwrap();
        let expected = [(0, "a"), (0, "film"), (1, "the"), (1, "fine"), (1, "end")];
        assert_eq!(
            passages
                .iter()
                .map(|passage| (passage.input, passage.text.as_str()))
                .collect::<Vec<_>>(),
            expected
        );
        let nothing = json!({"text": "[MASK] [MASK]", "pair": "[MASK] [MASK] [MASK]"});
        assert!((found.base_value - answer(&model, nothing, 0)).abs() < 1e-9);
    }

    #[test]
    fn a_mask_of_several_tokens_is_refused() {
        for mask in ["nothing-here", "badly"] {
            let refused = load(tempfile::tempdir().unwrap().path(), "text", mask).unwrap_err();
            assert!(
                refused.contains("background.mask") && refused.contains("one token"),
                "{refused}"
            );
        }
    }

    #[test]
    fn words_are_found_in_every_script() {
        let cut = |text| {
            let words = Words::new(text);
            let word = |range: &Range<usize>| text[range.clone()].to_owned();
            words.words.iter().map(word).collect::<Vec<String>>()
        };
        assert_eq!(cut("  Über\u{a0}all, \n(no)\t"), ["Über", "all,", "(no)"]);
        assert_eq!(cut("東京is カメ."), ["東", "京", "is", "カ", "メ", "."]);
        assert!(cut(" \n").is_empty());
    }

    #[test]
    fn many_words_share_a_player() {
        let text = "a ".repeat(100);
        let texts = [Words::new(&text), Words::new("b c")];
        let players = players(&texts, most_players(120));
        assert_eq!(players.len(), 26); // 32 could be, in runs of 4
        assert_eq!(
            players[24],
            Player {
                input: 0,
                words: 96..100
            }
        );
        assert_eq!(
            players[25],
            Player {
                input: 1,
                words: 0..2
            }
        );
        assert_eq!(texts[0].of(&players[24].words), "a a a a");
        assert_eq!(
            (most_players(1), most_players(256), most_players(100_000)),
            (32, 15, 4)
        );
    }
}
