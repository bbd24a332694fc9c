//! The two versions that evidence compares.

use serde::{Deserialize, Serialize};

/// The two versions of one ModelDeployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Namespace of the ModelDeployment.
    pub namespace: String,
    /// Name of the ModelDeployment.
    pub name: String,
    /// Revision on trial.
    pub canary: String,
    /// Revision that it would replace.
    pub stable: String,
}

/// One of the two versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// The version on trial.
    Canary,
    /// The version that it would replace.
    Stable,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Canary => "canary",
            Self::Stable => "stable",
        })
    }
}
