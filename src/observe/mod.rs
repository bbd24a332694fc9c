//! What is: the API server's and Prometheus' account, as an owned [`Snapshot`] that a decision can be made from.

mod attention;
mod cluster;
mod evidence;
mod health;
mod live;
pub mod metrics;
mod refusal;
mod snapshot;

pub use attention::{Attention, MOST_IN_A_SECOND};
pub use cluster::{Children, children, endpoints, endpoints_of_service, is_child};
pub use evidence::Evidence;
pub use live::{ReadError, health, history, model};
pub use refusal::Refusal;
pub use snapshot::{Snapshot, Unmeasurable, VersionHealth};
