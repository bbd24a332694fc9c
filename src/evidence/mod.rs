//! Evidence as plain data: readings, counts, cursors, thresholds and the memory of gates.
//!
//! The lowest layer: it imports no other module of this crate. [`crate::api`] keeps this data in
//! status, `observe` reads it from Prometheus, and `rollout` judges it.

mod blind;
mod counts;
mod cursors;
mod memory;
mod reading;
mod threshold;
mod versions;

pub use blind::BlindReason;
pub(crate) use blind::shortened;
pub use counts::{Observation, Tally};
pub(crate) use cursors::{Carried, Net, Standing, Surplus};
pub use cursors::{Cursors, Span};
pub use memory::{DriftState, GateState, MarginState, Memory, ValueState};
pub(crate) use memory::{Ledger, RELATIVE_ALTERNATIVES, SLO_ALTERNATIVES, Spread};
pub use reading::{Classes, Reading, Value, Window};
pub use threshold::Snapped;
pub use versions::{Side, Versions};
