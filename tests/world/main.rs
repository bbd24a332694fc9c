//! A simulated cluster: the operator's real loop, watches and metrics reader run against an API
//! server, a cluster and a Prometheus in memory, under a paused clock. A seed determines the story,
//! all faults and every delay, so a world that breaks an invariant can be played again:
//!
//! ```text
//! SERIN_WORLD_SEED=17 cargo test -p serin --test world -- one_seed --nocapture
//! ```
//! Only where a seed has two models that are due at once is their order random.
//!
//! `SERIN_WORLD_SEEDS` sets the number of seeds (0, 1, 2 …), `SERIN_WORLD_FROM` the first one.

#![allow(clippy::unwrap_used, clippy::cast_possible_wrap, missing_docs)]

mod admission;
mod apply;
mod endings;
mod faults;
mod grid;
mod hpa;
mod invariants;
mod kinds;
mod model_ref;
mod nodes;
mod objects;
mod operator;
mod prometheus;
mod promql;
mod replicas;
mod request;
mod rng;
mod routers;
mod run;
mod second_router;
mod service;
mod story;
mod tests;
mod traffic;
mod watches;
mod wire;
mod world;
mod written;
