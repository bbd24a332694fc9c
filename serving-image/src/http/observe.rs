//! The layer around every request: its id, the model's headers, the metrics and one log line.
//! Payloads are never logged.

use std::sync::Arc;
use std::time::Instant;

use axum::body::HttpBody as _;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

use super::App;
use super::problem::Problem;
use super::record::{Record, is_probe};
use super::trace::TRACERESPONSE;
use crate::lifecycle::Phase;
use crate::telemetry::Timeline;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MODEL_NAME: HeaderName = HeaderName::from_static("x-model-name");
const MODEL_VERSION: HeaderName = HeaderName::from_static("x-model-version");

/// Longest request id that is taken over from a client, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// Whether a route's answers are counted in `model_requests_total` and the latency histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// It predicts: users wait for it, and the rollout's gate judges it.
    Prediction,
    /// A probe, or about the process.
    No,
}

/// The middleware of all routes.
pub(super) async fn observe(
    State((app, counted)): State<(Arc<App>, Counted)>,
    request: Request,
    next: Next,
) -> Response {
    let is_prediction = counted == Counted::Prediction;
    let mut trace = app.ids.trace(request.headers());
    let timeline = match &app.tracer {
        Some(tracer) if !is_probe(request.method(), request.uri().path()) => {
            let timeline = tracer.begin(trace.origin());
            trace.set_recorded(timeline.is_on());
            timeline
        }
        _ => Timeline::default(),
    };
    // From here on the request is reported, even if its client leaves and this future is dropped.
    let record = Record {
        started: Instant::now(),
        trace,
        timeline,
        given_id: request_id(request.headers()),
        method: request.method().clone(),
        uri: request.uri().clone(),                   // shares its bytes
        bytes_in: request.body().size_hint().exact(), // none if the body is chunked
        in_flight: is_prediction.then(|| app.metrics.enter()),
        is_finished: false,
        app,
    };

    let mut response = record.timeline.over(next.run(request)).await;
    let Record { app, trace, .. } = &record;
    let path = record.uri.path();
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let mut rendered = problem.render_for(path, app, record.id());
        if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
            rendered.headers_mut().insert(header::ALLOW, allow);
        }
        response = rendered;
    }
    let headers = response.headers_mut();
    headers.insert(MODEL_NAME, app.name_header.clone());
    headers.insert(MODEL_VERSION, app.version_header.clone());
    let given_id = record.given_id.clone();
    if let Some(id) = given_id.or_else(|| trace.id().parse().ok()) {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(trace) = trace.header() {
        headers.insert(TRACERESPONSE, trace);
    }
    if app.lifecycle.phase() == Phase::Draining {
        // Clients are asked to close their connections before the server does: nothing is lost on
        // it then.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    record.finish_with(response)
}

/// The client's id if it is short, printable and has no space.
fn request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let given = headers.get(&REQUEST_ID)?;
    let bytes = given.as_bytes();
    let sound =
        (1..=MAX_REQUEST_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    sound.then(|| given.clone())
}
