//! Generating text: from a prompt to a stream of pieces.
//!
//! ```text
//! prompt ─► template, tokenizer ─► queue ─► scheduler (one thread): batch ─► model::llama
//!                                               ▲                              │ scores
//!                                               └── next token ◄── sampler ◄───┘
//!                                                       └─► characters ─► stop ─► Event ─► request
//! ```
//!
//! All texts that are being written advance together, one token a batch, and prompts are read in
//! pieces between them: a long request slows the others down, but never holds them up.

mod load;
mod sampler;
mod scheduler;
mod stop;
mod template;
mod text;
mod tokenizer;

use std::num::NonZero;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread::available_parallelism;
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::artefact::{Digest, Manifest};
use crate::metrics::GenerationMetrics;
use crate::telemetry::Timeline;

pub use load::LoadGeneratorError;
pub use sampler::Sampling;
pub use template::{ChatTemplate, Message, TemplateError};
pub use tokenizer::Vocabulary;

use scheduler::Job;

/// How much one process generates at a time.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Threads that compute.
    pub threads: usize,
    /// Texts that are written at the same time; more wait.
    pub slots: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// Bytes that the caches of all texts may take together.
    pub cache_bytes: usize,
}

impl Default for Settings {
    /// One text at a time, on all CPUs, as `serve` bounds its memory by default.
    fn default() -> Self {
        Self {
            threads: available_parallelism().map_or(1, NonZero::get),
            slots: 1,
            queue: 1,
            cache_bytes: 512 << 20,
        }
    }
}

/// What bounds one request, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLimits {
    /// Prompt and answer together.
    pub context: usize,
    /// The prompt alone.
    pub prompt: usize,
    /// The answer alone.
    pub answer: usize,
}

/// A request for a text.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt's tokens: at least one.
    pub prompt: Vec<u32>,
    /// Most tokens of the answer: at least one.
    pub max_tokens: usize,
    /// How they are drawn.
    pub sampling: Sampling,
    /// Strings that end the text, and are not part of it.
    pub stops: Vec<String>,
}

/// The events of a request, in order: pieces of text, then one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// More characters of the text.
    Text(String),
    /// The text is complete.
    End {
        /// Why.
        reason: FinishReason,
        /// Tokens that were generated, the end token included.
        tokens: usize,
    },
    /// The text cannot be completed. The log has the reason.
    Failed,
}

/// Why a text is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop string did.
    Stop,
    /// It has as many tokens as were asked for.
    Length,
}

impl FinishReason {
    /// OpenAI's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// Every place is taken and the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every place is taken and the queue is full")]
pub struct Overloaded;

/// A language model that writes, checked and warm.
#[derive(Debug)]
pub struct Generator {
    /// The manifest it was built from.
    pub manifest: Manifest,
    /// The artefact's digest.
    pub digest: Digest,
    /// Bounds on one request.
    pub limits: TokenLimits,
    vocabulary: Arc<Vocabulary>,
    template: Option<ChatTemplate>,
    queue: SyncSender<Job>,
    metrics: GenerationMetrics,
}

impl Generator {
    /// The tokens of a prompt. Blocks for about 1 ms for 1,000 words: call it on the compute pool.
    /// An error where the tokeniser gives one up.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>, tokenizers::Error> {
        self.vocabulary.encode(prompt)
    }

    /// The template of conversations; `None` if the file has none.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Puts a request in the queue. Dropping the receiver abandons the text before its next token.
    /// An error where the queue is full.
    pub fn start(&self, request: Request) -> Result<UnboundedReceiver<Event>, Overloaded> {
        self.start_counted(request, self.metrics.clone())
    }

    fn start_counted(
        &self,
        request: Request,
        metrics: GenerationMetrics,
    ) -> Result<UnboundedReceiver<Event>, Overloaded> {
        // Unbounded, but no request has more events than tokens: a slow reader must not hold the
        // others up.
        let (events, receiver) = unbounded_channel();
        let timeline = Timeline::current();
        let job = Job {
            request,
            events,
            arrived: Instant::now(),
            metrics,
            waiting: timeline.part("queue"),
            timeline,
        };
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => Overloaded,
        })?;
        Ok(receiver)
    }
}
