//! Refusals, retries and readiness.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serin::router::envoy::ResourceType;
use testkit::free_port;
use tokio::{io::AsyncReadExt, net::TcpListener};

use crate::{
    envoy_or_skip,
    harness::{
        Envoy, Plane, Traffic, Upstream, client, failures, key, model, predict_once, share, wait,
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_resource_keeps_the_last_good_one_and_holds_up_no_other() {
    let binary = envoy_or_skip!();
    let (xds, port, other) = (free_port(), free_port(), free_port());
    let plane = Plane::start(xds);
    let _router = Envoy::start(&binary, "router-1", xds);
    let (stable, canary) = (
        Upstream::start("aaaaaaaa").await,
        Upstream::start("bbbbbbbb").await,
    );
    plane
        .publish_acknowledged(&model("churn", port, &[(&stable, 100)]), "churn")
        .await;
    wait("the model answers", async || {
        predict_once(&client(), port).await.0 == 200
    })
    .await;

    // No Protocol Buffers duration is that long; and a port that is taken.
    let taken = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let mut bad = model("churn", port, &[(&canary, 100)]);
    bad.routes.get_mut(&key("churn")).unwrap().timeout = Duration::MAX;
    bad.routes.extend(
        model(
            "taken",
            taken.local_addr().unwrap().port(),
            &[(&stable, 100)],
        )
        .routes,
    );
    bad.routes
        .extend(model("fraud", other, &[(&canary, 100)]).routes);
    let traffic = Traffic::start(port, 4);
    plane.publish_acknowledged(&bad, "fraud").await;
    wait("both are refused", async || {
        plane.routers().rejected().len() == 2
    })
    .await;
    for rejection in plane.routers().rejected() {
        println!("{rejection:?}");
        let expected = if rejection.name == "ml/churn" {
            ResourceType::Route
        } else {
            ResourceType::Listener
        };
        assert_eq!(rejection.kind, expected);
    }
    traffic.more(500).await;
    let answers = traffic.stop().await;
    assert_eq!(
        (failures(&answers), share(&answers, "aaaaaaaa")),
        (0, 100.0),
        "{answers:?}"
    );
    assert_eq!(
        plane.routers().acknowledged(&key("churn")),
        Some(vec![("aaaaaaaa".to_owned(), 100)])
    );
    assert_eq!(
        predict_once(&client(), other).await,
        (200, "bbbbbbbb".to_owned())
    );

    // The next good one is taken over.
    plane
        .publish_acknowledged(&model("churn", port, &[(&canary, 100)]), "churn")
        .await;
    wait("it is routed", async || {
        predict_once(&client(), port).await.1 == "bbbbbbbb"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_no_pod_has_read_is_tried_elsewhere() {
    let binary = envoy_or_skip!();
    let (xds, port) = (free_port(), free_port());
    let plane = Plane::start(xds);
    let _router = Envoy::start(&binary, "router-1", xds);
    let pod = Upstream::start("aaaaaaaa").await;
    let mut with_a_dead_pod = model("churn", port, &[(&pod, 100)]);
    let backend = &mut with_a_dead_pod
        .routes
        .get_mut(&key("churn"))
        .unwrap()
        .backends[0];
    backend.endpoints.push(([127, 0, 0, 1], free_port()).into());
    plane.publish_acknowledged(&with_a_dead_pod, "churn").await;
    wait("the model answers", async || {
        predict_once(&client(), port).await.0 == 200
    })
    .await;

    let traffic = Traffic::start(port, 8);
    traffic.more(2000).await;
    let answers = traffic.stop().await;
    assert_eq!(failures(&answers), 0, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_a_pod_has_read_is_never_sent_again() {
    let binary = envoy_or_skip!();
    let (xds, port, broken_port) = (free_port(), free_port(), free_port());
    let plane = Plane::start(xds);
    let _router = Envoy::start(&binary, "router-1", xds);
    let pod = Upstream::start("aaaaaaaa").await;
    let (broken, read) = hanging_up_pod().await;
    let mut both = model("churn", port, &[(&pod, 100)]);
    both.routes
        .extend(model("broken", broken_port, &[(&pod, 100)]).routes);
    both.routes.get_mut(&key("broken")).unwrap().backends[0].endpoints = vec![broken];
    plane.publish_acknowledged(&both, "broken").await;
    plane.publish_acknowledged(&both, "churn").await;
    wait("the model answers", async || {
        predict_once(&client(), port).await.0 == 200
    })
    .await;

    // A 503 of the model's, also if the client asks for retries by Envoy's own headers.
    let before = pod.hits();
    let url = format!("http://127.0.0.1:{port}/fail");
    let request = client()
        .post(url)
        .header("x-envoy-retry-on", "5xx")
        .header("x-envoy-max-retries", "3");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(pod.hits() - before, 1);

    // A pod that reads the request and hangs up.
    assert_eq!(predict_once(&client(), broken_port).await.0, 503);
    assert_eq!(read.load(Ordering::Relaxed), 1);
}

/// A pod that closes each connection as soon as it has read from it; with the count of them.
async fn hanging_up_pod() -> (std::net::SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let read = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&read);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            if connection
                .read(&mut [0; 4096])
                .await
                .is_ok_and(|bytes| bytes > 0)
            {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    (address, read)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_is_ready_when_it_has_its_whole_configuration() {
    let binary = envoy_or_skip!();
    let (xds, port) = (free_port(), free_port());
    let plane = Plane::start(xds);
    let router = Envoy::start(&binary, "router-1", xds);
    wait("the router connects", async || {
        plane.routers().connected() == ["router-1"]
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!router.ready().await, "nothing was published");

    let pod = Upstream::start("aaaaaaaa").await;
    plane.publish(&model("churn", port, &[(&pod, 100)]));
    router.wait_ready().await;
    // From the first moment on.
    assert_eq!(
        predict_once(&client(), port).await,
        (200, "aaaaaaaa".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_are_acknowledged_by_every_router() {
    let binary = envoy_or_skip!();
    let (xds, port) = (free_port(), free_port());
    let plane = Plane::start(xds);
    let one = Envoy::start(&binary, "router-1", xds);
    let pod = Upstream::start("aaaaaaaa").await;
    let model = model("churn", port, &[(&pod, 100)]);
    plane.publish_acknowledged(&model, "churn").await;
    drop(one);
    wait("the router is missed", async || {
        plane.routers().connected().is_empty()
    })
    .await;
    assert_eq!(plane.routers().acknowledged(&key("churn")), None);
    let _two = Envoy::start(&binary, "router-2", xds);
    plane.publish_acknowledged(&model, "churn").await;
    assert_eq!(plane.routers().connected(), ["router-2"]);
}

/// What the preStop hook of a router pod relies on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_router_serves_and_sends_its_clients_elsewhere() {
    let binary = envoy_or_skip!();
    let (xds, port) = (free_port(), free_port());
    let plane = Plane::start(xds);
    let router = Envoy::start(&binary, "router-1", xds);
    let pod = Upstream::start("aaaaaaaa").await;
    plane
        .publish_acknowledged(&model("churn", port, &[(&pod, 100)]), "churn")
        .await;
    router.wait_ready().await;

    let url = format!("http://127.0.0.1:{}/healthcheck/fail", router.admin);
    assert_eq!(client().post(url).send().await.unwrap().status(), 200);
    assert!(!router.ready().await);
    let url = format!("http://127.0.0.1:{port}/predict");
    let answer = client().post(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["connection"], "close");
}
