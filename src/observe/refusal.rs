//! A write that the API server refused, as data for decisions and the status.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::api::{Revision, State};

/// Most refusals that one message names.
const MOST_NAMED: usize = 3;

/// An object that could not be written yet.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The object's kind.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// The version that the object is for. Absent for the objects of the model itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// Why, as the reason of a condition.
    pub reason: String,
    /// The API server's message, shortened.
    pub words: String,
    /// Whether the next attempt may well succeed: no answer, or an overloaded server. The status
    /// does not show it.
    #[serde(default)]
    pub transient: bool,
}

impl Refusal {
    /// Whether the object belongs to the model itself, to the version in force or to the one on
    /// trial. Objects of older versions delay nothing.
    pub fn concerns(&self, state: &State) -> bool {
        self.revision.as_ref().is_none_or(|revision| {
            let stable = state.stable.as_ref().map(|version| &version.revision);
            let canary = state.canary.as_ref().map(|version| &version.revision);
            [stable, canary].contains(&Some(revision))
        })
    }

    /// The refusals that the status shows: of objects that the model, the version in force or the
    /// one on trial needs.
    pub fn shown<'a>(refused: &'a [Self], state: &'a State) -> impl Iterator<Item = &'a Self> {
        let is_shown = |refusal: &&Self| !refusal.transient && refusal.concerns(state);
        refused.iter().filter(is_shown)
    }

    /// The same as sentences, each message of the API server once. Empty if there is none.
    pub fn sentences(refused: &[Self], state: &State) -> String {
        let mut named: Vec<&Self> = Vec::new();
        for refusal in Self::shown(refused, state) {
            if named.iter().all(|other| other.words != refusal.words) {
                named.push(refusal);
            }
        }
        let mut text = String::new();
        for refusal in named.iter().take(MOST_NAMED) {
            let _ = write!(text, "{refusal}. ");
        }
        match named.len() {
            0 => {}
            1 => text.push_str("It is tried again."),
            2..=MOST_NAMED => text.push_str("They are tried again."),
            all => {
                let more = all - MOST_NAMED;
                let _ = write!(text, "Further refusals: {more}. All are tried again.");
            }
        }
        text
    }

    /// Why a version gets no more weight for now. The condition has the API server's message.
    pub fn sentence(&self) -> String {
        format!("{} {} has to be written first.", self.kind, self.name)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kind, name, words, ..
        } = self;
        write!(f, "{kind} {name} cannot be written: {words}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_stands_in_the_message_once_and_of_many_the_first_three() {
        let refused = |name: &str, words: &str| Refusal {
            kind: "Service".to_owned(),
            name: name.to_owned(),
            revision: None,
            reason: "AdmissionDenied".to_owned(),
            words: words.to_owned(),
            transient: words == "busy",
        };
        let mut all = vec![refused("a", "no"), refused("b", "no"), refused("c", "busy")];
        let text = |all: &[Refusal]| Refusal::sentences(all, &State::default());
        assert_eq!(text(&all[2..]), "");
        assert_eq!(
            text(&all),
            "Service a cannot be written: no. It is tried again."
        );
        all.push(refused("d", "never"));
        assert_eq!(
            text(&all),
            "Service a cannot be written: no. Service d cannot be written: never. \
             They are tried again."
        );
        all.extend([refused("e", "not now"), refused("f", "not here")]);
        assert!(text(&all).ends_with("not now. Further refusals: 1. All are tried again."));
    }
}
