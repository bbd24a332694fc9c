//! Sends each request when it is due, whether or not the ones before are answered.
//!
//! ```text
//! pacer (a thread that sleeps precisely) ─► queue of due requests ─► connections
//!     ─► samples ─► gatherer
//! ```

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::BenchError;
use super::args::BenchArgs;
use super::bodies::Bodies;
use super::schedule::Schedule;
use super::stats::{Gatherer, Sample, Step};
use super::target::{Connection, Outcome, Target};

/// A request that is due, and its number.
type Due = (Duration, usize);

/// Runs one rate: warm-up and counted time.
pub(super) async fn run(
    target: &Arc<Target>,
    bodies: &Bodies,
    rate: f64,
    args: &BenchArgs,
) -> Result<Step, BenchError> {
    let schedule = Schedule::new(args.arrivals, rate, args.warm_up + args.duration, args.seed);
    let (due, queue) = unbounded_channel::<Due>();
    let (samples, mut measured) = unbounded_channel::<Sample>();
    let queue = Arc::new(Mutex::new(queue));
    let start = Instant::now();
    for _ in 0..args.connections.get() {
        let client = Client {
            target: Arc::clone(target),
            bodies: Arc::clone(&bodies.bodies),
            start,
            timeout: args.timeout,
        };
        tokio::spawn(client.work(Arc::clone(&queue), samples.clone()));
    }
    drop(samples); // what is measured ends with the last client
    let pacer = thread::Builder::new()
        .name("pacer".into())
        .spawn(move || pace(schedule, start, &due))?;
    let mut gatherer = Gatherer::new(rate, args.warm_up, args.duration)?;
    while let Some(sample) = measured.recv().await {
        gatherer.add(sample);
    }
    let _ = pacer.join(); // it has ended: the queue is empty and closed
    Ok(gatherer.finish())
}

/// A separate thread: the runtime's timers tick in milliseconds, which is longer than a small
/// model needs.
fn pace(schedule: Schedule, start: Instant, queue: &UnboundedSender<Due>) {
    for (number, due) in schedule.enumerate() {
        if let Some(early) = due.checked_sub(start.elapsed()) {
            thread::sleep(early);
        }
        if queue.send((due, number)).is_err() {
            return;
        }
    }
}

struct Client {
    target: Arc<Target>,
    bodies: Arc<[Bytes]>,
    start: Instant,
    timeout: Duration,
}

impl Client {
    /// Takes due requests until there are no more. A request that waited too long for a free
    /// connection is given up unsent, as its sender would have done.
    async fn work(
        self,
        queue: Arc<Mutex<UnboundedReceiver<Due>>>,
        samples: UnboundedSender<Sample>,
    ) {
        let mut connection = Connection::default();
        loop {
            let next = queue.lock().await.recv().await;
            let Some((due, number)) = next else { return };
            let mut sent = None;
            let mut outcome = Outcome::TimedOut;
            let now = self.start.elapsed();
            if let Some(left) = (due + self.timeout).checked_sub(now) {
                sent = Some(now);
                let body = self.bodies[number % self.bodies.len()].clone();
                let answer = tokio::time::timeout(left, self.target.post(&mut connection, body));
                outcome = answer.await.unwrap_or(Outcome::TimedOut);
            }
            let done = self.start.elapsed();
            if samples
                .send(Sample {
                    due,
                    sent,
                    done,
                    outcome,
                })
                .is_err()
            {
                return;
            }
        }
    }
}
