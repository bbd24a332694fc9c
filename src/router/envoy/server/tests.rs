#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use tonic::client::Grpc as Client;

use super::*;
use crate::router::envoy::{
    Backend, DEFAULT_TIMEOUT, ModelRoute, ResourceType, RouteKey,
    proto::{self, Node},
};

/// A router at the other end of a real gRPC conversation, without a socket.
struct Router {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Router {
    async fn connect(plane: &ControlPlane, id: &str, stop: &CancellationToken) -> Self {
        let service = DiscoveryService {
            plane: plane.clone(),
            stop: stop.clone(),
        };
        let mut client = Client::new(service);
        client.ready().await.unwrap();
        let (requests, stream) = mpsc::channel(8);
        let router = DeltaDiscoveryRequest {
            node: Some(Node {
                id: id.to_owned(),
                cluster: "serin-router".to_owned(),
                metadata: None,
            }),
            type_url: ResourceType::Listener.type_url().to_owned(),
            ..Default::default()
        };
        requests.send(router).await.unwrap();
        let codec: ProstCodec<DeltaDiscoveryRequest, DeltaDiscoveryResponse> =
            ProstCodec::default();
        let path = http::uri::PathAndQuery::from_static(DELTA_METHOD);
        let answer = client.streaming(Request::new(ReceiverStream::new(stream)), path, codec);
        Self {
            requests,
            responses: answer.await.unwrap().into_inner(),
        }
    }

    async fn send(&self, kind: ResourceType, names: &[&str], nonce: &str, error: Option<&str>) {
        let request = DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            response_nonce: nonce.to_owned(),
            error_detail: error.map(|message| proto::Status {
                code: 13,
                message: message.to_owned(),
            }),
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// Takes over the listener and, unless it is an `error`, the route of `ml/churn`.
    async fn take_churn(&mut self, error: Option<&str>) {
        let listener = self.responses.message().await.unwrap().unwrap();
        self.send(ResourceType::Listener, &[], &listener.nonce, None)
            .await;
        self.send(ResourceType::Route, &["ml/churn"], "", None)
            .await;
        let route = self.responses.message().await.unwrap().unwrap();
        self.send(ResourceType::Route, &[], &route.nonce, error)
            .await;
    }
}

fn churn() -> RouteKey {
    RouteKey::new("ml", "churn")
}

/// A model without versions: its route refers to no cluster.
fn empty_churn() -> RouterModel {
    let route = ModelRoute {
        port: 20_000,
        backends: Vec::<Backend>::new(),
        timeout: DEFAULT_TIMEOUT,
    };
    RouterModel {
        routes: BTreeMap::from([(churn(), route)]),
    }
}

async fn until(routers: &Routers, condition: impl Fn(&Routers) -> bool) {
    let mut changes = routers.changes();
    let reached = changes.wait_for(|_| condition(routers));
    tokio::time::timeout(Duration::from_secs(5), reached)
        .await
        .unwrap()
        .unwrap();
}

/// Whether every router has taken the route of [`empty_churn`].
fn have_taken_churn(routers: &Routers) -> bool {
    routers.acknowledged(&churn()) == Some(vec![])
}

#[tokio::test]
async fn weights_are_acknowledged_when_every_router_has_taken_them() {
    let (plane, stop) = (ControlPlane::new(), CancellationToken::new());
    let routers = plane.routers();
    let mut one = Router::connect(&plane, "router-1", &stop).await;
    let mut two = Router::connect(&plane, "router-2", &stop).await;
    plane.publish(&empty_churn());
    one.take_churn(None).await;
    let both_have = until(&routers, have_taken_churn);
    let early = tokio::time::timeout(Duration::from_millis(100), both_have).await;
    assert!(early.is_err());
    two.take_churn(None).await;
    until(&routers, have_taken_churn).await;
    assert_eq!(routers.connected(), ["router-1", "router-2"]);

    drop(two);
    until(&routers, |routers| routers.connected() == ["router-1"]).await;
    assert_eq!(routers.acknowledged(&churn()), Some(vec![]));
    drop(one);
    until(&routers, |routers| routers.connected().is_empty()).await;
    assert_eq!(routers.acknowledged(&churn()), None);
}

#[tokio::test]
async fn a_rejection_is_counted_and_named() {
    let (plane, stop) = (ControlPlane::new(), CancellationToken::new());
    let routers = plane.routers();
    plane.publish(&empty_churn());
    let mut router = Router::connect(&plane, "router-1", &stop).await;
    router.take_churn(Some("no such thing")).await;
    until(&routers, |routers| routers.rejections() == 1).await;
    let rejected = routers.rejected();
    assert_eq!(rejected[0].router, "router-1");
    assert_eq!(rejected[0].name, "ml/churn");
    assert_eq!(rejected[0].kind, ResourceType::Route);
    assert_eq!(rejected[0].message, "no such thing");
    assert_eq!(routers.acknowledged(&churn()), None);
}

#[tokio::test]
async fn a_router_that_comes_back_before_its_old_stream_ended_counts_once() {
    let (plane, stop) = (ControlPlane::new(), CancellationToken::new());
    let routers = plane.routers();
    plane.publish(&empty_churn());
    let mut old = Router::connect(&plane, "router-1", &stop).await;
    old.take_churn(None).await;
    until(&routers, have_taken_churn).await;
    let mut new = Router::connect(&plane, "router-1", &stop).await;
    until(&routers, |routers| routers.acknowledged(&churn()).is_none()).await;
    new.take_churn(None).await;
    until(&routers, have_taken_churn).await;
    drop(old);
    assert_eq!(routers.connected(), ["router-1"]);
}

#[tokio::test]
async fn stopping_ends_the_streams() {
    let (plane, stop) = (ControlPlane::new(), CancellationToken::new());
    let mut router = Router::connect(&plane, "router-1", &stop).await;
    stop.cancel();
    let end = router.responses.message().await.unwrap_err();
    assert_eq!(end.code(), tonic::Code::Unavailable);
    until(&plane.routers(), |routers| routers.connected().is_empty()).await;
}
