//! Why a reconcile failed, by the phase in which it did.

use super::apply::ApplyError;
use crate::{
    k8s::{NoAnswer, words},
    observe::ReadError,
};

/// Why a reconcile failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The ModelDeployment or its history could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An object could not be brought about.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The status could not be written.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The reconcile panicked; other models are not concerned.
    #[error("the reconcile panicked: {0}")]
    Panic(String),
}

/// Why a status could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The API server refused; a conflict means that somebody else wrote, and all is decided anew.
    #[error("cannot write the status: {}", words(.0))]
    Refused(#[source] kube::Error),
    /// The API server did not answer in time.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}
