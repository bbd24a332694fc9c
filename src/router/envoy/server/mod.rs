//! The gRPC service by which routers get their configuration: aggregated delta discovery (ADS).

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, StreamingService},
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;

use super::{
    model::RouterModel,
    proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    resources::Resources,
    routers::{Connection, Routers},
    session::{Event, Session},
};

/// A connection without data for this long gets an HTTP/2 ping …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// … and is closed without an answer within this time.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a router is sent again what it rejected.
const RETRY_REJECTED: Duration = Duration::from_secs(30);
/// A router that reconnects names all that it has: about 70 bytes a resource, four resources a
/// model.
const MAX_REQUEST_BYTES: usize = 64 << 20;
/// A session has at most one response of each of four types in flight, so sending never waits.
const RESPONSES_IN_FLIGHT: usize = 8;

/// The control plane cannot serve.
#[derive(Debug, thiserror::Error)]
#[error("the router's control plane failed: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// The control plane of the bundled routers. Clones are the same one.
///
/// Routers get nothing before the first [`ControlPlane::publish`], so that an operator that has
/// just started never removes a configuration that it has not read yet.
#[derive(Clone, Debug, Default)]
pub struct ControlPlane {
    resources: Arc<watch::Sender<Option<Arc<Resources>>>>,
    routers: Routers,
}

impl ControlPlane {
    /// A control plane that has published nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives every router, now or when it connects, exactly the routes of `model`. They must be
    /// those of every model of the cluster: the routers drop all others.
    pub fn publish(&self, model: &RouterModel) {
        self.resources.send_modify(|current| {
            *current = Some(Arc::new(Resources::compile(model, current.as_deref())));
        });
    }

    /// What the routers have acknowledged.
    pub fn routers(&self) -> Routers {
        self.routers.clone()
    }

    /// Serves routers on `listener` until `stop` is cancelled. Then every stream ends, and routers
    /// keep what they have.
    ///
    /// # Errors
    /// The gRPC server failed.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Result<(), ServeError> {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = DiscoveryService {
            plane: self,
            stop: stop.clone(),
        };
        Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await?;
        Ok(())
    }

    /// Serves one router until it disconnects or `stop` is cancelled.
    async fn converse(
        self,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
        stop: CancellationToken,
    ) {
        let mut session = Session::default();
        let mut router: Option<Connection> = None;
        let mut published = self.resources.subscribe();
        published.mark_changed();
        let mut retry = tokio::time::interval(RETRY_REJECTED);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    let farewell = Status::unavailable("the operator is stopping");
                    // The router may have disconnected meanwhile.
                    let _ = responses.send(Err(farewell)).await;
                    return;
                }
                changed = published.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if let Some(resources) = published.borrow_and_update().clone() {
                        session.set_resources(resources);
                    }
                }
                request = requests.message() => {
                    let request = match request {
                        Ok(Some(request)) => request,
                        Ok(None) => return,
                        Err(error) => {
                            let id = router.as_ref().map(Connection::id);
                            tracing::info!(router = id, %error, "the stream of a router broke off");
                            return;
                        }
                    };
                    if let (None, Some(node)) = (&router, &request.node) {
                        tracing::info!(router = node.id, "a router connected");
                        router = Some(self.routers.connect(&node.id));
                    }
                    session.handle(&request);
                }
                _ = retry.tick() => session.retry_rejected(),
            }
            let events = session.take_events();
            if let Some(router) = &router {
                report(router, &events);
                router.record(events);
            }
            while let Some(response) = session.next_response() {
                if responses.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn report(router: &Connection, events: &[Event]) {
    for event in events {
        match event {
            Event::Rejected {
                kind,
                names,
                message,
            } => tracing::error!(
                router = router.id(),
                ?kind,
                ?names,
                message,
                "a router rejected its configuration and keeps the last good one"
            ),
            Event::Recovered { kind, name } => {
                tracing::info!(
                    router = router.id(),
                    ?kind,
                    name,
                    "a router accepted what it had rejected"
                );
            }
            Event::RouteTaken(route) => tracing::debug!(
                router = router.id(),
                route = route.name,
                weights = ?route.weights,
                "a router applied new weights"
            ),
            Event::RouteLeft(_) => {}
        }
    }
}

/// `envoy.service.discovery.v3.AggregatedDiscoveryService`, of which routers use one method.
#[derive(Clone, Debug)]
struct DiscoveryService {
    plane: ControlPlane,
    stop: CancellationToken,
}

const DELTA_METHOD: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

impl NamedService for DiscoveryService {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<http::Request<Body>> for DiscoveryService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != DELTA_METHOD {
            let status = Status::unimplemented("only DeltaAggregatedResources is served");
            return Box::pin(ready(Ok(status.into_http())));
        }
        let service = self.clone();
        Box::pin(async move {
            let mut grpc =
                Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_REQUEST_BYTES);
            Ok(grpc.streaming(service, request).await)
        })
    }
}

impl StreamingService<DeltaDiscoveryRequest> for DiscoveryService {
    type Response = DeltaDiscoveryResponse;
    type ResponseStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let (responses, stream) = mpsc::channel(RESPONSES_IN_FLIGHT);
        let conversation =
            self.plane
                .clone()
                .converse(request.into_inner(), responses, self.stop.clone());
        tokio::spawn(conversation);
        ready(Ok(Response::new(ReceiverStream::new(stream))))
    }
}

#[cfg(test)]
mod tests;
