//! `POST /v1/completions` and `POST /v1/chat/completions`: OpenAI's requests and answers, at once
//! or as a stream.

mod answer;
mod request;
mod stream;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Map, Value};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::App;
use super::body::read_object;
use super::problem::Problem;
use super::record::AnswerUsage;
use crate::generate::{self, Event, Generator};
use crate::telemetry::part;
use answer::Answer;
use request::Asked;
pub(super) use request::{IGNORED, IGNORED_OF_COMPLETIONS};
use stream::Stream;

/// Names the fields of a request that changed nothing.
const IGNORED_FIELDS: HeaderName = HeaderName::from_static("x-ignored-fields");

/// The paths of a model that writes.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
}

/// The two endpoints of a model that generates text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Completion,
    Chat,
}

async fn completions(app: State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    answer(app, request, Endpoint::Completion).await
}

async fn chat(app: State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    answer(app, request, Endpoint::Chat).await
}

async fn answer(
    State(app): State<Arc<App>>,
    request: Request,
    endpoint: Endpoint,
) -> Result<Response, Problem> {
    let deadline = Instant::now() + app.bounds.deadline;
    let generator = app.lifecycle.generator().ok_or_else(Problem::loading)?;
    let body = read_object(request, &app).await?;
    if let Some(faults) = &app.faults
        && faults.inject().await
    {
        return Err(Problem::test_fault());
    }
    app.check_model(body.get("model"))?;
    let asked = read(&app, generator, endpoint, body).await?;
    let usage = AnswerUsage::default();
    usage.prompt(asked.request.prompt.len());
    let answer = Answer {
        endpoint,
        id: new_id(),
        created: SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |time| time.as_secs()),
        model: app.name.clone(),
        model_version: app.version.clone(),
        prompt_tokens: asked.request.prompt.len(),
    };
    let mut events = generator
        .start(asked.request)
        .map_err(|generate::Overloaded| Problem::overloaded())?;
    // Before the first event, an error can still have its own status.
    let first = next(&mut events).await?;
    let mut response = if asked.stream {
        let stream = Stream::new(
            answer,
            asked.include_usage,
            usage.clone(),
            events,
            deadline,
            first,
        );
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        (headers, Body::new(stream)).into_response()
    } else {
        whole(&answer, &usage, events, first).await?
    };
    response.extensions_mut().insert(usage);
    if let Ok(names) = HeaderValue::from_str(&asked.ignored.join(", "))
        && !names.is_empty()
    {
        response.headers_mut().insert(IGNORED_FIELDS, names);
    }
    Ok(response)
}

/// 128 bits that no other answer has: the keys of a `RandomState` are new each time.
fn new_id() -> String {
    let [high, low] = [0, 1].map(|half: u8| RandomState::new().hash_one(half));
    format!("{high:016x}{low:016x}")
}

/// Validates and tokenises, on the compute pool: a long conversation takes its time.
async fn read(
    app: &Arc<App>,
    generator: &Arc<Generator>,
    endpoint: Endpoint,
    body: Map<String, Value>,
) -> Result<Asked, Problem> {
    let (name, generator) = (app.name.clone(), Arc::clone(generator));
    let work = move || {
        let _preprocess = part("preprocess");
        Asked::read(endpoint, body, &name, &generator)
    };
    app.compute.run(work).await?.map_err(Problem::invalid)
}

/// The next event. The deadline is kept around this handler, and by a stream itself.
async fn next(events: &mut UnboundedReceiver<Event>) -> Result<Event, Problem> {
    match events.recv().await {
        None | Some(Event::Failed) => Err(Problem::internal()),
        Some(event) => Ok(event),
    }
}

/// The whole answer, when its text is complete.
async fn whole(
    answer: &Answer,
    usage: &AnswerUsage,
    mut events: UnboundedReceiver<Event>,
    mut event: Event,
) -> Result<Response, Problem> {
    let mut text = String::new();
    loop {
        match event {
            Event::Text(more) => text.push_str(&more),
            Event::End { reason, tokens } => {
                usage.completion(tokens);
                let body = answer.whole(&text, reason, tokens).to_string();
                return Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response());
            }
            Event::Failed => return Err(Problem::internal()),
        }
        event = next(&mut events).await?;
    }
}
