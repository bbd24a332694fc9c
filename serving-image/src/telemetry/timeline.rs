//! The spans of one request in progress: its parts, and at its end the answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use super::Origin;
use super::export::Queue;

tokio::task_local! {
    /// The current request of this thread; unset if it is not traced.
    static CURRENT: Timeline;
}

/// The spans of one request; empty if it is not traced. Clones are of the same request, and
/// its spans are exported together when the last clone is dropped, because none can be added then.
#[derive(Debug, Clone, Default)]
pub struct Timeline(Option<Arc<Open>>);

#[derive(Debug)]
struct Open {
    queue: Arc<Queue>,
    trace: Mutex<Trace>,
}

/// A request's spans.
#[derive(Debug, Clone)]
pub(super) struct Trace {
    pub(super) context: Context,
    /// None until the request is answered.
    pub(super) served: Option<(Served, Instant)>,
    pub(super) parts: Vec<Done>,
}

/// Where the request's span belongs, and when it began by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context {
    pub(super) origin: Origin,
    pub(super) started: Instant,
    /// The same moment, in nanoseconds since 1970.
    pub(super) started_unix: u64,
}

/// How a request was answered. Nothing here is from its payload.
#[derive(Debug, Clone)]
pub struct Served {
    /// The method, if HTTP defines it.
    pub method: Option<&'static str>,
    /// The path, as long as a log line shows it.
    pub path: String,
    /// The route of the path; `None` if there is no such path.
    pub route: Option<String>,
    /// As which it is counted; 499 where the client went away.
    pub status: u16,
    /// Counts by name, as OpenTelemetry's conventions name them.
    pub numbers: Vec<(&'static str, u64)>,
}

/// A part of a request's time that is over.
#[derive(Debug, Clone)]
pub(super) struct Done {
    pub(super) name: &'static str,
    pub(super) span: [u8; 8],
    pub(super) started: Instant,
    pub(super) ended: Instant,
    pub(super) numbers: Vec<(&'static str, u64)>,
    pub(super) panicked: bool,
}

impl Context {
    pub(super) fn new(origin: Origin) -> Self {
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self {
            origin,
            started: Instant::now(),
            started_unix: u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// A moment in nanoseconds since 1970; one before the request began counts as its beginning.
    pub(super) fn unix(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.started).as_nanos();
        self.started_unix
            .saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }
}

impl Timeline {
    pub(super) fn begin(context: Context, queue: Arc<Queue>) -> Self {
        Self(Some(Arc::new(Open {
            queue,
            trace: Mutex::new(Trace {
                context,
                served: None,
                parts: Vec::with_capacity(4), // what most requests have
            }),
        })))
    }

    /// The request that is worked on here.
    pub fn current() -> Self {
        CURRENT.try_with(Clone::clone).unwrap_or_default()
    }

    /// Whether the request is traced.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Runs `work` as a part of the request's work.
    pub async fn over<F: Future>(&self, work: F) -> F::Output {
        if self.is_on() {
            CURRENT.scope(self.clone(), work).await
        } else {
            work.await
        }
    }

    /// A part that begins now, and ends when the guard is dropped.
    pub fn part(&self, name: &'static str) -> Part {
        Part(self.is_on().then(|| Begun {
            timeline: self.clone(),
            name,
            started: Instant::now(),
            numbers: Vec::new(),
        }))
    }

    /// The request is answered.
    pub fn end(&self, served: impl FnOnce() -> Served) {
        if let Some(open) = &self.0 {
            open.trace
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .served = Some((served(), Instant::now()));
        }
    }

    fn add(&self, part: impl FnOnce() -> Done) {
        if let Some(open) = &self.0 {
            let mut trace = open.trace.lock().unwrap_or_else(PoisonError::into_inner);
            trace.parts.push(part());
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let trace = self.trace.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.queue.offer(Trace {
            parts: std::mem::take(&mut trace.parts),
            served: trace.served.take(),
            context: trace.context,
        });
    }
}

/// A part of a request's time, up to the moment at which this is dropped.
#[derive(Debug)]
#[must_use = "the part ends where this is dropped"]
pub struct Part(Option<Begun>);

#[derive(Debug)]
struct Begun {
    timeline: Timeline,
    name: &'static str,
    started: Instant,
    numbers: Vec<(&'static str, u64)>,
}

impl Part {
    /// Adds a count.
    pub fn number(mut self, name: &'static str, number: usize) -> Self {
        self.set(name, number);
        self
    }

    /// Adds a count, or changes it.
    pub fn set(&mut self, name: &'static str, number: usize) {
        let Some(begun) = &mut self.0 else { return };
        let number = number as u64;
        match begun.numbers.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = number,
            None => begun.numbers.push((name, number)),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(begun) = self.0.take() {
            begun.timeline.add(|| Done {
                name: begun.name,
                span: fastrand::u64(1..).to_be_bytes(),
                started: begun.started,
                ended: Instant::now(),
                numbers: begun.numbers,
                panicked: std::thread::panicking(),
            });
        }
    }
}

/// A part of the request that is worked on here, from now until the guard is dropped.
pub fn part(name: &'static str) -> Part {
    CURRENT
        .try_with(|timeline| timeline.part(name))
        .unwrap_or(Part(None))
}

/// Work for the request in hand, to be done by another thread: what it waits there is a part of its
/// own.
pub fn scoped<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let timeline = Timeline::current();
    let waiting = timeline.part("queue");
    move || {
        drop(waiting);
        if timeline.is_on() {
            CURRENT.sync_scope(timeline, work)
        } else {
            work()
        }
    }
}
