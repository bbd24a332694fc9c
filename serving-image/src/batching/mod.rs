//! Dynamic batching: texts of many requests through the encoder together.
//!
//! One thread takes the next batch whenever the engine is free (`queue.rs` says which one),
//! computes it, and hands the parts back. A client that gives up, by its deadline or by closing the
//! connection, drops the receiver of the answer. That removes its request from the queue, and the
//! rest of it is not computed.

mod queue;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use std::{io, thread, vec};

use tokio::sync::oneshot;

use crate::metrics::BatchMetrics;
use crate::model::Model;
use crate::prediction::Prediction;
use crate::preprocess::{Batch, Tokens};
use crate::telemetry::{self, Timeline};
pub use queue::Limits;
use queue::{Part, Queue};

/// Why texts have no answer.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum BatchError {
    /// The line is full; nothing was computed.
    #[error("the queue is full")]
    Overloaded,
    /// The engine gave an error, or panicked.
    #[error("{0}")]
    Engine(String),
}

/// Computes texts. Blocks.
pub trait Engine: Send + Sync {
    /// The answer to each text, in their order.
    fn predict(&self, texts: Vec<Tokens>) -> Result<Vec<Prediction>, String>;
}

impl Engine for Model {
    fn predict(&self, texts: Vec<Tokens>) -> Result<Vec<Prediction>, String> {
        self.forward(&Batch::Tokens(texts))
            .map_err(|error| error.to_string())
    }
}

/// The line before the engine. Clones share it; its thread ends with the last one.
#[derive(Debug, Clone)]
pub struct Batcher(Arc<Handle>);

/// Closes the line when it goes.
#[derive(Debug)]
struct Handle(Arc<Line>);

#[derive(Debug)]
struct Line {
    state: Mutex<State>,
    changed: Condvar,
    metrics: BatchMetrics,
}

#[derive(Debug)]
struct State {
    queue: Queue<Arc<Request>>,
    is_closed: bool,
}

/// A request in line.
struct Request {
    engine: Arc<dyn Engine>,
    total: usize,
    arrived: Instant,
    /// The spans of its time in the queue and in the engine.
    timeline: Timeline,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    texts: vec::IntoIter<Tokens>,
    done: Vec<Prediction>,
    /// The span of its wait: until its first text is computed, or its client has gone.
    waiting: Option<telemetry::Part>,
    /// None once it is used.
    answer: Option<oneshot::Sender<Result<Vec<Prediction>, BatchError>>>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a request of {} texts", self.total)
    }
}

impl Batcher {
    /// Starts the thread that computes. An error where the system starts no thread.
    pub fn start(limits: Limits, metrics: BatchMetrics) -> io::Result<Self> {
        let line = Arc::new(Line {
            state: Mutex::new(State {
                queue: Queue::new(limits),
                is_closed: false,
            }),
            changed: Condvar::new(),
            metrics,
        });
        let worker = Arc::clone(&line);
        thread::Builder::new()
            .name("batches".into())
            .spawn(move || {
                while let Some(parts) = worker.next() {
                    worker.compute(parts);
                }
            })?;
        Ok(Self(Arc::new(Handle(line))))
    }

    /// Its series.
    pub fn metrics(&self) -> &BatchMetrics {
        &self.0.0.metrics
    }

    /// The answers to these texts, computed with those of other requests. Dropping the future gives
    /// the request up. An error where the queue is full or the engine fails.
    pub async fn predict(
        &self,
        engine: Arc<dyn Engine>,
        texts: Vec<Tokens>,
    ) -> Result<Vec<Prediction>, BatchError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, answered) = oneshot::channel();
        let lengths = texts.iter().map(|text| text.ids.len()).collect();
        let timeline = Timeline::current();
        let request = Arc::new(Request {
            engine,
            total: texts.len(),
            arrived: Instant::now(),
            progress: Mutex::new(Progress {
                done: Vec::with_capacity(texts.len()),
                texts: texts.into_iter(),
                waiting: Some(timeline.part("queue")),
                answer: Some(answer),
            }),
            timeline,
        });
        let line = &self.0.0;
        {
            let mut state = line.state();
            let offered = state.queue.offer(request, lengths);
            line.metrics.set_waiting(state.queue.len());
            offered.map_err(|_| BatchError::Overloaded)?;
        }
        line.changed.notify_one();
        answered
            .await
            .unwrap_or_else(|_| Err(BatchError::Engine("the engine's thread is gone".into())))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_closed = true;
        state.queue.clear();
        drop(state);
        self.0.changed.notify_all();
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next batch; none once the line is closed.
    fn next(&self) -> Option<Vec<Part<Arc<Request>>>> {
        let mut state = self.state();
        loop {
            if state.is_closed {
                return None;
            }
            let (parts, left) = state.queue.take(|request| request.is_wanted());
            let abandoned = left.iter().filter(|request| request.is_abandoned()).count();
            self.metrics.abandoned.inc_by(abandoned as u64);
            self.metrics.set_waiting(state.queue.len());
            if !parts.is_empty() {
                return Some(parts);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn compute(&self, parts: Vec<Part<Arc<Request>>>) {
        let Some(engine) = parts.first().map(|part| Arc::clone(&part.request.engine)) else {
            return;
        };
        let mut texts = Vec::new();
        for Part { request, texts: of } in &parts {
            if of.start == 0 {
                let waited = request.arrived.elapsed();
                self.metrics.queue.observe(waited.as_secs_f64());
            }
            let mut progress = request.progress();
            progress.waiting = None;
            texts.extend(progress.texts.by_ref().take(of.len()));
        }
        self.metrics.texts.observe(texts.len() as f64);
        let tokens: usize = texts.iter().map(|text| text.ids.len()).sum();
        self.metrics.tokens.observe(tokens as f64);

        let of_all = texts.len();
        let forward = parts.iter().map(|Part { request, texts }| {
            let forward = request.timeline.part("forward");
            let forward = forward.number("texts", texts.len());
            forward
                .number("batch.texts", of_all)
                .number("batch.tokens", tokens)
        });
        let forward: Vec<_> = forward.collect();
        let outcome = catch_unwind(AssertUnwindSafe(|| engine.predict(texts)))
            .unwrap_or_else(|_| Err("the engine panicked".into()));
        drop(forward);
        match outcome {
            Ok(predictions) => {
                let mut predictions = predictions.into_iter();
                for Part { request, texts } in parts {
                    request.add(predictions.by_ref().take(texts.len()));
                }
            }
            Err(reason) => {
                for Part { request, .. } in parts {
                    request.answer(Err(BatchError::Engine(reason.clone())));
                }
            }
        }
    }
}

impl Request {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a client waits for an answer that is not given yet.
    fn is_wanted(&self) -> bool {
        let progress = self.progress();
        progress
            .answer
            .as_ref()
            .is_some_and(|answer| !answer.is_closed())
    }

    /// Whether it has no answer yet and its client has gone.
    fn is_abandoned(&self) -> bool {
        let progress = self.progress();
        progress
            .answer
            .as_ref()
            .is_some_and(oneshot::Sender::is_closed)
    }

    /// Takes the next predictions in, and answers with the last of them.
    fn add(&self, predictions: impl Iterator<Item = Prediction>) {
        let mut progress = self.progress();
        progress.done.extend(predictions);
        if progress.done.len() == self.total {
            let done = std::mem::take(&mut progress.done);
            drop(progress);
            self.answer(Ok(done));
        }
    }

    fn answer(&self, outcome: Result<Vec<Prediction>, BatchError>) {
        if let Some(answer) = self.progress().answer.take() {
            let _ = answer.send(outcome); // fails where the client has gone
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const LIMITS: Limits = Limits {
        tokens: 100,
        texts: 8,
        requests: 4,
    };

    fn text(id: u32, length: usize) -> Tokens {
        Tokens {
            ids: vec![id; length],
            types: Vec::new(),
            truncated: false,
        }
    }

    /// Answers a text by its first token, once the test lets it; tells the texts of each batch.
    struct Gated {
        started: Mutex<Sender<Vec<u32>>>,
        go: Mutex<Receiver<Result<(), &'static str>>>,
    }

    impl Engine for Gated {
        fn predict(&self, texts: Vec<Tokens>) -> Result<Vec<Prediction>, String> {
            let ids: Vec<u32> = texts.iter().map(|text| text.ids[0]).collect();
            self.started.lock().unwrap().send(ids.clone()).unwrap();
            self.go
                .lock()
                .unwrap()
                .recv()
                .unwrap()
                .map_err(str::to_owned)?;
            assert!(!ids.contains(&u32::MAX), "asked to panic");
            let answer = |id: u32| Prediction {
                output: vec![id as f32],
                ..Prediction::default()
            };
            Ok(ids.into_iter().map(answer).collect())
        }
    }

    struct Gate {
        engine: Arc<Gated>,
        started: Receiver<Vec<u32>>,
        go: Sender<Result<(), &'static str>>,
    }

    fn gate() -> Gate {
        let (started, has_started) = channel();
        let (go, may_go) = channel();
        Gate {
            engine: Arc::new(Gated {
                started: Mutex::new(started),
                go: Mutex::new(may_go),
            }),
            started: has_started,
            go,
        }
    }

    impl Gate {
        /// Waits for the next batch without blocking the test's runtime.
        async fn batch(&mut self) -> Vec<u32> {
            loop {
                if let Ok(batch) = self.started.try_recv() {
                    return batch;
                }
                tokio::task::yield_now().await;
            }
        }
    }

    type Answer = tokio::task::JoinHandle<Result<Vec<Prediction>, BatchError>>;

    async fn submit(batcher: &Batcher, gate: &Gate, texts: Vec<Tokens>) -> Answer {
        let (batcher, engine) = (batcher.clone(), Arc::clone(&gate.engine));
        let answer = tokio::spawn(async move { batcher.predict(engine, texts).await });
        tokio::task::yield_now().await; // the task runs up to its wait: it is in line now
        answer
    }

    fn outputs(answer: Result<Vec<Prediction>, BatchError>) -> Vec<f32> {
        answer
            .unwrap()
            .into_iter()
            .flat_map(|prediction| prediction.output)
            .collect()
    }

    #[tokio::test]
    async fn what_came_while_the_engine_was_busy_is_computed_together() {
        let mut gate = gate();
        let batcher = Batcher::start(LIMITS, BatchMetrics::default()).unwrap();
        let first = submit(&batcher, &gate, vec![text(1, 10)]).await;
        assert_eq!(gate.batch().await, [1]);
        let second = submit(&batcher, &gate, vec![text(2, 10)]).await;
        let third = submit(&batcher, &gate, vec![text(3, 10), text(4, 10)]).await;
        gate.go.send(Ok(())).unwrap();
        assert_eq!(gate.batch().await, [2, 3, 4]);
        gate.go.send(Ok(())).unwrap();
        assert_eq!(outputs(first.await.unwrap()), [1.0]);
        assert_eq!(outputs(second.await.unwrap()), [2.0]);
        assert_eq!(outputs(third.await.unwrap()), [3.0, 4.0]);
    }

    #[tokio::test]
    async fn a_large_request_is_interleaved_and_put_together_again() {
        let mut gate = gate();
        let batcher = Batcher::start(LIMITS, BatchMetrics::default()).unwrap();
        let large = submit(&batcher, &gate, (0..10).map(|id| text(id, 25)).collect()).await;
        assert_eq!(gate.batch().await, [0, 1, 2, 3]);
        let small = submit(&batcher, &gate, vec![text(77, 25)]).await;
        gate.go.send(Ok(())).unwrap();
        assert_eq!(gate.batch().await, [4, 5, 77, 6]);
        gate.go.send(Ok(())).unwrap();
        assert_eq!(outputs(small.await.unwrap()), [77.0]);
        assert!(!large.is_finished());
        gate.go.send(Ok(())).unwrap();
        let expected: Vec<f32> = (0..10_u8).map(f32::from).collect();
        assert_eq!(outputs(large.await.unwrap()), expected);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_leaves_the_line_and_makes_room() {
        let mut gate = gate();
        let metrics = BatchMetrics::default();
        let limits = Limits {
            requests: 1,
            ..LIMITS
        };
        let batcher = Batcher::start(limits, metrics.clone()).unwrap();
        let first = submit(&batcher, &gate, vec![text(1, 10)]).await;
        assert_eq!(gate.batch().await, [1]);
        let given_up = submit(&batcher, &gate, vec![text(2, 10)]).await;
        let refused = submit(&batcher, &gate, vec![text(3, 10)]).await;
        assert_eq!(refused.await.unwrap(), Err(BatchError::Overloaded));
        given_up.abort();
        assert!(given_up.await.unwrap_err().is_cancelled());
        gate.go.send(Ok(())).unwrap();
        assert_eq!(outputs(first.await.unwrap()), [1.0]);
        let next = loop {
            let next = submit(&batcher, &gate, vec![text(4, 10)]).await;
            if !next.is_finished() {
                break next;
            }
        };
        assert_eq!(gate.batch().await, [4]);
        gate.go.send(Ok(())).unwrap();
        assert_eq!(outputs(next.await.unwrap()), [4.0]);
        assert_eq!(metrics.abandoned.get(), 1);
    }

    #[tokio::test]
    async fn an_error_or_a_panic_is_answered_and_the_thread_lives_on() {
        let mut gate = gate();
        let batcher = Batcher::start(LIMITS, BatchMetrics::default()).unwrap();
        for (id, go, expected) in [
            (1, Err("no"), Err(BatchError::Engine("no".into()))),
            (
                u32::MAX,
                Ok(()),
                Err(BatchError::Engine("the engine panicked".into())),
            ),
        ] {
            let answer = submit(&batcher, &gate, vec![text(id, 1)]).await;
            gate.batch().await;
            gate.go.send(go).unwrap();
            assert_eq!(answer.await.unwrap(), expected);
        }
        let answer = submit(&batcher, &gate, vec![text(5, 1)]).await;
        gate.batch().await;
        gate.go.send(Ok(())).unwrap();
        assert_eq!(outputs(answer.await.unwrap()), [5.0]);
    }
}
