//! The phases of the process (loading, ready, draining), which `/readyz` reports, and the loaded
//! model.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::artefact::{Artefact, Kind};
use crate::explain::{self, Explainer};
use crate::generate::{Generator, LoadGeneratorError, Settings};
use crate::metrics::GenerationMetrics;
use crate::model::{LoadError, Model};

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The artefact is being verified, loaded and warmed up.
    Loading,
    /// Predictions are answered.
    Ready,
    /// SIGTERM has come: predictions are still answered, but `/readyz` answers 503.
    Draining,
}

/// What a process serves, from readiness to its end.
#[derive(Debug)]
pub enum Engine {
    /// Answers instances with predictions, and explains them where its manifest has a background.
    Model(Arc<Model>, Option<Explainer>),
    /// Answers prompts with text.
    Generator(Arc<Generator>),
}

/// Why an artefact cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadEngineError {
    /// A model that predicts cannot be loaded.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// A model that generates text cannot be loaded.
    #[error(transparent)]
    Generator(#[from] LoadGeneratorError),
}

impl Engine {
    /// Verifies, builds, checks and warms up what the artefact describes. Blocks. An error where
    /// the artefact differs from its manifest, cannot be built or does not reproduce its examples.
    pub fn load(
        artefact: Artefact,
        settings: Settings,
        metrics: &GenerationMetrics,
    ) -> Result<Self, LoadEngineError> {
        if artefact.manifest.kind == Kind::Generation {
            let generator = Generator::load(&artefact, settings, metrics.clone())?;
            return Ok(Self::Generator(Arc::new(generator)));
        }
        let (model, explainer) = explain::load(artefact)?;
        Ok(Self::Model(Arc::new(model), explainer))
    }
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
            Some(Engine::Model(model, _)) => Some(model),
            _ => None,
        }
    }

    /// How the model's answers are explained, once it is loaded and where its manifest has a
    /// background.
    pub fn explainer(&self) -> Option<&Explainer> {
        match self.engine.get() {
            Some(Engine::Model(_, explainer)) => explainer.as_ref(),
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

    /// Makes the process ready. Later calls have no effect: a process serves one version.
    pub fn ready(&self, engine: Engine) {
        let _ = self.engine.set(engine);
    }

    /// Ends readiness for the rest of the process.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }
}
