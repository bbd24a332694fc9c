//! What to do next with a rollout: pure functions from what was observed to a decision.
//!
//! No client, no clock, no async and no randomness in here, so that a recorded snapshot replays to
//! the same decision on any machine.

mod decide;
mod evidence;
pub mod gate;
mod gates;
mod moves;
mod pods;
mod recording;
mod start;
mod trial;
mod turn;
mod word;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use decide::{Decision, Unfit, decide, serving_all, withdraw_trial};
pub use gates::{Finding, Terms};
pub use pods::accused;
pub use recording::Recording;
pub use start::HIGHEST_START;
pub use trial::{SHARE_CHECK_REQUESTS, SHARE_SETTLES, SHARE_TOLERANCE};
