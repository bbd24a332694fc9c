//! Spinning between the requests of a client that sends the next one at once.
//!
//! Sleeping and being woken costs a thread 30 to 60 µs, above all on a virtual machine; a small
//! model's answer takes less, and such a client would wait for the wake-up each time. So the worker
//! spins after an answer, for as long as the wake-up would take, if the connection's last request
//! came right after the answer before it. If nothing comes, it sleeps. Requests on many
//! connections, or rare ones, cost nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task;

use crate::log;

/// How long a worker spins.
const SPIN: Duration = Duration::from_micros(60);

/// Longest time between an answer and the next request of a client that sends at once: its own
/// work, and a wake-up on either side.
const PROMPT: Duration = Duration::from_micros(120);

/// A worker's spin wait for the next request. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct SpinWait(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    end: Mutex<Option<Instant>>,
    begins: Notify,
}

impl SpinWait {
    /// Keeps the worker's thread awake whenever one of its connections asks for it. Never returns.
    pub(super) async fn run(self) {
        loop {
            self.0.begins.notified().await;
            task::yield_now().await; // the answer goes first
            log::flush();
            while self.end().is_some_and(|end| Instant::now() < end) {
                task::yield_now().await; // polls for requests
            }
        }
    }

    /// The state of one connection.
    pub(super) fn client(&self) -> Client {
        Client {
            spin_wait: self.clone(),
            rhythm: Arc::default(),
        }
    }

    fn end(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client of one connection. Clones share its state.
#[derive(Debug, Clone)]
pub(super) struct Client {
    spin_wait: SpinWait,
    rhythm: Arc<Mutex<Rhythm>>,
}

impl Client {
    /// A request has come.
    pub(super) fn request(&self) {
        self.rhythm().request(Instant::now());
    }

    /// It is answered.
    pub(super) fn answer(&self) {
        if let Some(end) = self.rhythm().answer(Instant::now()) {
            *self.spin_wait.end() = Some(end);
            self.spin_wait.0.begins.notify_one();
        }
    }

    fn rhythm(&self) -> MutexGuard<'_, Rhythm> {
        self.rhythm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a connection's requests and answers came: decides whether to spin.
#[derive(Debug, Default)]
struct Rhythm {
    answered: Option<Instant>,
    /// Whether the last request came right after the answer before it.
    is_prompt: bool,
}

impl Rhythm {
    fn request(&mut self, now: Instant) {
        let pause = self.answered.map(|answered| now.duration_since(answered));
        self.is_prompt = pause.is_some_and(|pause| pause < PROMPT);
    }

    /// Records an answer. Returns until when to spin for the next request; `None` to sleep.
    fn answer(&mut self, now: Instant) -> Option<Instant> {
        self.answered = Some(now);
        self.is_prompt.then(|| now + SPIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_spins_for_a_client_that_sends_the_next_request_at_once() {
        // The pause before each request after the first, in µs.
        for (pauses, awake) in [
            (vec![], false),
            (vec![119], true),
            (vec![120], false),
            (vec![10, 10, 500], false),
            (vec![10, 500, 10], true),
        ] {
            let mut now = Instant::now();
            let mut rhythm = Rhythm::default();
            rhythm.request(now);
            let mut end = rhythm.answer(now);
            for pause in &pauses {
                now += Duration::from_micros(*pause);
                rhythm.request(now);
                now += Duration::from_micros(5);
                end = rhythm.answer(now);
            }
            assert_eq!(end, awake.then(|| now + SPIN), "{pauses:?}");
        }
    }
}
