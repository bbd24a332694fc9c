//! The bundled inference server: one model artefact, served over HTTP by candle.
//!
//! The phases of a process and of a request, by module:
//!
//! ```text
//! before   cli ─► fetch (a pod's init container: registry, bucket or server ─► artefact directory)
//! start    cli ─► artefact (digest) ─► model (load, golden examples, warm-up) ─► explain
//!          ─► lifecycle: Ready
//! request  http (limits, JSON) ─► preprocess (the manifest's contract)
//!          ─► compute (bounded threads) ─► model
//!          texts: ─► batching, which computes those of many requests together ─► model
//! end      lifecycle: Draining ─► server (keep serving, stop accepting, finish requests)
//! ```
//!
//! Modules import each other without a circle (`layers.rs` tests it).
//!
//! The manifest `serin-model.json` is the only source of preprocessing, validation, `/openapi.json`
//! and labels.

pub mod answer;
pub mod args;
pub mod array;
pub mod artefact;
pub mod batch;
pub mod batching;
pub mod bench;
pub mod check;
pub mod cli;
pub mod compute;
pub mod explain;
pub mod faults;
pub mod fetch;
#[cfg(test)]
mod fuzzing;
pub mod generate;
pub mod healthcheck;
pub mod http;
pub mod json;
#[cfg(test)]
mod layers;
pub mod lifecycle;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod picture;
pub mod prediction;
pub mod preprocess;
pub mod run;
pub mod server;
pub mod telemetry;
pub mod tls;
