//! A bounded pool of threads for work that would block the async threads: tokenising and matrix
//! products.
//!
//! The queue is bounded, because a growing queue turns overload into latency for all requests. Work
//! beyond it is refused at once (HTTP 429).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use tokio::sync::oneshot;
use tracing::warn;

use crate::telemetry::scoped;

/// A unit of work, which sends its own answer.
type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads behind a bounded queue.
#[derive(Debug, Clone)]
pub struct ComputePool {
    queue: Sender<Job>,
    /// Jobs that wait or run.
    jobs: Arc<AtomicUsize>,
    most_jobs: usize,
}

/// Why a computation has no result.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ComputeError {
    /// The queue is full; the work was not started.
    #[error("every worker is busy and the queue is full")]
    Overloaded,
    /// The work panicked; its thread still serves.
    #[error("the computation panicked: {0}")]
    Panicked(String),
}

impl ComputePool {
    /// Starts `threads` threads behind a queue of `queue` jobs. The threads end when the last clone
    /// is dropped. An error where the system starts no thread.
    pub fn start(threads: usize, queue: usize) -> io::Result<Self> {
        Self::start_all(threads, queue, false)
    }

    /// Starts one thread, which also runs the parallel parts of its jobs, so that they never queue
    /// in the pool of predictions. An error where the system starts no thread.
    pub fn start_apart(queue: usize) -> io::Result<Self> {
        Self::start_all(1, queue, true)
    }

    fn start_all(threads: usize, queue: usize, is_apart: bool) -> io::Result<Self> {
        let (sender, receiver) = channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        for index in 0..threads {
            let receiver = Arc::clone(&receiver);
            thread::Builder::new()
                .name(format!("compute-{index}"))
                .spawn(move || {
                    let _pool = is_apart.then(on_this_thread);
                    while let Some(job) = next(&receiver) {
                        job();
                    }
                })?;
        }
        Ok(Self {
            queue: sender,
            jobs: Arc::default(),
            most_jobs: threads + queue,
        })
    }

    /// Runs `work` on a thread of the pool. Work whose caller has gone is skipped. An error where
    /// the queue is full or `work` panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ComputeError> {
        let place = Place::take(&self.jobs);
        if place.number >= self.most_jobs {
            return Err(ComputeError::Overloaded);
        }
        self.enqueue(place, work).await
    }

    /// Runs the end of a request's work, which is not refused: most has been paid for it already.
    pub async fn finish<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ComputeError> {
        self.enqueue(Place::take(&self.jobs), work).await
    }

    async fn enqueue<T: Send + 'static>(
        &self,
        place: Place,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ComputeError> {
        let (answer, result) = oneshot::channel();
        let work = scoped(work);
        let job: Job = Box::new(move || {
            if !answer.is_closed() {
                let outcome = here(work);
                // Before the answer, after which the client may send the next request at once.
                drop(place);
                let _ = answer.send(outcome); // the caller may have gone meanwhile
            }
        });
        self.queue
            .send(job)
            .map_err(|_| ComputeError::Panicked("no worker is left".into()))?;
        result
            .await
            .unwrap_or_else(|_| Err(ComputeError::Panicked("the worker is gone".into())))
    }
}

/// Counts a job until it is dropped.
struct Place {
    jobs: Arc<AtomicUsize>,
    /// Jobs before this one.
    number: usize,
}

impl Place {
    fn take(jobs: &Arc<AtomicUsize>) -> Self {
        Self {
            number: jobs.fetch_add(1, Ordering::Relaxed),
            jobs: Arc::clone(jobs),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.jobs.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs `work` on this thread: for what takes less time than the way to another one and back. An
/// error where `work` panics, with the panic's message.
pub fn here<T>(work: impl FnOnce() -> T) -> Result<T, ComputeError> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|panic| ComputeError::Panicked(panic_text(&*panic)))
}

/// A pool for parallel work that has no thread but this one.
fn on_this_thread() -> Option<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread()
        .build();
    pool.inspect_err(|reason| warn!(%reason, "a thread shares the pool of predictions"))
        .ok()
}

fn next(receiver: &Mutex<Receiver<Job>>) -> Option<Job> {
    receiver
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .recv()
        .ok()
}

/// The message of a panic, if it is a literal of the code. A message that was put together may
/// quote what a client sent, as that of a wrong place in a text does.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>();
    literal.map_or_else(
        || "its message may quote data".to_owned(),
        |text| (*text).to_owned(),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_thread_lives_on() {
        let pool = ComputePool::start(1, 4).unwrap();
        let error = pool.run(|| panic!("boom")).await.unwrap_err();
        assert_eq!(error, ComputeError::Panicked("boom".into()));
        let quoting = pool.run(|| panic!("not at a boundary of {:?}", "secret"));
        let error = quoting.await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the computation panicked: its message may quote data"
        );
        assert_eq!(pool.run(|| 6 * 7).await.unwrap(), 42);
    }

    #[tokio::test]
    async fn a_thread_apart_does_its_parallel_work_alone() {
        let pool = ComputePool::start_apart(4).unwrap();
        let threads = pool.run(|| {
            let id = || std::thread::current().id();
            let (left, right) = rayon::join(id, id);
            (rayon::current_num_threads(), [id(), left, right])
        });
        let (threads, [own, left, right]) = threads.await.unwrap();
        assert_eq!((threads, left, right), (1, own, own));
        assert_eq!(pool.run(|| 6 * 7).await.unwrap(), 42);
    }

    #[tokio::test]
    async fn what_does_not_fit_the_queue_is_refused_at_once() {
        let pool = ComputePool::start(1, 1).unwrap();
        let (release, gate) = sync_channel::<()>(0);
        let (started, running) = oneshot::channel();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.run(move || {
                    let _ = started.send(());
                    gate.recv()
                })
                .await
            }
        });
        running.await.unwrap();
        let second = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(|| ()).await }
        });
        tokio::task::yield_now().await; // the second now fills the queue's only place
        assert_eq!(pool.run(|| ()).await, Err(ComputeError::Overloaded));
        let end = tokio::spawn({
            let pool = pool.clone();
            async move { pool.finish(|| 7).await }
        });
        release.send(()).unwrap();
        first.await.unwrap().unwrap().unwrap();
        second.await.unwrap().unwrap();
        assert_eq!(end.await.unwrap(), Ok(7));
    }
}
