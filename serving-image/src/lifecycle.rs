//! Loading, ready, draining: what `/readyz` says, and the model once there is one.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::Model;

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The artefact is being verified, loaded and warmed up.
    Loading,
    /// Predictions are answered.
    Ready,
    /// The end was asked for: predictions are still answered, but `/readyz` says no.
    Draining,
}

/// The process's phase, shared by the server and the handlers.
#[derive(Debug, Default)]
pub struct Lifecycle {
    model: OnceLock<Arc<Model>>,
    draining: AtomicBool,
}

impl Lifecycle {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        if self.draining.load(Ordering::Acquire) {
            Phase::Draining
        } else if self.model.get().is_some() {
            Phase::Ready
        } else {
            Phase::Loading
        }
    }

    /// The model, once it is verified, loaded and warm.
    pub fn model(&self) -> Option<&Arc<Model>> {
        self.model.get()
    }

    /// Makes the process ready. Only the first model counts: a process serves one version all its life.
    pub fn ready(&self, model: Arc<Model>) {
        let _ = self.model.set(model);
    }

    /// Takes readiness away, for good.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }
}
