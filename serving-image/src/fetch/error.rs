//! Why an artefact was not fetched: a sentence for the user, and an exit code for the supervisor.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

/// Why an artefact was not fetched. Each sentence names the error and the remedy, and never
/// holds a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// A flag, the address or a credential is malformed: exit code 2.
    #[error("{field}: {remedy}")]
    Usage {
        /// The flag, or the error.
        field: String,
        /// What was expected.
        remedy: String,
    },
    /// The platform does not allow it: exit code 3.
    #[error("refused: {0}")]
    Refused(String),
    /// The source answered that it is not there, or not in a shape that can be fetched: exit code
    /// 4.
    #[error("{0}")]
    Source(String),
    /// What came is not the artefact that was asked for, or is hostile: exit code 5.
    #[error("{0}")]
    Content(String),
    /// The source could not be reached, or broke off, more often than `--retries` allows: exit code
    /// 6.
    #[error("{message}")]
    Network {
        /// What happened the last time.
        message: String,
        /// How long the source asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// The directory or the cache cannot be written: exit code 7.
    #[error("{0}")]
    Storage(String),
    /// The source refuses the credentials, or refuses for another reason: exit code 8.
    #[error("{0}")]
    Denied(String),
}

impl FetchError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Refused(_) => 3,
            Self::Source(_) => 4,
            Self::Content(_) => 5,
            Self::Network { .. } => 6,
            Self::Storage(_) => 7,
            Self::Denied(_) => 8,
        }
    }

    pub(super) fn usage(field: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Usage {
            field: field.into(),
            remedy: remedy.into(),
        }
    }

    pub(super) fn network(message: impl Into<String>) -> Self {
        Self::Network {
            message: message.into(),
            retry_after: None,
        }
    }

    pub(super) fn storage(path: &Path, error: impl Display) -> Self {
        Self::Storage(format!(
            "cannot write {}: {error}. The volume needs room for the artefact, and must be \
             writable for this user",
            path.display()
        ))
    }
}
