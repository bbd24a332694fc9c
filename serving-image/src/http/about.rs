//! Probes, metrics, version and contract of the process.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;

use super::App;
use super::problem::Problem;
use crate::lifecycle::Phase;
use crate::metrics;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .route("/version", get(version))
        .route("/openapi.json", get(openapi_document))
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, Problem> {
    match app.lifecycle.phase() {
        Phase::Ready => Ok("ok\n"),
        Phase::Loading => Err(Problem::loading()),
        Phase::Draining => Err(Problem::draining()),
    }
}

async fn scrape(State(app): State<Arc<App>>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
        app.metrics.encode(),
    )
}

async fn version(State(app): State<Arc<App>>) -> Json<Value> {
    Json(app.about.clone())
}

async fn openapi_document(State(app): State<Arc<App>>) -> Json<Value> {
    Json(app.openapi.clone())
}
