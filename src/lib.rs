//! Serin rolls machine-learning models out as canaries.

pub mod observe;
pub mod rollout;
pub mod targets;
pub mod traffic;
