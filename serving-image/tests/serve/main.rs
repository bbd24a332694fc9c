//! The server as a process, over real HTTP.
#![allow(clippy::unwrap_used)]

mod artefact;
#[cfg(feature = "batch-parquet")]
mod batch;
mod batching;
mod bench;
mod check;
mod clients;
mod contract;
mod disconnect;
mod drain;
mod embeddings;
mod explain;
mod faults;
mod generation;
mod generation_refusals;
mod graphs;
mod pictures;
mod secure;
mod support;
mod tabular;
mod telemetry;
mod v2;
mod wrong_requests;
