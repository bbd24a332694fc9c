//! Why a batch job ends early, with the exit code of each reason.

use std::io;

use super::source::InputError;
use crate::model::LoadError;

/// Why a job ends before its end. Each has its exit code.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The command line, or what an earlier run left, does not fit (2).
    #[error("{0}")]
    Usage(String),
    /// The model cannot be loaded (1).
    #[error("the model cannot be loaded: {0}")]
    Load(#[from] LoadError),
    /// The model fails at a prediction (1).
    #[error("the prediction failed: {0}")]
    Predict(candle_core::Error),
    /// A thread panicked (1).
    #[error("the computation panicked: {0}")]
    Panicked(String),
    /// Too many rows are wrong (3).
    #[error(
        "{rejected} rows are rejected, more than --max-rejects {bound}; the last one is row \
         {row}: {field}{}{expected} expected",
        if field.is_empty() { "" } else { ": " }
    )]
    Rejects {
        /// How many.
        rejected: u64,
        /// How many may be.
        bound: u64,
        /// The last one.
        row: u64,
        /// Its field; empty where the whole row is meant.
        field: String,
        /// What should be there.
        expected: String,
    },
    /// The input cannot be read (4).
    #[error("the input cannot be read: {0}")]
    Input(InputError),
    /// The output, the reject file or the checkpoint cannot be written (5).
    #[error("the output cannot be written: {0}")]
    Output(io::Error),
}

impl BatchError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Load(_) | Self::Predict(_) | Self::Panicked(_) => 1,
            Self::Usage(_) => 2,
            Self::Rejects { .. } => 3,
            Self::Input(_) => 4,
            Self::Output(_) => 5,
        }
    }
}
