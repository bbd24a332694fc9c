//! The Open Inference Protocol V2 (`/v2/…`), which KServe, Triton and MLServer speak, by its REST
//! specification.
//!
//! Inputs are one tensor for each field, `[n]` or `[n, 1]` of n instances, or, where every field is
//! a number, one tensor `[n, fields]`. Texts are `BYTES`. Errors are `{"error": "…"}`, with status
//! 400 where `/predict` answers 422. Tensors may be binary, by the protocol's extension: their
//! bytes follow the JSON.

mod answer;
mod binary;
mod datatype;
mod request;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::body::{object, read_bytes};
use super::infer::{JSON_LENGTH, infer};
use super::problem::Problem;
use crate::artefact::{Manifest, Network};
use crate::lifecycle::Phase;
use answer::V2Answer;

pub(super) use answer::names as output_names;
pub(super) use request::example;

/// The media types of a request: its clients send JSON without one, too.
const MEDIA_TYPES: [&str; 2] = ["", "application/octet-stream"];

/// The paths that predict.
pub(super) fn predictions() -> Router<Arc<App>> {
    Router::new()
        .route("/v2/models/{model}/infer", post(infer_tensors))
        .route(
            "/v2/models/{model}/versions/{version}/infer",
            post(infer_tensors),
        )
}

/// The paths that tell about the server and its model.
pub(super) fn about() -> Router<Arc<App>> {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{model}", get(metadata))
        .route("/v2/models/{model}/versions/{version}", get(metadata))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route(
            "/v2/models/{model}/versions/{version}/ready",
            get(model_ready),
        )
}

/// What the model metadata path answers.
pub(super) fn describe(manifest: &Manifest, name: &str, version: &str) -> Value {
    let platform = match manifest.network {
        Network::Linear { .. } | Network::Mlp { .. } | Network::Bert { .. } => "candle_safetensors",
        Network::Onnx { .. } => "onnxruntime_onnx",
        Network::Gguf { .. } => "candle_gguf",
    };
    json!({
        "name": name,
        "versions": [version],
        "platform": platform,
        "inputs": request::tensors(manifest),
        "outputs": answer::tensors(manifest),
    })
}

/// The model that a path names.
#[derive(Deserialize)]
struct Target {
    model: String,
    version: Option<String>,
}

impl App {
    /// A process serves one version of one model, by the name and version of its answers.
    fn check_target(&self, target: Result<Path<Target>, PathRejection>) -> Result<(), Problem> {
        let found = target.is_ok_and(|Path(target)| {
            let version = target.version.as_ref();
            target.model == self.name && version.is_none_or(|version| *version == self.version)
        });
        if found {
            return Ok(());
        }
        let detail = format!("Served here is {} version {}", self.name, self.version);
        Err(Problem::new(StatusCode::NOT_FOUND, "unknown-model", detail))
    }
}

async fn server() -> Json<Value> {
    Json(json!({
        "name": "serin-serve",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data"],
    }))
}

async fn live() -> Json<Value> {
    Json(json!({"live": true}))
}

/// Its schema in the specification has the key `live`, its name and text say `ready`: both are
/// here, with one value.
async fn ready(State(app): State<Arc<App>>) -> Response {
    readiness(&app, |ready| json!({"live": ready, "ready": ready}))
}

async fn model_ready(
    State(app): State<Arc<App>>,
    target: Result<Path<Target>, PathRejection>,
) -> Result<Response, Problem> {
    app.check_target(target)?;
    Ok(readiness(
        &app,
        |ready| json!({"name": app.name, "ready": ready}),
    ))
}

/// 200 if ready, else 503: probes look at the status alone.
fn readiness(app: &App, body: impl Fn(bool) -> Value) -> Response {
    if app.lifecycle.phase() == Phase::Ready {
        Json(body(true)).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(body(false))).into_response()
    }
}

async fn metadata(
    State(app): State<Arc<App>>,
    target: Result<Path<Target>, PathRejection>,
) -> Result<Json<Value>, Problem> {
    app.check_target(target)?;
    let mut metadata = app.v2_metadata.clone();
    // Of the task `raw` only the graph knows.
    let outlines = app.lifecycle.model().map(|model| model.outlines());
    if let Some(outlines) = outlines.filter(|outlines| !outlines.is_empty()) {
        metadata["outputs"] = answer::outlined(outlines).into();
    }
    Ok(Json(metadata))
}

async fn infer_tensors(
    State(app): State<Arc<App>>,
    target: Result<Path<Target>, PathRejection>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    app.check_target(target)?;
    let model = app.lifecycle.model().ok_or_else(Problem::loading)?;
    let length = headers.get(JSON_LENGTH);
    let others = if length.is_some() {
        &MEDIA_TYPES[..]
    } else {
        &MEDIA_TYPES[..1]
    };
    let mut bytes = read_bytes(request, &app, others).await?;
    let data = match length {
        Some(length) => {
            let length = length.to_str().ok().and_then(|length| length.parse().ok());
            let length = length.filter(|length| *length <= bytes.len());
            bytes.split_off(length.ok_or_else(no_length)?)
        }
        None => Bytes::new(),
    };
    let body = object(bytes, &app).await?;
    let (instances, renderer): (_, V2Answer) =
        request::read(body, data, &model.manifest, &app.name).map_err(Problem::invalid)?;
    infer(&app, model, instances, renderer).await
}

fn no_length() -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "wrong-json-length",
        "Inference-Header-Content-Length must be the length of the JSON, within the body",
    )
}
