//! Explanations of texts: what they add up to, what they cost, when they stop.

#![allow(clippy::unwrap_used)]
use std::path::Path;

use serde_json::json;

use super::*;
use crate::artefact::Artefact;
use crate::explain::{self, Explainer};
use crate::model::examples;

/// A fixed number of pairs of orders, in a time that is counted in forward passes.
struct Steps {
    pairs: usize,
    time: f64,
    gone_after: usize,
    done: usize,
}

impl Steps {
    fn pairs(pairs: usize) -> Self {
        Self {
            pairs,
            time: f64::INFINITY,
            gone_after: usize::MAX,
            done: 0,
        }
    }
}

impl Effort for Steps {
    fn pairs(&self) -> usize {
        self.pairs
    }

    fn time_left(&mut self) -> f64 {
        1.0 - self.done as f64 / self.time
    }

    fn proceed(&mut self) -> Result<(), ExplainError> {
        if self.done == self.gone_after {
            return Err(ExplainError::Abandoned);
        }
        self.done += 1;
        Ok(())
    }
}

type Explained = (Model, Option<Explainer>);

fn load(directory: &Path, kind: &str, mask: &str) -> Result<Explained, String> {
    let background = json!({"mask": mask});
    if kind == "text" {
        examples::write_classifier(directory, background);
    } else {
        examples::write_reranker(directory, background);
    }
    explain::load(Artefact::open(directory, None).unwrap()).map_err(|error| error.to_string())
}

fn model(kind: &str) -> Explained {
    load(tempfile::tempdir().unwrap().path(), kind, "[MASK]").unwrap()
}

fn explain(
    model: &Explained,
    instance: &Value,
    output: Option<usize>,
    pairs: usize,
) -> Explanation {
    explain_in(model, instance, output, &mut Steps::pairs(pairs)).unwrap()
}

fn explain_in(
    (model, explainer): &Explained,
    instance: &Value,
    output: Option<usize>,
    steps: &mut Steps,
) -> Result<Explanation, ExplainError> {
    let question = Question {
        instance,
        output,
        seed: 3,
    };
    let explanation = explainer
        .as_ref()
        .unwrap()
        .explain(model, &question, steps)?;
    assert!(explanation.residual().abs() < 1e-6, "{explanation:?}");
    Ok(explanation)
}

fn answer((model, _): &Explained, instance: Value, output: usize) -> f64 {
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
            (found.base_value - worth[0]).abs() < 1e-9 && (found.value - worth[63]).abs() < 1e-9
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

/// 60 words: rounds of 4, 8, 15 and 30 passages.
const LONG: &str =
    "a fine film . not too long the end not bad the film a end long bad fine not too ";

#[test]
fn the_less_time_the_fewer_passages_and_no_more_forward_passes_than_there_is_time_for() {
    let model = model("text");
    let text = Value::from(LONG.repeat(2));
    let mut passages = Vec::new();
    let mut least = None;
    for time in [0.0, 1.0, 4.0, 16.0, 64.0, 256.0] {
        let mut steps = Steps {
            time,
            ..Steps::pairs(50)
        };
        let found = explain_in(&model, &text, Some(1), &mut steps).unwrap();
        let least = *least.get_or_insert(steps.done);
        assert!(
            steps.done as f64 <= time.max(least as f64),
            "{} passes in the time of {time}",
            steps.done
        );
        let errors = found.standard_errors.as_deref().unwrap_or_default();
        assert!(errors.iter().all(|error| error.is_finite()));
        assert_eq!(errors.is_empty(), found.method == "coalitions");
        passages.push(found.contributions.len());
    }
    assert_eq!((passages[0], passages[1]), (4, 4));
    assert!(passages.is_sorted() && passages[5] == 20, "{passages:?}");
}

#[test]
fn with_time_enough_a_seed_gives_one_explanation() {
    let model = model("text");
    let text = Value::from(LONG.repeat(2));
    let (found, again) = [(); 2].map(|()| explain(&model, &text, Some(1), 20)).into();
    assert_eq!(found, again);
    assert_eq!((found.method, found.permutations), ("permutations", 40));
}

#[test]
fn nothing_is_computed_for_a_caller_that_has_gone() {
    let model = model("text");
    let text = Value::from(LONG.repeat(2));
    for gone_after in [0, 1, 7] {
        let mut steps = Steps {
            gone_after,
            ..Steps::pairs(50)
        };
        let end = explain_in(&model, &text, Some(1), &mut steps).unwrap_err();
        assert!(matches!(end, ExplainError::Abandoned), "{end}");
        assert_eq!(steps.done, gone_after);
    }
}

#[test]
fn many_words_share_a_player() {
    let text = "a ".repeat(100);
    let texts = [Words::new(&text), Words::new("b c")];
    assert_eq!(runs(&texts), [26, 13, 7, 4]);
    assert_eq!(runs(&[Words::new("b c"), Words::new("d e f")]), [2, 1]);
    assert_eq!((runs(&[Words::new("b c")]), runs(&[])), (vec![1], vec![1]));
    let players = players(&texts, 4);
    assert_eq!(players.len(), 26);
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
}
