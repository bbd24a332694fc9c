//! The limit by which a latency objective counts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A latency threshold, snapped down to the nearest bucket edge.
///
/// A histogram counts only requests that took longer than one of its edges. Snapping down is the
/// strict side: every request slower than the objective is bad, and some that are faster, by less
/// than one bucket, are bad too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapped {
    /// The objective.
    pub asked: Duration,
    /// The edge used: at most `asked`, and the same for both versions.
    pub edge: Duration,
    /// How the series spell the edge in `le` (`1` and `1.0` are one edge).
    pub spellings: Vec<String>,
}
