//! Writes that the API server refused, in words.

use std::fmt::{self, Display, Formatter, Write as _};

use crate::observe::Refusal;

/// Most refusals that one message names.
const MOST_NAMED: usize = 3;

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            kind, name, words, ..
        } = self;
        write!(f, "{kind} {name} cannot be written: {words}")
    }
}

/// Refusals as sentences, each message of the API server once. Empty if there is none.
pub(super) fn refusals(refused: &[&Refusal]) -> String {
    let mut named: Vec<&Refusal> = Vec::new();
    for refusal in refused {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::State;

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
        let text = |all: &[Refusal]| {
            let state = State::default();
            refusals(&Refusal::shown(all, &state).collect::<Vec<_>>())
        };
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
