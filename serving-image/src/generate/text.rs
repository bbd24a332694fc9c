//! One text in a slot: its prompt is read, its answer written.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::sampler::Sampler;
use super::scheduler::Job;
use super::stop::{Shown, Stops};
use super::tokenizer::{Utf8, Vocabulary};
use super::{Event, FinishReason};
use crate::metrics::{GenerationMetrics, TextEnd};
use crate::model::llama::{Cache, Piece};
use crate::telemetry::{self, Timeline};

/// A text that has a place.
#[derive(Debug)]
pub(super) struct Text {
    cache: Cache,
    /// Positions that the cache has room for.
    pub(super) room: usize,
    /// Prompt, then the last token that was drawn.
    tokens: Vec<u32>,
    /// Of these tokens, how many the model has seen.
    seen: usize,
    generated: usize,
    max_tokens: usize,
    sampler: Sampler,
    characters: Utf8,
    stops: Stops,
    vocabulary: Arc<Vocabulary>,
    events: UnboundedSender<Event>,
    metrics: GenerationMetrics,
    arrived: Instant,
    last_token: Instant,
    timeline: Timeline,
    /// Reading the prompt, up to the first token; then writing.
    phase: telemetry::Part,
}

/// What the next token made of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    GoesOn,
    Ended,
}

impl Text {
    pub(super) fn new(job: Job, cache: Cache, vocabulary: Arc<Vocabulary>) -> Self {
        let (request, metrics) = (job.request, job.metrics);
        metrics.admitted(request.prompt.len(), job.arrived.elapsed());
        drop(job.waiting);
        let phase = job.timeline.part("prompt");
        let phase = phase.number("tokens", request.prompt.len());
        Self {
            room: request.prompt.len() + request.max_tokens,
            cache,
            tokens: request.prompt,
            seen: 0,
            generated: 0,
            max_tokens: request.max_tokens,
            sampler: Sampler::new(request.sampling),
            characters: Utf8::default(),
            stops: Stops::new(request.stops),
            vocabulary,
            events: job.events,
            metrics,
            arrived: job.arrived,
            last_token: job.arrived,
            phase,
            timeline: job.timeline,
        }
    }

    /// Whether its client has gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// Prompt tokens that the model has not seen, where there are any besides the very next one.
    pub(super) fn is_reading(&self) -> bool {
        self.tokens.len() - self.seen > 1
    }

    /// The next tokens for the model, `most` of them at most, and whether they are the last ones.
    pub(super) fn piece(&mut self, most: usize) -> Piece<'_> {
        let end = self.tokens.len().min(self.seen + most);
        let piece = Piece {
            cache: &mut self.cache,
            tokens: &self.tokens[self.seen..end],
            scores: end == self.tokens.len(),
        };
        self.seen = end;
        piece
    }

    /// Draws the next token and shows what it adds.
    pub(super) fn draw(&mut self, scores: &mut [f32]) -> Progress {
        let Some(token) = self.sampler.next(scores) else {
            tracing::error!("the model's scores are not finite");
            self.fail();
            return Progress::Ended;
        };
        self.time();
        self.generated += 1;
        self.phase.set("tokens", self.generated);
        if self.vocabulary.is_end(token) {
            let rest = self.characters.finish();
            return self.end(&rest, FinishReason::Stop);
        }
        let piece = self.characters.push(self.vocabulary.bytes(token));
        match self.stops.push(&piece) {
            Shown::Last(text) => {
                self.show(text);
                self.finish(FinishReason::Stop)
            }
            Shown::More(text) => {
                self.show(text);
                if self.generated == self.max_tokens {
                    let rest = self.characters.finish();
                    return self.end(&rest, FinishReason::Length);
                }
                self.tokens.clear();
                self.tokens.push(token);
                self.seen = 0;
                Progress::GoesOn
            }
        }
    }

    /// Tells that it cannot be completed.
    pub(super) fn fail(&mut self) {
        self.metrics.ended(TextEnd::Failed);
        let _ = self.events.send(Event::Failed);
    }

    /// Counts it as given up.
    pub(super) fn abandon(&self) {
        self.metrics.ended(TextEnd::Abandoned);
    }

    fn time(&mut self) {
        let now = Instant::now();
        if self.generated == 0 {
            self.metrics.first_token(now - self.arrived);
            self.phase = self.timeline.part("tokens");
        } else {
            self.metrics.further_token(now - self.last_token);
        }
        self.last_token = now;
    }

    fn show(&self, text: String) {
        if !text.is_empty() {
            // fails where the client has gone: noticed before the next token
            let _ = self.events.send(Event::Text(text));
        }
    }

    /// The last characters, which may still hold a stop string, and then the end.
    fn end(&mut self, rest: &str, reason: FinishReason) -> Progress {
        match self.stops.push(rest) {
            Shown::Last(text) => {
                self.show(text);
                self.finish(FinishReason::Stop)
            }
            Shown::More(text) => {
                let held = self.stops.finish();
                self.show(text + &held);
                self.finish(reason)
            }
        }
    }

    fn finish(&mut self, reason: FinishReason) -> Progress {
        self.metrics.ended(match reason {
            FinishReason::Stop => TextEnd::Stop,
            FinishReason::Length => TextEnd::Length,
        });
        let _ = self.events.send(Event::End {
            reason,
            tokens: self.generated,
        });
        Progress::Ended
    }
}
