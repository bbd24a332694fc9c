//! Serin rolls machine-learning models out as canaries.
//!
//! ```text
//! watch ─► observe ─► decide ─► plan ─► apply ─► status
//!          (I/O)      (pure)    (pure)  (I/O)    (I/O)
//! ```
//! Imports run one way; `tests/layers.rs` holds it:
//!
//! ```text
//! evidence ← {gate, api} ← k8s ← router ← observe ← sentences ← {rollout, plan} ← controller
//!     ← runtime ← report ← backtest ← cli
//! ```
//! [`controller`] strings the stages together.

pub mod api;
pub mod backtest;
pub mod cli;
pub mod controller;
pub mod evidence;
pub mod gate;
pub mod k8s;
pub mod observe;
pub mod plan;
pub mod report;
pub mod rollout;
pub mod router;
pub mod runtime;
mod sentences;
