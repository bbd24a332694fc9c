//! `/v1/models`: the one model that is served, as OpenAI's clients list it and as those of KServe's
//! V1 protocol ask for it. One body serves both: neither minds the other's keys.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::App;
use super::problem::Problem;
use crate::lifecycle::Phase;

/// The paths of every model.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(alive))
        .route("/v1/models", get(list))
        .route("/v1/models/{model}", get(one))
}

/// V1's liveness.
async fn alive() -> Json<Value> {
    Json(json!({"status": "alive"}))
}

async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({"object": "list", "data": [app.model()], "models": [app.name]}))
}

/// 503 until the model is ready, as KServe's server has it.
async fn one(
    State(app): State<Arc<App>>,
    model: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    if model.is_ok_and(|Path(model)| model == app.name) {
        let status = if app.lifecycle.phase() == Phase::Ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        Ok((status, Json(app.model())).into_response())
    } else {
        Err(Problem::unknown_model(&app.name))
    }
}

impl App {
    fn model(&self) -> Value {
        json!({
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "serin",
            "name": self.name,
            "ready": self.lifecycle.phase() == Phase::Ready,
            "model_version": self.version,
        })
    }

    /// That a request names the served model, or none, as OpenAI's paths have it.
    pub(super) fn check_model(&self, named: Option<&Value>) -> Result<(), Problem> {
        match named {
            Some(Value::String(name)) if *name != self.name => {
                Err(Problem::unknown_model(&self.name))
            }
            _ => Ok(()),
        }
    }
}
