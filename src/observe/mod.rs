//! What is: the API server's and Prometheus' account, as an owned [`Snapshot`] that a decision can be made from.

mod attention;
mod cluster;
mod dry_run;
mod evidence;
mod health;
mod history;
mod live;
pub mod metrics;
mod refusal;
mod snapshot;

pub use attention::{Attention, MOST_IN_A_SECOND};
pub use cluster::{Children, children};
pub use dry_run::{DryRuns, Refused};
pub use evidence::Evidence;
pub use history::History;
pub use live::{ReadError, health, history, model};
pub use refusal::Refusal;
pub use snapshot::{Snapshot, Unmeasurable, VersionHealth};
