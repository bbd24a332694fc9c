//! `POST /predict`: the endpoint of every model that turns instances into outputs.

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
use crate::answer::Answer;
use crate::artefact::Manifest;
use crate::model::Model;
use crate::prediction::Prediction;
use crate::preprocess::{FieldErrors, Location};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/predict", post(predict))
}

/// `{"instances": […]}`: what one instance is, the manifest's kind says.
async fn predict(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let model = app.lifecycle.model().ok_or_else(Problem::loading)?;
    let mut body = read_object(request, &app).await?;
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
    let request = Instances {
        values,
        location: Location::List("/instances"),
        errors,
        places: None,
    };
    infer(&app, model, request, render as Render).await
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
