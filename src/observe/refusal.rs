//! A write that the API server refused, as data: a decision may depend on it, and the status shows it.

use serde::{Deserialize, Serialize};

use crate::api::{Revision, State};

/// An object that could not be written, and has not been since.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The object's kind.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// The version that the object is for; absent for the objects of the model itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// Why, as the reason of a condition.
    pub reason: String,
    /// What the API server said, shortened.
    pub words: String,
    /// Whether the next attempt may well succeed (no answer, an overloaded server): nothing that a person has to see yet.
    #[serde(default)]
    pub transient: bool,
}

impl Refusal {
    /// Whether the object is one of the model itself, of the version in force or of the one on trial. What is kept of
    /// older versions holds nothing up.
    pub fn concerns(&self, state: &State) -> bool {
        self.revision.as_ref().is_none_or(|revision| {
            let stable = state.stable.as_ref().map(|version| &version.revision);
            let canary = state.canary.as_ref().map(|version| &version.revision);
            [stable, canary].contains(&Some(revision))
        })
    }

    /// Why a version gets no more weight for now. What the API server said stands in the condition.
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
