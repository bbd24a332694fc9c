//! Exports spans from the queue to the collector, on a separate thread. Failures do not affect
//! requests.

use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use axum::body::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use prost::Message as _;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{StatusCode, redirect};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::otlp::{Answer, Process};
use super::settings::{Limits, Settings};
use super::timeline::Trace;
use crate::tls;

/// The pause after the first failed attempt; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The series of exported and lost spans.
#[derive(Debug)]
pub struct ExportMetrics {
    exported: Counter,
    dropped: Family<Reason, Counter>,
    /// The queue was full.
    full: Counter,
    /// The collector did not answer.
    unsent: Counter,
    /// The collector rejected them.
    rejected: Counter,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Default for ExportMetrics {
    fn default() -> Self {
        let dropped = Family::<Reason, Counter>::default();
        let by = |reason| dropped.get_or_create_owned(&Reason { reason });
        Self {
            exported: Counter::default(),
            full: by("queue"),
            unsent: by("collector"),
            rejected: by("rejected"),
            dropped,
        }
    }
}

impl ExportMetrics {
    /// Adds the series.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "model_spans_exported",
            "Spans that the collector has taken",
            self.exported.clone(),
        );
        registry.register(
            "model_spans_dropped",
            "Spans that are lost: the queue was full, the collector did not answer, or it \
             rejected them",
            self.dropped.clone(),
        );
    }
}

/// Traces on their way to the exporter. Full, it takes no more; it never holds anybody up.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// There is something now, there is enough for a message, or there will be no more.
    changed: Notify,
    limits: Limits,
    metrics: ExportMetrics,
}

#[derive(Debug, Default)]
struct Waiting {
    traces: Vec<Trace>,
    spans: usize,
    is_closed: bool,
}

impl Queue {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            waiting: Mutex::default(),
            changed: Notify::new(),
            limits,
            metrics: ExportMetrics::default(),
        }
    }

    pub(super) fn metrics(&self) -> &ExportMetrics {
        &self.metrics
    }

    /// Takes a request's spans, or drops and counts them.
    pub(super) fn offer(&self, trace: Trace) {
        let more = trace.spans();
        let mut waiting = self.waiting();
        if waiting.is_closed || waiting.spans + more > self.limits.waiting {
            drop(waiting);
            self.metrics.full.inc_by(more as u64);
            return;
        }
        let before = waiting.spans;
        waiting.spans += more;
        let is_enough = before < self.limits.message && waiting.spans >= self.limits.message;
        waiting.traces.push(trace);
        drop(waiting);
        if before == 0 || is_enough {
            self.changed.notify_one();
        }
    }

    /// Takes no more.
    pub(super) fn close(&self) {
        self.waiting().is_closed = true;
        self.changed.notify_one();
    }

    /// Waits until it is closed, or there are that many spans.
    async fn holds(&self, spans: usize) {
        loop {
            let changed = self.changed.notified();
            {
                let waiting = self.waiting();
                if waiting.is_closed || waiting.spans >= spans {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Waits until it is closed.
    async fn is_closed(&self) {
        self.holds(usize::MAX).await;
    }

    /// What one message holds, and the number of its spans; none at the end.
    async fn next(&self) -> Option<(Vec<Trace>, u64)> {
        self.holds(1).await;
        let _ = timeout(self.limits.delay, self.holds(self.limits.message)).await;
        let mut waiting = self.waiting();
        let mut spans = 0;
        let enough = waiting.traces.iter().take_while(|trace| {
            let has_room = spans < self.limits.message;
            spans += if has_room { trace.spans() } else { 0 };
            has_room
        });
        let count = enough.count();
        waiting.spans -= spans;
        let traces: Vec<Trace> = waiting.traces.drain(..count).collect();
        (!traces.is_empty()).then_some((traces, spans as u64))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trace {
    fn spans(&self) -> usize {
        self.parts.len() + usize::from(self.served.is_some())
    }
}

/// Sends what is in the queue.
pub(super) struct Exporter {
    queue: Arc<Queue>,
    process: Process,
    settings: Settings,
    http: reqwest::Client,
    /// Whether the last message was lost, which is logged once.
    is_in_trouble: bool,
}

/// Why a message was not taken.
struct Refusal {
    reason: String,
    /// The pause that is asked for; none where trying again is of no use.
    again: Option<Duration>,
}

impl Exporter {
    pub(super) fn new(
        settings: Settings,
        model: &str,
        version: &str,
        queue: Arc<Queue>,
    ) -> Result<Self, String> {
        let http = client(&settings)?;
        Ok(Self {
            queue,
            process: Process::new(model, version, &settings.resource),
            settings,
            http,
            is_in_trouble: false,
        })
    }

    /// Scheme, host and port of the collector. Paths and queries may hold secrets.
    pub(super) fn origin(&self) -> String {
        self.settings.endpoint.origin().ascii_serialization()
    }

    /// Starts the thread. It ends when the queue is closed and empty, and says so.
    pub(super) fn start(mut self) -> io::Result<oneshot::Receiver<()>> {
        let (ended, has_ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new().name("spans".into()).spawn(move || {
            runtime.block_on(async {
                while let Some((traces, spans)) = self.queue.next().await {
                    let message = self.message(&traces);
                    drop(traces);
                    self.send(message, spans).await;
                }
            });
            let _ = ended.send(()); // fails where no caller waits any more
        })?;
        Ok(has_ended)
    }

    fn message(&self, traces: &[Trace]) -> Vec<u8> {
        let message = self.process.encode(traces);
        if !self.settings.gzip {
            return message;
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        let _ = gzip.write_all(&message); // a Vec takes everything
        gzip.finish().unwrap_or_default()
    }

    /// Sends a message, and counts what became of its spans.
    async fn send(&mut self, message: Vec<u8>, spans: u64) {
        let metrics = &self.queue.metrics;
        match self.deliver(message.into()).await {
            Ok(rejected) => {
                let rejected = rejected.min(spans);
                metrics.exported.inc_by(spans - rejected);
                metrics.rejected.inc_by(rejected);
                if std::mem::take(&mut self.is_in_trouble) {
                    info!("spans are exported again");
                }
            }
            Err(reason) => {
                metrics.unsent.inc_by(spans);
                if !std::mem::replace(&mut self.is_in_trouble, true) {
                    warn!(
                        reason,
                        "spans are lost, and counted until one is taken again"
                    );
                }
            }
        }
    }

    /// Sends a message until it is taken, refused for good, or too old. Tells how many of its spans
    /// were rejected.
    async fn deliver(&self, message: Bytes) -> Result<u64, String> {
        let give_up = Instant::now() + self.settings.limits.export_timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let refusal = match self.attempt(message.clone()).await {
                Ok(rejected) => return Ok(rejected),
                Err(refusal) => refusal,
            };
            // Up to half as long again: the pods of a model must not come back to the collector
            // together.
            let jittered = pause.mul_f64(1.0 + fastrand::f64() / 2.0);
            let rest = refusal.again.map(|asked| asked.max(jittered));
            let Some(rest) = rest.filter(|rest| Instant::now() + *rest < give_up) else {
                return Err(refusal.reason);
            };
            if timeout(rest, self.queue.is_closed()).await.is_ok() {
                // The process ends: one attempt more, at once.
                let last = self.attempt(message).await;
                return last.map_err(|refusal| refusal.reason);
            }
            pause *= 2;
        }
    }

    /// Sends a message once; tells how many of its spans the collector rejected.
    async fn attempt(&self, message: Bytes) -> Result<u64, Refusal> {
        let mut request = self
            .http
            .post(self.settings.endpoint.clone())
            .headers(self.settings.headers.clone())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(message);
        if self.settings.gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        let answer = request.send().await.map_err(|error| Refusal {
            reason: root(&error),
            again: Some(Duration::ZERO),
        })?;
        let status = answer.status();
        if status.is_success() {
            let body = answer.bytes().await.unwrap_or_default();
            // An answer that is no protobuf rejects nothing.
            return Ok(Answer::decode(body).map_or(0, |answer| answer.rejected()));
        }
        // Those that the protocol names as such that may pass.
        let may_pass = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        let asked = answer.headers().get(RETRY_AFTER);
        Err(Refusal {
            reason: format!("the collector answers {status}"),
            again: may_pass.then(|| asked.and_then(seconds).unwrap_or_default()),
        })
    }
}

fn seconds(value: &HeaderValue) -> Option<Duration> {
    let seconds = value.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn client(settings: &Settings) -> Result<reqwest::Client, String> {
    // Named for the whole process: with the default features of another crate there might be two to
    // choose from.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("serin-serve/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .http1_only()
        .timeout(settings.timeout);
    let builder = if settings.endpoint.scheme() == "http" {
        builder.tls_certs_only([]) // nothing to read from disk where there is no TLS
    } else {
        let trusting = tls::client(settings.certificate.as_deref());
        builder.tls_backend_preconfigured(trusting.map_err(|error| error.to_string())?)
    };
    builder.build().map_err(|error| root(&error))
}

/// The innermost cause: reqwest's own words are general, and hold the whole address.
fn root(error: &reqwest::Error) -> String {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause.and_then(std::error::Error::source) {
        cause = Some(inner);
    }
    cause.map_or_else(|| "the request failed".to_owned(), ToString::to_string)
}
