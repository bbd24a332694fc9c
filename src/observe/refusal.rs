//! A write that the API server refused, as data for decisions and the status.

use serde::{Deserialize, Serialize};

use crate::api::{Revision, State};

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
}
