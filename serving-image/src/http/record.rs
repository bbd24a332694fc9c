//! The record of a request: when its answer is complete, the metrics and one log line report it.
//! Payloads are never logged.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::http::{HeaderValue, Method, Uri};
use axum::response::Response;
use hyper::body::Frame;
use tracing::{debug, info};

use super::App;
use super::trace::Trace;
use crate::metrics::InFlight;
use crate::telemetry::{Served, Timeline};

/// Longest path in a log line, in bytes.
const MAX_LOGGED_PATH: usize = 128;

/// Status of a request whose client closed the connection before the end of the answer, as in
/// nginx.
const CLIENT_CLOSED: u16 = 499;

/// A request in progress, which is reported once. Dropped before that, it counts as one whose
/// client closed the connection (499).
pub(super) struct Record {
    pub app: Arc<App>,
    /// The client's own id, if it sent a valid one.
    pub given_id: Option<HeaderValue>,
    pub trace: Trace,
    /// Its spans, if it is traced.
    pub timeline: Timeline,
    pub method: Method,
    pub uri: Uri,
    pub started: Instant,
    pub bytes_in: Option<u64>,
    /// Of a prediction: in flight until the record is dropped.
    pub in_flight: Option<InFlight>,
    pub is_finished: bool,
}

impl Record {
    /// The client's id, or else the trace's.
    pub(super) fn id(&self) -> &str {
        let given = self.given_id.as_ref().and_then(|id| id.to_str().ok());
        given.unwrap_or_else(|| self.trace.id())
    }

    /// Reports the request now, or at the end of the body if that is streamed.
    pub(super) fn finish_with(mut self, mut response: Response) -> Response {
        let status = response.status().as_u16();
        let usage = response.extensions_mut().remove::<AnswerUsage>();
        let usage = usage.unwrap_or_default();
        if let Some(bytes_out) = response.body().size_hint().exact() {
            self.finish(status, bytes_out, &usage);
            return response;
        }
        response.map(|body| {
            Body::new(Streamed {
                body,
                status,
                bytes: 0,
                usage,
                record: self,
            })
        })
    }

    fn finish(&mut self, status: u16, bytes_out: u64, usage: &AnswerUsage) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        let Self {
            method, bytes_in, ..
        } = &*self;
        let elapsed = self.started.elapsed().as_secs_f64();
        if self.in_flight.is_some() {
            self.app.metrics.answered(status, elapsed);
        }
        let path = &*loggable(self.uri.path());
        let id = self.id();
        let (trace_id, span_id) = (self.trace.id(), self.trace.span());
        let version = self.app.version.as_str();
        let ms = (elapsed * 1e6).round() / 1e3;
        let (prompt_tokens, completion_tokens) = usage.tokens();
        self.timeline.end(|| {
            let numbers = [
                ("http.request.body.size", *bytes_in),
                ("http.response.body.size", Some(bytes_out)),
                ("gen_ai.usage.input_tokens", prompt_tokens),
                ("gen_ai.usage.output_tokens", completion_tokens),
            ];
            Served {
                method: known(method),
                path: path.to_owned(),
                route: route(path, status),
                status,
                numbers: numbers
                    .into_iter()
                    .filter_map(|(name, number)| Some((name, number?)))
                    .collect(),
            }
        });
        if is_probe(method, path) && status < 500 {
            debug!(id, trace_id, span_id, %method, path, version, status, ms, bytes_in, bytes_out,
                "request");
        } else {
            info!(
                id, trace_id, span_id, %method, path, version, status, ms, bytes_in, bytes_out,
                    prompt_tokens,
                completion_tokens, "request"
            );
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let status = if std::thread::panicking() {
            500
        } else {
            CLIENT_CLOSED
        };
        self.finish(status, 0, &AnswerUsage::default());
    }
}

/// Token counts and late failures of one answer, from its handler; shared with the streamed body.
#[derive(Debug, Clone, Default)]
pub(super) struct AnswerUsage(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Tokens plus one; 0 while unknown.
    prompt: AtomicU64,
    completion: AtomicU64,
    /// Status that a stream counts as when it failed after its head; 0 if it did not fail.
    status: AtomicU16,
}

impl AnswerUsage {
    /// The prompt has that many tokens.
    pub(super) fn prompt(&self, tokens: usize) {
        self.0.prompt.store(tokens as u64 + 1, Ordering::Relaxed);
    }

    /// The text has that many tokens.
    pub(super) fn completion(&self, tokens: usize) {
        let tokens = tokens as u64 + 1;
        self.0.completion.store(tokens, Ordering::Relaxed);
    }

    /// The answer failed after its status was sent.
    pub(super) fn failed(&self, status: u16) {
        self.0.status.store(status, Ordering::Relaxed);
    }

    fn tokens(&self) -> (Option<u64>, Option<u64>) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed).checked_sub(1);
        (read(&self.0.prompt), read(&self.0.completion))
    }

    fn status(&self) -> Option<u16> {
        Some(self.0.status.load(Ordering::Relaxed)).filter(|status| *status > 0)
    }
}

/// A body of unknown length. Its request is reported when it ends or is dropped.
struct Streamed {
    body: Body,
    status: u16,
    bytes: u64,
    usage: AnswerUsage,
    record: Record,
}

impl Streamed {
    fn finish(&mut self, status: u16) {
        let status = self.usage.status().unwrap_or(status);
        self.record.finish(status, self.bytes, &self.usage);
    }
}

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) => self.finish(500),
            None => {
                let status = self.status;
                self.finish(status);
            }
        }
        Poll::Ready(frame)
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.finish(CLIENT_CLOSED);
    }
}

/// Probes and scrapes come every few seconds for ever; a log of them hides the requests.
pub(super) fn is_probe(method: &Method, path: &str) -> bool {
    method == Method::GET && matches!(path, "/livez" | "/readyz" | "/metrics")
}

/// The method's name if HTTP defines it; clients may invent any number of others.
fn known(method: &Method) -> Option<&'static str> {
    const KNOWN: [&str; 9] = [
        "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
    ];
    KNOWN.into_iter().find(|name| *name == method.as_str())
}

/// The route of a path; `None` if there may be no such path. Only those of V2
/// have parameters: the model's name and its version.
fn route(path: &str, status: u16) -> Option<String> {
    if matches!(status, 404 | 405) {
        return None;
    }
    let Some(rest) = path.strip_prefix("/v2/models/") else {
        return Some(path.to_owned());
    };
    let mut route = "/v2/models/{model}".to_owned();
    let mut steps = rest.split('/').skip(1);
    while let Some(step) = steps.next() {
        route.push('/');
        route.push_str(step);
        if step == "versions" && steps.next().is_some() {
            route.push_str("/{version}");
        }
    }
    Some(route)
}

/// The path without its query, which may hold personal data, and at most [`MAX_LOGGED_PATH`] bytes
/// of it.
fn loggable(path: &str) -> Cow<'_, str> {
    if path.len() <= MAX_LOGGED_PATH && path.is_ascii() {
        return path.into();
    }
    let shown = path.bytes().take(MAX_LOGGED_PATH).map(|byte| {
        if byte.is_ascii() {
            char::from(byte)
        } else {
            '?'
        }
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_has_no_names_of_models() {
        let cases = [
            ("/predict", 200, Some("/predict")),
            ("/predict", 404, None),
            ("/nowhere", 404, None),
            ("/v2/models/iris", 200, Some("/v2/models/{model}")),
            (
                "/v2/models/iris/infer",
                400,
                Some("/v2/models/{model}/infer"),
            ),
            (
                "/v2/models/iris/versions/1.0.0/ready",
                200,
                Some("/v2/models/{model}/versions/{version}/ready"),
            ),
        ];
        for (path, status, expected) in cases {
            assert_eq!(route(path, status).as_deref(), expected, "{path}");
        }
    }
}
