//! `POST /predict`: the endpoint of every model that turns instances into outputs.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::App;
use super::body::{read_object, refuse_unknown};
use super::infer::{Instances, Render, infer};
use super::problem::Problem;
use crate::answer::Answer;
use crate::artefact::{Kind, Manifest};
use crate::model::Model;
use crate::prediction::Prediction;
use crate::preprocess::{FieldErrors, Location};

/// `/predict`, and the same by KServe's V1 protocol.
pub(super) fn routes(model: &str) -> Router<Arc<App>> {
    let v1 = v1_path(model).replace('{', "{{").replace('}', "}}"); // braces are a pattern's
    Router::new()
        .route("/predict", post(predict))
        .route(&v1, post(predict_v1))
}

/// The path of KServe's V1 protocol.
pub(super) fn v1_path(model: &str) -> String {
    format!("/v1/models/{model}:predict")
}

/// A row of a table may be an array there, its values in the order of the manifest's inputs.
async fn predict_v1(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let model = app.lifecycle.model().ok_or_else(Problem::loading)?;
    let body = read_object(request, &app).await?;
    let mut request = instances(body);
    if model.manifest.kind == Kind::Tabular
        && let Some(rows) = &mut request.values
    {
        for (index, row) in rows.iter_mut().enumerate() {
            name_values(&model.manifest, index, row, &mut request.errors);
        }
    }
    infer(&app, model, request, render as Render).await
}

/// Makes an array of values an object of named ones.
fn name_values(manifest: &Manifest, index: usize, row: &mut Value, errors: &mut FieldErrors) {
    let Value::Array(values) = row else { return };
    let inputs = &manifest.inputs;
    if values.len() != inputs.len() {
        let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        let expected = format!("an array of {} values: {}", inputs.len(), names.join(", "));
        errors.push(|| format!("/instances/{index}"), expected);
    }
    let values = std::mem::take(values).into_iter();
    let names = inputs.iter().map(|input| input.name.clone());
    *row = names.zip(values).collect();
}

/// `{"instances": […]}`: what one instance is, the manifest's kind says.
async fn predict(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let model = app.lifecycle.model().ok_or_else(Problem::loading)?;
    let body = read_object(request, &app).await?;
    infer(&app, model, instances(body), render as Render).await
}

/// The instances of a body, not validated yet.
fn instances(mut body: Map<String, Value>) -> Instances {
    let mut errors = FieldErrors::default();
    let values = match body.remove("instances") {
        Some(Value::Array(instances)) => Some(instances),
        other => {
            let required = if other.is_none() { " (required)" } else { "" };
            let expected = format!("an array of instances{required}");
            errors.push(|| "/instances".into(), expected);
            None
        }
    };
    refuse_unknown(&body, "instances", &mut errors);
    Instances {
        values,
        location: Location::List("/instances"),
        errors,
        places: None,
    }
}

#[derive(Serialize)]
struct Page<'a> {
    model: &'a str,
    model_version: &'a str,
    predictions: Answers<'a>,
}

struct Answers<'a>(&'a Manifest, &'a [Prediction]);

impl Serialize for Answers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.1.iter().map(|one| Answer::new(self.0, one)))
    }
}

fn render(app: &App, model: &Model, predictions: &[Prediction]) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Page {
        model: &app.name,
        model_version: &app.version,
        predictions: Answers(&model.manifest, predictions),
    })
}
