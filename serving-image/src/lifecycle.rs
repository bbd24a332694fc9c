//! Loading, ready, draining: what `/readyz` says, and the model once there is one.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::generate::Generator;
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

/// What a process serves: one of the two, all its life.
#[derive(Debug)]
pub enum Engine {
    /// Answers instances with predictions.
    Model(Arc<Model>),
    /// Answers prompts with text.
    Generator(Arc<Generator>),
}

/// The process's phase, shared by the server and the handlers.
#[derive(Debug, Default)]
pub struct Lifecycle {
    engine: OnceLock<Engine>,
    draining: AtomicBool,
}

impl Lifecycle {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        if self.draining.load(Ordering::Acquire) {
            Phase::Draining
        } else if self.engine.get().is_some() {
            Phase::Ready
        } else {
            Phase::Loading
        }
    }

    /// The model that predicts, once it is verified, loaded and warm.
    pub fn model(&self) -> Option<&Arc<Model>> {
        match self.engine.get() {
            Some(Engine::Model(model)) => Some(model),
            _ => None,
        }
    }

    /// The model that writes, once it is verified, loaded and warm.
    pub fn generator(&self) -> Option<&Arc<Generator>> {
        match self.engine.get() {
            Some(Engine::Generator(generator)) => Some(generator),
            _ => None,
        }
    }

    /// Makes the process ready. Only the first model counts: a process serves one version all its life.
    pub fn ready(&self, engine: Engine) {
        let _ = self.engine.set(engine);
    }

    /// Takes readiness away, for good.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }
}
