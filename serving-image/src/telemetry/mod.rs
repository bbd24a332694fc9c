//! OpenTelemetry: the spans of requests, exported by OTLP over HTTP. Off unless the standard
//! variables ask for it.
//!
//! ```text
//! request ─► Tracer::begin (sampled?) ─► Timeline ─► part("queue"), part("forward") …
//!         ─► Timeline::end; last clone dropped ─► queue ─► exporter (a thread) ─► collector
//! ```
//!
//! [`part`] finds the timeline of the current request on any thread, so that no signature carries
//! it. For a request that is not traced, it reads one thread-local.
//!
//! What leaves the process: names, times and counts. The attributes of a part are numbers by their
//! type, so that no payload can get into one.

mod export;
mod otlp;
mod sampler;
mod settings;
mod timeline;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{info, warn};

pub use export::ExportMetrics;
use export::{Exporter, Queue};
use sampler::Sampler;
use settings::{Choice, Settings};
use timeline::Context;
pub use timeline::{Part, Served, Timeline, part, scoped};

/// Longest time that the last spans have at the end of the process. With the default drain it ends
/// well within the 30 s that Kubernetes gives.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Decides which requests are traced, and has their spans exported.
#[derive(Debug)]
pub struct Tracer {
    sampler: Sampler,
    queue: Arc<Queue>,
    /// None once it is closed.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

/// What a request says about the trace that it is part of.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// The trace.
    pub trace: [u8; 16],
    /// Our span in it.
    pub span: [u8; 8],
    /// The caller's span, if there is one.
    pub parent: Option<[u8; 8]>,
    /// The caller's flags; 0 without a caller's span.
    pub flags: u8,
}

/// The flag that a trace is recorded.
pub const SAMPLED: u8 = 1;

impl Tracer {
    /// The tracer that the environment's `OTEL_…` variables describe, for a model of that name and
    /// version.
    ///
    /// None where they ask for none, and where what they ask for cannot be had: then the log says
    /// what, and the model is served without.
    pub fn from_environment(model: &str, version: &str) -> Option<Self> {
        let (choice, complaints) = settings::read(|name| std::env::var(name).ok());
        for complaint in complaints {
            warn!("{complaint}");
        }
        let settings = match choice {
            Choice::Off => return None,
            Choice::Impossible(reason) => {
                warn!(reason, "spans are not exported");
                return None;
            }
            Choice::On(settings) => *settings,
        };
        match Self::start(settings, model, version) {
            Ok(tracer) => Some(tracer),
            Err(reason) => {
                warn!(reason, "spans are not exported");
                None
            }
        }
    }

    fn start(settings: Settings, model: &str, version: &str) -> Result<Self, String> {
        let sampler = settings.sampler;
        let queue = Arc::new(Queue::new(settings.limits));
        let exporter = Exporter::new(settings, model, version, Arc::clone(&queue))?;
        info!(endpoint = exporter.origin(), ?sampler, "spans are exported");
        let ended = exporter.start().map_err(|error| error.to_string())?;
        Ok(Self {
            sampler,
            queue,
            ended: Mutex::new(Some(ended)),
        })
    }

    /// Whether a request's spans are recorded, and what they are recorded in.
    pub fn begin(&self, origin: Origin) -> Timeline {
        let parent = origin.parent.map(|_| origin.flags & SAMPLED == SAMPLED);
        if !self.sampler.takes(origin.trace, parent) {
            return Timeline::default();
        }
        let flags = origin.flags | SAMPLED;
        let context = Context::new(Origin { flags, ..origin });
        Timeline::begin(context, Arc::clone(&self.queue))
    }

    /// The series of what is exported and what is lost.
    pub fn metrics(&self) -> &ExportMetrics {
        self.queue.metrics()
    }

    /// Exports what there is, for [`LAST_WORDS`] at most.
    pub async fn close(&self) {
        self.queue.close();
        let ended = self
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(ended) = ended else { return };
        if tokio::time::timeout(LAST_WORDS, ended).await.is_err() {
            warn!("the last spans are lost: the collector did not take them in time");
        }
    }
}
