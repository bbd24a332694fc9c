//! Moves traffic between the versions of a model: one module a router.
//!
//! A router is given weights and endpoints and reports what it has taken over. It decides nothing: which version may have
//! which weight is the work of the rollout.

pub mod envoy;
mod front;
pub mod ports;
pub mod refusals;
mod routes;

pub use front::{Front, Reach};
pub use routes::{publish, routes};
