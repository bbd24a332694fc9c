//! Staying awake between the requests of a client that asks again as soon as it has its answer.
//!
//! To sleep and be woken costs a thread 30 to 60 µs, on a virtual machine above all; a small model's answer takes less.
//! Such a client would wait for that each time. So after an answer to a connection whose last request came right after
//! the answer before it, the lane looks out for the next one for as long as the sleep would cost. If it looks out in vain,
//! it sleeps until it is woken: where requests come on many connections, or seldom, nothing is spent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task;

use crate::log;

/// How long a lane looks out.
const WATCH: Duration = Duration::from_micros(60);

/// From an answer to the next request of a client that asks at once: its own work, and a wake-up on either side.
const CLOSE: Duration = Duration::from_micros(120);

/// A lane's watch for the next request. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Vigil(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    end: Mutex<Option<Instant>>,
    begins: Notify,
}

impl Vigil {
    /// Keeps the lane's thread awake whenever one of its connections asks for it.
    pub(super) async fn keep(self) {
        loop {
            self.0.begins.notified().await;
            task::yield_now().await; // the answer goes first
            log::flush();
            while self.end().is_some_and(|end| Instant::now() < end) {
                task::yield_now().await; // which looks whether something has come
            }
        }
    }

    /// A connection's part in it.
    pub(super) fn client(&self) -> Client {
        Client {
            vigil: self.clone(),
            rhythm: Arc::default(),
        }
    }

    fn end(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever is at the other end of a connection. Clones share what is known of it.
#[derive(Debug, Clone)]
pub(super) struct Client {
    vigil: Vigil,
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
            *self.vigil.end() = Some(end);
            self.vigil.0.begins.notify_one();
        }
    }

    fn rhythm(&self) -> MutexGuard<'_, Rhythm> {
        self.rhythm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's requests and answers, as far as they tell whether to stay awake.
#[derive(Debug, Default)]
struct Rhythm {
    answered: Option<Instant>,
    /// Whether the last request came right after the answer before it.
    is_close: bool,
}

impl Rhythm {
    fn request(&mut self, now: Instant) {
        let pause = self.answered.map(|answered| now.duration_since(answered));
        self.is_close = pause.is_some_and(|pause| pause < CLOSE);
    }

    /// Until when to look out for the next request.
    fn answer(&mut self, now: Instant) -> Option<Instant> {
        self.answered = Some(now);
        self.is_close.then(|| now + WATCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_stays_awake_for_a_client_that_asks_again_at_once() {
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
            assert_eq!(end, awake.then(|| now + WATCH), "{pauses:?}");
        }
    }
}
