//! Routers: what moves traffic between the versions of a model.
//!
//! A router is given weights and endpoints and reports what it has taken over. It decides nothing: which version may have
//! which weight is the work of the rollout.

pub mod envoy;
