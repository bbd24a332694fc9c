//! From validated JSON to the body of the answer: the path that all predicting endpoints share.

use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tracing::error;

use super::App;
use super::problem::Problem;
use crate::batching::BatchError;
use crate::compute;
use crate::model::Model;
use crate::prediction::Prediction;
use crate::preprocess::{Batch, FieldErrors, Location, Tokens};
use crate::telemetry::part;

/// What is expected of an instance that overflows the model.
pub(super) const NOT_FINITE: &str = "values for which the model's answer is finite";

/// How long the JSON is that binary data follows, of requests and answers alike.
pub(super) const JSON_LENGTH: HeaderName =
    HeaderName::from_static("inference-header-content-length");

/// The instances of a request, not validated yet.
pub(super) struct Instances {
    /// None where the request has none that could be looked at.
    pub values: Option<Vec<Value>>,
    /// Where they are in the request.
    pub location: Location,
    /// Errors around the instances; reported together with those in them.
    pub errors: FieldErrors,
    /// Where the request has what is at a pointer into the instances; none where they are as it has
    /// them.
    pub places: Option<Places>,
}

/// From a pointer into the instances to one into the request.
pub(super) type Places = Box<dyn Fn(&str) -> String + Send>;

impl Instances {
    fn prepare(&mut self, model: &Model) -> Result<Batch, FieldErrors> {
        let mut errors = std::mem::take(&mut self.errors);
        let batch = self
            .values
            .as_ref()
            .map(|values| model.prepare(values, self.location));
        match batch {
            Some(Ok(batch)) if errors.total == 0 => return Ok(batch),
            Some(Err(mut more)) => {
                if let Some(places) = &self.places {
                    for error in &mut more.listed {
                        error.field = places(&error.field);
                    }
                }
                errors.append(more);
            }
            _ => {}
        }
        Err(errors)
    }

    /// Values that are valid one by one may overflow the network's 32-bit floats where the manifest
    /// sets them no bounds. JSON cannot express the result, so the instance is refused; the process
    /// has not failed.
    fn check_finite(&self, predictions: &[Prediction]) -> Result<(), FieldErrors> {
        let mut errors = FieldErrors::default();
        for (index, prediction) in predictions.iter().enumerate() {
            if prediction.output.iter().any(|number| !number.is_finite()) {
                let pointer = self.location.pointer(index);
                let field = || match &self.places {
                    Some(places) => places(&pointer),
                    None => pointer,
                };
                errors.push(field, NOT_FINITE);
            }
        }
        if errors.total == 0 {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Page {
    pub bytes: Vec<u8>,
    /// The length of the JSON, where binary data follows it.
    pub json: Option<usize>,
}

impl From<Vec<u8>> for Page {
    /// JSON alone.
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, json: None }
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let Some(json) = self.json else {
            return ([(header::CONTENT_TYPE, "application/json")], self.bytes).into_response();
        };
        let headers = [
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/octet-stream"),
            ),
            (JSON_LENGTH, HeaderValue::from(json)),
        ];
        (headers, self.bytes).into_response()
    }
}

/// Turns predictions into the body of an endpoint's answer.
pub(super) trait Renderer: Send + 'static {
    /// Refuses a request whose answer the endpoint cannot express.
    fn check(&self, _model: &Model, _predictions: &[Prediction]) -> Result<(), FieldErrors> {
        Ok(())
    }

    /// The body of the answer. Runs on the compute pool, because many numbers take long to write.
    fn render(
        &self,
        app: &App,
        model: &Model,
        predictions: &[Prediction],
    ) -> serde_json::Result<Page>;
}

/// A renderer that does not depend on the request.
pub(super) type Render = fn(&App, &Model, &[Prediction]) -> serde_json::Result<Vec<u8>>;

impl Renderer for Render {
    fn render(
        &self,
        app: &App,
        model: &Model,
        predictions: &[Prediction],
    ) -> serde_json::Result<Page> {
        self(app, model, predictions).map(Page::from)
    }
}

/// Prepares, predicts, counts and renders.
pub(super) async fn infer(
    app: &Arc<App>,
    model: &Arc<Model>,
    mut instances: Instances,
    renderer: impl Renderer,
) -> Result<Response, Problem> {
    if let Some(faults) = &app.faults
        && faults.inject().await
    {
        return Err(Problem::test_fault());
    }
    let count = instances.values.as_ref().map_or(0, Vec::len);
    let work = {
        let (app, model) = (Arc::clone(app), Arc::clone(model));
        move || -> Result<Step<_>, Problem> {
            let preprocess = part("preprocess").number("instances", count);
            let batch = instances.prepare(&model).map_err(Problem::invalid)?;
            drop(preprocess);
            let accepted = Accepted {
                instances,
                renderer,
            };
            if let Batch::Tokens(texts) = batch {
                return Ok(Step::Encode(texts, accepted));
            }
            // Predictions of microseconds run right here.
            let forward = part("forward");
            let predictions = model.forward(&batch).map_err(|reason| failed(&reason))?;
            drop(forward);
            let body = accepted.answer(&app, &model, &predictions)?;
            Ok(Step::Answer(body))
        }
    };
    let step = if model.is_instant(count) {
        compute::here(work)
    } else {
        app.compute.run(work).await
    };
    let body = match step?? {
        Step::Answer(body) => body,
        Step::Encode(texts, accepted) => {
            let engine = Arc::clone(model);
            let predictions = app.batcher.predict(engine, texts).await;
            let predictions = predictions.map_err(|error| match error {
                BatchError::Overloaded => Problem::overloaded(),
                BatchError::Engine(reason) => failed(&reason),
            })?;
            let work = {
                let (app, model) = (Arc::clone(app), Arc::clone(model));
                move || accepted.answer(&app, &model, &predictions)
            };
            app.compute.finish(work).await??
        }
    };
    Ok(body.into_response())
}

/// How far the first visit to the compute pool brings a request.
enum Step<W> {
    /// To its answer's body.
    Answer(Page),
    /// To texts, which are computed with those of other requests.
    Encode(Vec<Tokens>, Accepted<W>),
}

/// Instances that are valid, and how to word the answer to them.
struct Accepted<W> {
    instances: Instances,
    renderer: W,
}

impl<W: Renderer> Accepted<W> {
    /// Counts, and words the answer.
    fn answer(
        &self,
        app: &App,
        model: &Model,
        predictions: &[Prediction],
    ) -> Result<Page, Problem> {
        self.instances
            .check_finite(predictions)
            .and_then(|()| self.renderer.check(model, predictions))
            .map_err(Problem::invalid)?;
        let values = self.instances.values.as_deref().unwrap_or_default();
        app.metrics.predicted(values, predictions);
        let _render = part("render");
        let body = self.renderer.render(app, model, predictions);
        body.map_err(|reason| {
            error!(%reason, "the answer could not be written");
            Problem::internal()
        })
    }
}

fn failed(reason: &impl std::fmt::Display) -> Problem {
    error!(%reason, "the prediction failed");
    Problem::internal()
}
