//! `POST /predict` and `POST /v1/embeddings`: two shapes of one path.

use std::error::Error;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use tracing::error;

use super::problem::Problem;
use super::{App, Bounds};
use crate::artefact::Kind;
use crate::compute::ComputeError;
use crate::model::{Model, Prediction};
use crate::preprocess::{Batch, FieldErrors, Location};

/// `{"instances": […]}`: named fields of a tabular model, texts of an embedding model.
pub(super) async fn predict(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let model = app.lifecycle.model().ok_or_else(Problem::loading)?;
    let mut body = read_object(request, app.bounds).await?;
    let mut errors = FieldErrors::default();
    let instances = match body.remove("instances") {
        Some(Value::Array(instances)) => Some(instances),
        other => {
            let required = if other.is_none() { " (required)" } else { "" };
            errors.push(
                || "/instances".into(),
                format!("an array of instances{required}"),
            );
            None
        }
    };
    refuse_unknown(&body, "instances", &mut errors);
    let render = match model.manifest.kind {
        Kind::Tabular => render_classes,
        Kind::Embedding => render_vectors,
    };
    let request = Instances {
        values: instances,
        location: Location::List("/instances"),
        errors,
    };
    infer(&app, model, request, render).await
}

/// The request of OpenAI's embeddings API, for clients that speak it.
pub(super) async fn embeddings(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let model = app.lifecycle.model().ok_or_else(Problem::loading)?;
    let mut body = read_object(request, app.bounds).await?;
    let mut errors = FieldErrors::default();
    let mut expect = |holds: bool, field: &str, expected: String| {
        if !holds {
            errors.push(|| field.to_owned(), expected);
        }
    };
    let (values, location) = match body.remove("input") {
        Some(Value::Array(texts)) => (Some(texts), Location::List("/input")),
        Some(text @ Value::String(_)) => (Some(vec![text]), Location::Single("/input")),
        _ => {
            expect(
                false,
                "/input",
                "a text, or an array of texts (required)".into(),
            );
            (None, Location::List("/input"))
        }
    };
    let name = body.remove("model");
    expect(
        name.is_none_or(|name| name == app.name.as_str()),
        "/model",
        format!("{:?}, or nothing", app.name),
    );
    let dimensions = model.manifest.outputs.dimensions.unwrap_or_default();
    let given = body.remove("dimensions");
    expect(
        given.is_none_or(|given| given == dimensions),
        "/dimensions",
        format!("{dimensions}, or nothing"),
    );
    let format = body.remove("encoding_format");
    let render = match format.as_ref().map(Value::as_str) {
        None | Some(Some("float")) => render_openai_floats,
        Some(Some("base64")) => render_openai_base64,
        _ => {
            expect(false, "/encoding_format", "\"float\" or \"base64\"".into());
            render_openai_floats
        }
    };
    body.remove("user"); // an end user's id, which a server may ignore
    refuse_unknown(
        &body,
        "input, model, dimensions, encoding_format, user",
        &mut errors,
    );
    infer(
        &app,
        model,
        Instances {
            values,
            location,
            errors,
        },
        render,
    )
    .await
}

/// Renders the answer's body, on the compute pool: a page of numbers takes its time.
type Render = fn(&App, &Model, &[Prediction]) -> serde_json::Result<Vec<u8>>;

/// The instances of a request, not validated yet.
struct Instances {
    /// None where the request has none that could be looked at.
    values: Option<Vec<Value>>,
    location: Location,
    /// What is wrong around them; told together with what is wrong in them.
    errors: FieldErrors,
}

impl Instances {
    fn prepare(mut self, model: &Model) -> Result<Batch, FieldErrors> {
        let batch = self
            .values
            .map(|values| model.prepare(&values, self.location));
        match batch {
            Some(Ok(batch)) if self.errors.total == 0 => return Ok(batch),
            Some(Err(errors)) => self.errors.append(errors),
            _ => {}
        }
        Err(self.errors)
    }
}

async fn infer(
    app: &Arc<App>,
    model: &Arc<Model>,
    instances: Instances,
    render: Render,
) -> Result<Response, Problem> {
    if let Some(faults) = &app.faults
        && faults.strike().await
    {
        return Err(Problem::test_fault());
    }
    let work = {
        let (app, model) = (Arc::clone(app), Arc::clone(model));
        move || -> Result<Vec<u8>, Problem> {
            let batch = instances.prepare(&model).map_err(Problem::invalid)?;
            let predictions = model.forward(&batch).map_err(|reason| {
                error!(%reason, "the prediction failed");
                Problem::internal()
            })?;
            count(&app, &model, &predictions);
            render(&app, &model, &predictions).map_err(|reason| {
                error!(%reason, "the answer could not be written");
                Problem::internal()
            })
        }
    };
    let body = app.compute.run(work).await.map_err(|error| match error {
        ComputeError::Overloaded => Problem::overloaded(),
        ComputeError::Panicked(reason) => {
            error!(%reason, "the prediction panicked");
            Problem::internal()
        }
    })??;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn count(app: &App, model: &Model, predictions: &[Prediction]) {
    match model.manifest.kind {
        Kind::Tabular => {
            for (class, label) in model.manifest.outputs.labels.iter().enumerate() {
                let instances = predictions
                    .iter()
                    .filter(|prediction| prediction.class() == class)
                    .count();
                app.metrics.predicted(label, instances as u64);
            }
        }
        Kind::Embedding => app.metrics.predicted("embedding", predictions.len() as u64),
    }
}

// ------------------------------------------------------------------------------------------------- requests

async fn read_object(request: Request, bounds: Bounds) -> Result<Map<String, Value>, Problem> {
    if !is_json(request.headers()) {
        let detail = "The body must be application/json, in UTF-8";
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            detail,
        ));
    }
    let body = read_body(request.into_body(), bounds).await?;
    match serde_json::from_slice(&body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::invalid(FieldErrors::one("", "an object"))),
        // The parser's own message is not passed on: it may repeat what was sent.
        Err(error) => {
            let what = if error.is_eof() {
                "ends too early"
            } else {
                "is not JSON"
            };
            let detail = format!(
                "The body {what}, at line {} column {}",
                error.line(),
                error.column()
            );
            Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "malformed-json",
                detail,
            ))
        }
    }
}

async fn read_body(body: Body, bounds: Bounds) -> Result<Bytes, Problem> {
    let read = Limited::new(body, bounds.body).collect();
    let collected = tokio::time::timeout(bounds.body_time, read)
        .await
        .map_err(|_| {
            let detail = format!(
                "The body did not arrive within {} s",
                bounds.body_time.as_secs_f64()
            );
            Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", detail)
        })?;
    collected
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| {
            if is_too_long(&*error) {
                let detail = format!("The body may have {} bytes at most", bounds.body);
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
            } else {
                Problem::new(
                    StatusCode::BAD_REQUEST,
                    "incomplete-body",
                    "The body ended before its announced length",
                )
            }
        })
}

/// Whether the limit is what ended the body, at any depth of the error.
fn is_too_long(error: &(dyn Error + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(is_too_long)
}

/// `application/json` or a `+json` type; a `charset`, if there is one, must be UTF-8.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(given) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let given = given.to_ascii_lowercase();
    let mut parts = given.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let is_json = essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    is_json
        && parts
            .filter_map(|part| part.strip_prefix("charset="))
            .all(|set| set.trim_matches('"') == "utf-8")
}

fn refuse_unknown(rest: &Map<String, Value>, known: &str, errors: &mut FieldErrors) {
    for name in rest.keys() {
        let field = || crate::preprocess::pointer("", name);
        errors.push(field, format!("no such field; the fields are {known}"));
    }
}

// -------------------------------------------------------------------------------------------------- answers

#[derive(Serialize)]
struct Answer<'a, P> {
    model: &'a str,
    model_version: &'a str,
    predictions: Vec<P>,
}

#[derive(Serialize)]
struct Class<'a> {
    label: &'a str,
    probabilities: Probabilities<'a>,
}

/// Serialised as `{"setosa": 0.97, …}`, in the order of the labels.
struct Probabilities<'a>(&'a [String], &'a [f32]);

impl Serialize for Probabilities<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(self.1))
    }
}

#[derive(Serialize)]
struct Vector<'a> {
    embedding: &'a [f32],
    tokens: usize,
    truncated: bool,
}

fn render_classes<'a>(
    app: &App,
    model: &'a Model,
    predictions: &'a [Prediction],
) -> serde_json::Result<Vec<u8>> {
    let labels = &model.manifest.outputs.labels;
    let class = |prediction: &'a Prediction| Class {
        label: &labels[prediction.class()],
        probabilities: Probabilities(labels, &prediction.output),
    };
    render(app, predictions.iter().map(class).collect())
}

fn render_vectors<'a>(
    app: &App,
    _: &Model,
    predictions: &'a [Prediction],
) -> serde_json::Result<Vec<u8>> {
    let vector = |prediction: &'a Prediction| Vector {
        embedding: &prediction.output,
        tokens: prediction.tokens,
        truncated: prediction.truncated,
    };
    render(app, predictions.iter().map(vector).collect())
}

fn render<P: Serialize>(app: &App, predictions: Vec<P>) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Answer {
        model: &app.name,
        model_version: &app.version,
        predictions,
    })
}

#[derive(Serialize)]
struct OpenAi<'a, E> {
    object: &'static str,
    data: Vec<OpenAiDatum<E>>,
    model: &'a str,
    model_version: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct OpenAiDatum<E> {
    object: &'static str,
    index: usize,
    embedding: E,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

fn render_openai_floats(
    app: &App,
    _: &Model,
    predictions: &[Prediction],
) -> serde_json::Result<Vec<u8>> {
    render_openai(app, predictions, |vector| vector)
}

/// Little-endian 32-bit floats in base64: what OpenAI's Python client asks for by default.
fn render_openai_base64(
    app: &App,
    _: &Model,
    predictions: &[Prediction],
) -> serde_json::Result<Vec<u8>> {
    render_openai(app, predictions, |vector| {
        let bytes: Vec<u8> = vector
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        base64::engine::general_purpose::STANDARD.encode(bytes)
    })
}

fn render_openai<'a, E: Serialize>(
    app: &App,
    predictions: &'a [Prediction],
    encode: impl Fn(&'a [f32]) -> E,
) -> serde_json::Result<Vec<u8>> {
    let datum = |(index, prediction): (usize, &'a Prediction)| OpenAiDatum {
        object: "embedding",
        index,
        embedding: encode(&prediction.output),
    };
    let tokens = predictions.iter().map(|prediction| prediction.tokens).sum();
    serde_json::to_vec(&OpenAi {
        object: "list",
        data: predictions.iter().enumerate().map(datum).collect(),
        model: &app.name,
        model_version: &app.version,
        usage: Usage {
            prompt_tokens: tokens,
            total_tokens: tokens,
        },
    })
}
