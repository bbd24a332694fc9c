//! `/metrics`, `/livez`, `/readyz`, `/targets`, `/refusals` and `/snapshots/{namespace}/{name}` of the operator.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::OnceCell};
use tokio_util::sync::CancellationToken;

use crate::{
    controller::{metrics::Metrics, recordings::Recordings},
    k8s::Stores,
    router::envoy::{Refusal, Routers, refusals},
    runtime::{
        schema::Outdated,
        targets::{self, Target},
    },
};

/// What the endpoints show.
#[derive(Clone)]
pub struct Health {
    /// The operator's metrics.
    pub metrics: Arc<Metrics>,
    /// The caches, once they are complete: only then are routers served, and targets told.
    pub stores: Arc<OnceCell<Stores>>,
    /// The last decisions, to be replayed.
    pub recordings: Arc<Recordings>,
    /// The routers that are connected to this process.
    pub routers: Routers,
    /// Why the cluster's CRD is older than this operator, where it is.
    pub outdated: Outdated,
}

/// Listens on an address. `[::]` is every address of both families; of IPv4 alone, where the kernel has no IPv6 or no
/// socket that takes both.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let takes_both = || {
        let only = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only");
        only.is_ok_and(|only| only.trim() == "0")
    };
    if address.ip() == Ipv6Addr::UNSPECIFIED && !takes_both() {
        return TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await;
    }
    TcpListener::bind(address).await
}

/// Serves until `stop`.
pub async fn serve(
    address: SocketAddr,
    health: Health,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = listen(address).await?;
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route(targets::PATH, get(scrape_targets))
        .route("/snapshots/{namespace}/{name}", get(snapshots))
        .route(refusals::PATH, get(refused))
        .with_state(health);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

/// Behind a CRD that is older, a replica that stands by is not Ready, so that an upgrade of the operator stops at it. The one
/// that leads is: routers need it.
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
    let routers = stores.routers.state();
    let routers = routers.iter().flat_map(|slice| {
        slice
            .endpoints
            .iter()
            .flatten()
            .map(move |endpoint| (slice, endpoint))
    });
    let routers = routers.filter_map(|(slice, endpoint)| {
        let pod = endpoint.target_ref.as_ref()?;
        Some(Target::router(
            slice.metadata.namespace.as_deref()?,
            pod.name.as_deref()?,
            endpoint.addresses.first()?,
        ))
    });
    let pods = stores.pods.state();
    let serving = pods.iter().filter_map(|pod| Target::serving(pod));
    Json(routers.chain(serving).collect::<Vec<_>>()).into_response()
}

/// Only the replica that leads decides, so only it has any.
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

/// What the routers of this process refuse; another one adds it to what its own do.
async fn refused(State(health): State<Health>) -> Json<Vec<Refusal>> {
    Json(health.routers.refused())
}

fn not_yet() -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "the caches are not complete yet\n",
    )
        .into_response()
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], health.metrics.text())
}
