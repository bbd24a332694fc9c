//! The grid: every state that the operator can be in × every event that a cluster brings.
//!
//! A cell brings a model into a state, starts the event, ends the trial during the event, replaces
//! the routers meanwhile, and runs until all is done. It passes only if the state was reached and
//! the event took effect in it.
//!
//! ```text
//! SERIN_GRID_CELL=Canary10/DeploymentsDenied \
//!   cargo test --workspace --test world -- grid::one_cell --nocapture
//! ```

mod cell;
mod event;
mod happening;
mod oracle;
mod place;
mod table;

use crate::faults::{Fault, Faults, Window};

impl Faults {
    /// Starts the fault, which lasts until [`Self::end`].
    pub fn begin(&mut self, fault: Fault, from_ms: u64) {
        self.windows.push(Window {
            fault,
            from_ms,
            to_ms: u64::MAX / 2,
        });
    }

    /// Ends the fault now.
    pub fn end(&mut self, fault: Fault) {
        let its = self
            .windows
            .iter_mut()
            .filter(|window| window.fault == fault);
        for window in its {
            window.to_ms = window.to_ms.min(self.now_ms);
        }
    }
}
