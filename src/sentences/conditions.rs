//! What conditions say, as data and in words.

use std::fmt::{self, Display, Formatter};

use super::{pods::pods_of, refusals::refusals};
use crate::{
    api::{State, validate::Invalid},
    observe::{Refusal, VersionHealth},
};

/// The message of a condition.
#[derive(Clone)]
pub(crate) enum Message<'a> {
    /// The pods of the version in force.
    Pods(ServingPods<'a>),
    /// No router is Ready.
    NoRouter(ServingPods<'a>),
    /// The model's address does not answer yet.
    NotAnswering(ServingPods<'a>),
    /// What the last decision said, and the annotations that could not be understood.
    Decided(&'a State),
    /// The spec cannot be used.
    InvalidSpec {
        /// What is wrong with it.
        faults: &'a [Invalid],
        /// The version in force.
        stable: Option<&'a str>,
        /// Objects of that version that are refused.
        refused: Vec<&'a Refusal>,
    },
    /// Objects are refused, besides what else there is to say.
    Refused(Vec<&'a Refusal>, Box<Self>),
    /// Nothing is under way.
    Idle,
    /// Nothing needs a person.
    NeedsNobody,
}

/// The pods of the version in force.
#[derive(Clone, Copy)]
pub(crate) struct ServingPods<'a> {
    /// The version; none if no version serves yet.
    pub(crate) version: Option<&'a str>,
    /// What is known of its pods.
    pub(crate) health: &'a VersionHealth,
    /// How many pods the spec asks for.
    pub(crate) replicas: i32,
}

impl Display for Message<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods(pods) => write!(f, "{pods}"),
            Self::NoRouter(pods) => write!(
                f,
                "{pods} No router is Ready: nothing answers at the model's address."
            ),
            Self::NotAnswering(pods) => {
                write!(f, "{pods} The model's address does not answer yet.")
            }
            Self::Decided(state) => {
                f.write_str(&state.message)?;
                for ignored in &state.invalid_annotations {
                    write!(f, " Ignored: {ignored}")?;
                }
                Ok(())
            }
            Self::InvalidSpec {
                faults,
                stable,
                refused,
            } => {
                f.write_str(&invalid(faults))?;
                if let Some(stable) = stable {
                    write!(f, ". Version {stable} serves on, untouched.")?;
                }
                if !refused.is_empty() {
                    write!(f, " {}", refusals(refused))?;
                }
                Ok(())
            }
            Self::Refused(refused, message) => write!(f, "{} {message}", refusals(refused)),
            Self::Idle => f.write_str("Nothing is under way."),
            Self::NeedsNobody => f.write_str("Nothing needs a person."),
        }
    }
}

impl Display for ServingPods<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => f.write_str(&pods_of(version, self.health, self.replicas)),
            None => f.write_str("No version serves yet."),
        }
    }
}

/// What is wrong with a spec.
pub(crate) fn invalid(faults: &[Invalid]) -> String {
    let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
    faults.join("; ")
}
