//! What to do next with a rollout: pure functions from what was observed to a decision.
//!
//! No client, no clock, no async and no randomness in here, so that a recorded snapshot replays to
//! the same decision on any machine.

mod analysis;
mod commands;
mod context;
mod decide;
mod first_step;
pub mod gate;
mod objective_record;
mod objectives;
mod pods;
mod recording;
mod transitions;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use analysis::{SHARE_CHECK_REQUESTS, SHARE_SETTLES, SHARE_TOLERANCE};
pub use decide::{Decision, Unfit, decide, serving_all, withdraw_trial};
pub use first_step::HIGHEST_START;
pub use objectives::{Finding, Terms};
pub use pods::failing_version;
pub use recording::Recording;
