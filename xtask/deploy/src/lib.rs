//! Serin on a cluster: its images, the chart installed from them, and the commands `demo` and
//! `play` as far as they run outside the cluster's network.
//!
//! Nothing here needs the operator's code: a cold start compiles it only once the cluster and the
//! images are there, for the program that plays a scenario ([`lab`]).

mod demo;
pub mod images;
mod install;
mod inventory;
pub mod lab;
mod play;
mod preflight;
mod supervise;
mod upgrade;

pub use self::demo::{DemoArgs, demo};
pub use self::install::NAMESPACE;
pub use self::play::{EVENTS, PlayArgs, Scenario, play};

/// Label of the namespaces that are made, and removed, here.
pub const OURS: &str = "serin.dev/lab";
