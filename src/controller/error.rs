//! Why a reconcile failed, by the phase in which it did.

use super::apply::ApplyError;
use crate::{
    k8s::{NoAnswer, is_code, words},
    observe::ReadError,
};

/// Why a reconcile failed. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Observe: the ModelDeployment or its history could not be read.
    #[error(transparent)]
    Observe(#[from] ReadError),
    /// Apply: the persisted state could not be brought about.
    #[error(transparent)]
    CatchUp(#[from] CatchUpError),
    /// Status: it could not be written.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// Apply: the state that was just written could not be brought about.
    #[error(transparent)]
    Follow(#[from] ApplyError),
    /// The reconcile panicked with this message. Other models are not affected.
    #[error("reconcile panicked ({0})")]
    Panic(String),
}

impl ReconcileError {
    /// Whether another writer was first.
    pub(super) fn is_conflict(&self) -> bool {
        match self {
            Self::Status(error) | Self::CatchUp(CatchUpError::Confirm(error)) => {
                error.is_conflict()
            }
            _ => false,
        }
    }
}

/// Why a persisted state could not be brought about.
#[derive(Debug, thiserror::Error)]
pub enum CatchUpError {
    /// An object could not be applied or deleted.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The API server did not confirm that the state is still in force, so nothing was removed.
    #[error(transparent)]
    Confirm(#[from] StatusError),
}

/// Why a status could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The API server refused. A conflict means that another writer was first.
    #[error("cannot write the status: {}", words(.0))]
    Refused(#[source] kube::Error),
    /// The API server did not answer in time.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

impl StatusError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused(error) if is_code(error, 409))
    }
}
