//! The second stage: reads the API server and Prometheus into an owned [`Snapshot`], from which a
//! decision is made.

mod cluster;
mod dry_run;
mod health;
mod history;
mod live;
pub mod metrics;
mod pod_problem;
mod readings;
mod refusal;
mod snapshot;
mod tracker;

pub use cluster::{Children, children};
pub use dry_run::{DryRunRefusal, DryRuns};
pub use history::History;
pub use live::{ReadError, health, history, model};
pub use pod_problem::{ContainerEnd, PodProblem, UnmetCondition};
pub use readings::EvidenceReader;
pub use refusal::Refusal;
pub use snapshot::{Snapshot, Unmeasurable, VersionHealth};
pub use tracker::{MOST_IN_A_SECOND, ReconcileTracker};
