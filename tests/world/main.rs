//! Serin in a world of its own: the real loop, watches and metrics reader against an API server, a cluster and a Prometheus
//! that live in memory under a paused clock. A seed decides on a story, on everything that goes wrong and on every delay, so a
//! world that breaks an invariant breaks it again:
//!
//! ```text
//! SERIN_WORLD_SEED=17 cargo test -p serin --test world -- one_seed --nocapture
//! ```
//! Only where a seed has two models, and both are due at once, is it left to chance which of them is looked at first.
//!
//! `SERIN_WORLD_SEEDS` says how many are tried (their numbers are 0, 1, 2 …), `SERIN_WORLD_FROM` where they begin.

#![allow(clippy::unwrap_used, clippy::cast_possible_wrap, missing_docs)]

mod admission;
mod apply;
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
mod story;
mod tests;
mod traffic;
mod watches;
mod wire;
mod world;
