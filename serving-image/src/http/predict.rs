//! `POST /predict`: the face of every model that turns instances into outputs.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::App;
use super::body::{read_object, refuse_unknown};
use super::infer::{Instances, Render, infer};
use super::problem::Problem;
use crate::artefact::Task;
use crate::model::{Model, Prediction};
use crate::preprocess::{FieldErrors, Location};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/predict", post(predict))
}

/// `{"instances": […]}`: named fields of a tabular model, texts of an embedding model.
async fn predict(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
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
    let render: Render = match model.manifest.task {
        Task::Classification => render_classes,
        _ => render_vectors,
    };
    let request = Instances {
        values: instances,
        location: Location::List("/instances"),
        errors,
    };
    infer(&app, model, request, render).await
}

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
