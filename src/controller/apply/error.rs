//! Why an object could not be applied.

use crate::{
    api::conditions::reasons,
    k8s::{self, NoAnswer, words},
};

/// Why an object could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The name is taken by an object that this model does not own.
    #[error("{kind} {name} exists and belongs to {owner}: {remedy}")]
    NameTaken {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// Who owns it.
        owner: String,
        /// What a person can do.
        remedy: String,
    },
    /// The name is taken by an object of an earlier ModelDeployment of this name. It is deleted
    /// with that one.
    #[error(
        "{kind} {name} belongs to an earlier ModelDeployment of this name and is being deleted: \
         waiting for it to be gone"
    )]
    AwaitingDeletion {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
    },
    /// The API server refused.
    #[error("cannot apply {kind} {name}: {}", words(source))]
    Refused {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// The API server's answer.
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// The plan removes or adopts something, and the API server has not confirmed that the state it
    /// was made from is still in force.
    #[error("refusing to remove or adopt {what}: state not confirmed")]
    Unconfirmed {
        /// The object's kind and name.
        what: String,
    },
}

impl ApplyError {
    pub(super) fn refused(kind: &str, name: &str, source: kube::Error) -> Self {
        Self::Refused {
            kind: kind.to_owned(),
            name: name.to_owned(),
            source: Box::new(source),
        }
    }

    /// The API server's message, without kind and name of the object.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Refused { source, .. } => words(source),
            error => error.to_string(),
        }
    }

    /// The reason for a condition.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NameTaken { .. } => reasons::NAME_TAKEN,
            Self::AwaitingDeletion { .. } => reasons::AWAITING_DELETION,
            Self::Refused { source, .. } => k8s::reason(source),
            Self::NoAnswer(_) | Self::Unconfirmed { .. } => reasons::WRITE_REFUSED,
        }
    }

    /// Whether the next attempt may well succeed: no answer, a conflict, too many requests, a fault
    /// of the server.
    pub(super) fn usually_passes(&self) -> bool {
        match self {
            Self::NameTaken { .. } | Self::AwaitingDeletion { .. } => false,
            Self::NoAnswer(_) | Self::Unconfirmed { .. } => true,
            Self::Refused { source, .. } => match &**source {
                kube::Error::Api(status) => !matches!(status.code, 400..=408 | 410..=428),
                _ => true,
            },
        }
    }
}
