//! The grid: every state that the operator can be in × every event that a cluster brings.
//!
//! A cell brings a model into a state, lets the event happen in it, ends the trial in the middle of it, replaces the routers
//! while it lasts, and looks on until all is done. It passes only if the state was reached and the event took effect in it.
//!
//! ```text
//! SERIN_GRID_CELL=Canary10/DeploymentsDenied cargo test -p serin --test world -- grid::one_cell --nocapture
//! ```

mod cell;
mod event;
mod happening;
mod oracle;
mod place;
mod table;

use crate::faults::{Fault, Faults, Window};

impl Faults {
    /// Something begins to go wrong, until it ends.
    pub fn begin(&mut self, fault: Fault, from_ms: u64) {
        self.windows.push(Window {
            fault,
            from_ms,
            to_ms: u64::MAX / 2,
        });
    }

    /// It ends now.
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
