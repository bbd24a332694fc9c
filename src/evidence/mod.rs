//! Evidence as plain data: what was read, what was counted, up to where, and what gates remember of
//! it.
//!
//! The ground floor: it imports nothing of ours. [`crate::api`] keeps this data in status, the
//! module
//! `observe` reads it from Prometheus, and `rollout` judges it.

mod blind;
mod counts;
mod cursors;
mod memory;
mod reading;
mod threshold;
mod versions;

pub use blind::BlindReason;
pub(crate) use blind::shortened;
pub use counts::{Look, Tally};
pub(crate) use cursors::{Carried, Net, Standing, Surplus};
pub use cursors::{Cursors, Span};
pub use memory::{DriftState, GateState, MarginState, Memory, ValueState};
pub(crate) use memory::{Ledger, RELATIVE_ALTERNATIVES, SLO_ALTERNATIVES, Spread};
pub use reading::{Classes, Reading, Value, Window};
pub use threshold::Snapped;
pub use versions::{Side, Versions};
