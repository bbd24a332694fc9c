//! The bundled inference server: one model artefact, served over HTTP by candle.
//!
//! The way of a process, and of a request, by module:
//!
//! ```text
//! before   cli ─► fetch (in a pod's init container: from a registry, bucket or server into the artefact directory)
//! start    cli ─► artefact (digest check) ─► model (load, golden check, warm-up) ─► lifecycle: Ready
//! request  http (limits, JSON) ─► preprocess (manifest's contract) ─► compute (bounded threads) ─► model
//!          texts go from there through batching, which computes those of many requests together
//! end      lifecycle: Draining ─► server (serve on, stop accepting, finish what is in flight)
//! ```
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
