//! Serin rolls machine-learning models out as canaries.
//!
//! ```text
//! watch ─► observe ─► decide ─► plan ─► apply ─► status
//!          (I/O)      (pure)    (pure)  (I/O)    (I/O)
//! ```
//! One module a stage, in this order: [`watch`], [`observe`], [`rollout`], [`plan`], [`apply`], [`status`];
//! [`controller`] strings them together, and [`traffic`] is the routers' side of it.

pub mod api;
pub mod apply;
pub mod backtest;
pub mod cli;
pub mod clock;
pub mod controller;
pub mod events;
pub mod evidence;
pub mod http;
pub mod k8s;
pub mod leader;
pub mod log;
pub mod metrics;
pub mod observe;
pub mod operator;
pub mod plan;
pub mod recordings;
pub mod replay;
pub mod report;
pub mod rollout;
pub mod schema;
pub mod settings;
pub mod status;
pub mod targets;
pub mod tools;
pub mod traffic;
pub mod watch;
