//! What to do next with a rollout: pure functions from what was observed to a decision.
//!
//! No client, no clock, no async and no randomness in here, so that a recorded snapshot replays to
//! the same decision on any machine. The files import each other one way, from the bottom up:
//!
//! - `objectives`: which [`gate`](crate::gate) judges which objective;
//! - `memory`: what gates remember, as a look begins;
//! - `context`: the inputs of one decision and its outcome so far;
//! - `transitions`, `commands`, `pods`, `analysis`, `first_step`: what every phase may use;
//! - `phases`: one file a phase of the state machine; `decide`: which phase it is.

mod analysis;
mod commands;
mod context;
mod decide;
mod decision;
mod first_step;
mod memory;
mod objective_record;
mod objectives;
mod phases;
mod pods;
mod recording;
mod transitions;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use analysis::{SHARE_CHECK_REQUESTS, SHARE_SETTLES, SHARE_TOLERANCE};
pub use decide::{decide, withdraw_trial};
pub use decision::{Decision, Unfit};
pub use first_step::HIGHEST_START;
pub use memory::{begun, resume};
pub use objectives::{Finding, Terms};
pub use pods::failing_version;
pub use recording::Recording;
