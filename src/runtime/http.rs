//! `/metrics`, `/livez`, `/readyz`, `/targets` and `/snapshots/{namespace}/{name}` of the operator,
//! and the paths of its routers.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::{
    controller::{metrics::Metrics, recordings::Recordings},
    k8s::{
        Stores, listen,
        targets::{self, Target},
    },
    router::{self, Registry},
    runtime::schema::Outdated,
};

/// What the endpoints show.
#[derive(Clone)]
pub struct Health {
    /// The operator's metrics.
    pub metrics: Arc<Metrics>,
    /// The caches, once they are complete. Before that, no router and no target is served.
    pub stores: Arc<OnceCell<Stores>>,
    /// The last decisions, for `serin-operator replay`.
    pub recordings: Arc<Recordings>,
    /// The routers, each with paths and targets of its own.
    pub routers: Registry,
    /// Why the cluster's CRD is older than this operator. `None` if it is not.
    pub outdated: Outdated,
}

/// Serves until `stop`. An error where it cannot listen on `address`.
pub async fn serve(
    address: SocketAddr,
    health: Health,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = listen(address).await.map_err(|error| error.source)?;
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route(targets::PATH, get(scrape_targets))
        .route("/snapshots/{namespace}/{name}", get(snapshots))
        .with_state(health.clone());
    let app = health
        .routers
        .all()
        .fold(app, |app, router| app.merge(router.http()));
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

/// While the cluster's CRD is older, a replica that stands by is not Ready, so that an upgrade of
/// the operator stops at it. The leader is Ready: routers need it.
async fn ready(State(health): State<Health>) -> Response {
    let outdated = health.outdated.lock().clone();
    if let Some(why) = outdated.filter(|_| !health.metrics.leads()) {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response();
    }
    if health.stores.initialized() {
        "ok\n".into_response()
    } else {
        not_yet()
    }
}

/// An empty list would take its targets away from Prometheus; an error leaves them as they are.
async fn scrape_targets(State(health): State<Health>) -> Response {
    let Some(stores) = health.stores.get() else {
        return not_yet();
    };
    let routers = health.routers.all();
    let routers = routers.flat_map(router::Router::scrape_targets);
    let pods = stores.pods.state();
    let serving = pods.iter().filter_map(|pod| Target::serving(pod));
    Json(routers.chain(serving).collect::<Vec<_>>()).into_response()
}

/// Only the leader decides, so only it has any.
async fn snapshots(
    State(health): State<Health>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    match health.recordings.of(&format!("{namespace}/{name}")) {
        Some(recordings) => ([(CONTENT_TYPE, "application/json")], recordings).into_response(),
        None => (
            StatusCode::NOT_FOUND,
            "no decision about this model was recorded by this process since it started\n",
        )
            .into_response(),
    }
}

fn not_yet() -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "the caches are not complete yet\n",
    )
        .into_response()
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let connections: Vec<_> = health
        .routers
        .all()
        .map(router::Router::connections)
        .collect();
    health.metrics.routers(
        connections.iter().map(|of| of.connected).sum(),
        connections.iter().map(|of| of.rejections).sum(),
    );
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], health.metrics.text())
}
