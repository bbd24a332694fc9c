//! The thread that advances all texts together.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
use std::time::Instant;

use rayon::ThreadPool;
use tokio::sync::mpsc::UnboundedSender;
use tracing::error;

use super::text::{Progress, Text};
use super::{Event, Request, Settings, Vocabulary};
use crate::compute::panic_text;
use crate::metrics::GenerationMetrics;
use crate::model::llama::{Llama, Piece, Scratch};
use crate::telemetry::{self, Timeline};

/// Prompt tokens that one batch reads, over all texts. 64 of them take SmolLM2-135M about 100 ms on
/// one core: the longest that a token of another text waits for them.
const PROMPT_PIECE: usize = 64;

/// A request on its way to a place.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) events: UnboundedSender<Event>,
    pub(super) arrived: Instant,
    /// Where it is counted.
    pub(super) metrics: GenerationMetrics,
    /// Its time in line.
    pub(super) waiting: telemetry::Part,
    /// The spans of its time in a slot.
    pub(super) timeline: Timeline,
}

/// All texts that have a place, and the model that writes them.
pub(super) struct Scheduler {
    model: Llama,
    vocabulary: Arc<Vocabulary>,
    pool: ThreadPool,
    settings: Settings,
    metrics: GenerationMetrics,
    queue: Receiver<Job>,
    texts: Vec<Text>,
    /// Came out of the queue, and waits for room in the caches.
    next: Option<Job>,
    scratch: Scratch,
}

impl Scheduler {
    pub(super) fn new(
        model: Llama,
        vocabulary: Arc<Vocabulary>,
        pool: ThreadPool,
        settings: Settings,
        metrics: GenerationMetrics,
        queue: Receiver<Job>,
    ) -> Self {
        Self {
            model,
            vocabulary,
            pool,
            settings,
            metrics,
            queue,
            texts: Vec::new(),
            next: None,
            scratch: Scratch::default(),
        }
    }

    /// Works until every sender of the queue is gone and every text is complete.
    pub(super) fn run(mut self) {
        loop {
            let open = self.admit();
            if self.texts.is_empty() {
                if !open {
                    return;
                }
                continue;
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| self.step()));
            let reason = match outcome {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => panic_text(&*panic),
            };
            error!(reason, texts = self.texts.len(), "a batch of texts failed");
            for text in &mut self.texts {
                text.fail();
            }
            self.texts.clear();
            self.scratch = Scratch::default();
        }
    }

    /// Gives places to who waits, as long as there are any. False when no more can come.
    fn admit(&mut self) -> bool {
        self.texts.retain(|text| {
            let abandoned = text.is_abandoned();
            if abandoned {
                text.abandon();
            }
            !abandoned
        });
        self.count();
        let mut open = true;
        while self.texts.len() < self.settings.slots {
            let job = match self.next.take() {
                Some(job) => job,
                None if self.texts.is_empty() => match self.queue.recv() {
                    Ok(job) => job,
                    Err(RecvError) => return false,
                },
                None => match self.queue.try_recv() {
                    Ok(job) => job,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        open = false;
                        break;
                    }
                },
            };
            if job.events.is_closed() {
                continue;
            }
            let room = job.request.prompt.len() + job.request.max_tokens;
            if self.model.cache_bytes(self.positions() + room) > self.settings.cache_bytes {
                self.next = Some(job); // first come, first served: no smaller job overtakes it
                break;
            }
            let cache = self.model.cache(room);
            self.texts
                .push(Text::new(job, cache, Arc::clone(&self.vocabulary)));
        }
        self.count();
        open
    }

    fn count(&self) {
        self.metrics.in_progress(self.texts.len(), self.positions());
    }

    /// Positions that the caches of all texts have room for.
    fn positions(&self) -> usize {
        self.texts.iter().map(|text| text.room).sum()
    }

    /// One batch: the next token of each text that is being written, and a piece of the prompts.
    fn step(&mut self) -> candle_core::Result<()> {
        let mut prompt_tokens = PROMPT_PIECE;
        let mut pieces: Vec<Piece<'_>> = Vec::with_capacity(self.texts.len());
        let mut places = Vec::with_capacity(self.texts.len());
        for (place, text) in self.texts.iter_mut().enumerate() {
            let most = if text.is_reading() { prompt_tokens } else { 1 };
            if most == 0 {
                continue; // its turn comes when those before it are read
            }
            let reading = text.is_reading();
            let piece = text.piece(most);
            if reading {
                prompt_tokens -= piece.tokens.len();
            }
            places.push((place, piece.scores));
            pieces.push(piece);
        }
        let (model, scratch) = (&self.model, &mut self.scratch);
        self.pool.install(|| model.forward(&mut pieces, scratch))?;
        drop(pieces);

        let vocabulary = self.model.vocabulary();
        let with_scores = places
            .iter()
            .filter(|(_, scores)| *scores)
            .map(|(place, _)| *place);
        let mut ended = Vec::new();
        for (index, place) in with_scores.enumerate() {
            let scores = self.scratch.scores(index, vocabulary);
            if self.texts[place].draw(scores) == Progress::Ended {
                ended.push(place);
            }
        }
        for place in ended.into_iter().rev() {
            self.texts.remove(place);
        }
        // Who read a piece goes behind the others who read, so that a long prompt does not hold up
        // a short one.
        self.texts.sort_by_key(Text::is_reading);
        if let Some(first) = self.texts.iter().position(Text::is_reading) {
            self.texts[first..].rotate_left(1);
        }
        Ok(())
    }
}
