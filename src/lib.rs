//! Serin rolls machine-learning models out as canaries.

pub mod rollout;
pub mod targets;
pub mod traffic;
