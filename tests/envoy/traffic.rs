//! What clients see: shares, and no failure during any change.

use std::time::{Duration, Instant};
use testkit::free_port;

use crate::{
    envoy_or_skip,
    harness::{
        Envoy, Plane, Traffic, Upstream, client, failures, key, model, predict_once, share, wait,
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_follow_weights_without_a_failure() {
    let binary = envoy_or_skip!();
    let (xds, port) = (free_port(), free_port());
    let plane = Plane::start(xds);
    let router = Envoy::start(&binary, "router-1", xds);
    let (stable, canary) = (
        Upstream::start("aaaaaaaa").await,
        Upstream::start("bbbbbbbb").await,
    );
    let weights = |canary_weight| {
        model(
            "churn",
            port,
            &[(&stable, 100 - canary_weight), (&canary, canary_weight)],
        )
    };
    plane.publish_acknowledged(&weights(0), "churn").await;
    router.wait_ready().await;

    // One standard deviation of 10,000 requests is 0.5 points at 50 %.
    for weight in [10, 50, 100, 0] {
        plane.publish_acknowledged(&weights(weight), "churn").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let traffic = Traffic::start(port, 8);
        traffic.more(10_000).await;
        let answers = traffic.stop().await;
        let share = share(&answers, "bbbbbbbb");
        println!(
            "weight {weight} %: {share:.2} % of {} requests",
            answers.values().sum::<u64>()
        );
        assert_eq!(failures(&answers), 0, "{answers:?}");
        assert!(
            (share - f64::from(weight)).abs() <= 2.0,
            "{share} instead of {weight}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_change_under_traffic_without_a_failure() {
    let binary = envoy_or_skip!();
    let (xds, port) = (free_port(), free_port());
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

    let traffic = Traffic::start(port, 8);
    let mut changes = 0;
    while changes < 100 {
        for weight in [10, 25, 50, 100, 0] {
            let model = model("churn", port, &[(&stable, 100 - weight), (&canary, weight)]);
            plane.publish_acknowledged(&model, "churn").await;
            traffic.more(20).await;
            changes += 1;
        }
        // And the canary's cluster goes away and comes again.
        plane
            .publish_acknowledged(&model("churn", port, &[(&stable, 100)]), "churn")
            .await;
        traffic.more(20).await;
    }
    let answers = traffic.stop().await;
    println!("{changes} changes of weight: {answers:?}");
    assert_eq!(failures(&answers), 0, "{answers:?}");
    assert!(answers.len() == 2, "both versions answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_replaced_under_traffic_without_a_failure() {
    let binary = envoy_or_skip!();
    let (xds, port) = (free_port(), free_port());
    let plane = Plane::start(xds);
    let _router = Envoy::start(&binary, "router-1", xds);
    // Slower than the swap, so that requests are always under way on the pod that goes.
    let latency = Duration::from_millis(30);
    let mut pod = Upstream::start_slow("aaaaaaaa", latency).await;
    plane
        .publish_acknowledged(&model("churn", port, &[(&pod, 100)]), "churn")
        .await;
    wait("the model answers", async || {
        predict_once(&client(), port).await.0 == 200
    })
    .await;

    let traffic = Traffic::start(port, 16);
    for swap in 0..20 {
        // Every other time the version changes too, and the old one's cluster goes at once.
        let revision = format!("{:08x}", swap / 2);
        let next = Upstream::start_slow(&revision, latency).await;
        plane
            .publish_acknowledged(&model("churn", port, &[(&next, 100)]), "churn")
            .await;
        let served = next.hits();
        wait("the new pod serves", async || next.hits() > served + 16).await;
        std::mem::replace(&mut pod, next).terminate().await;
    }
    let answers = traffic.stop().await;
    println!("20 pods replaced: {answers:?}");
    assert_eq!(failures(&answers), 0, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_dies_and_comes_back_without_a_failure() {
    let binary = envoy_or_skip!();
    let (xds, port) = (free_port(), free_port());
    let plane = Plane::start(xds);
    let _router = Envoy::start(&binary, "router-1", xds);
    let (stable, canary) = (
        Upstream::start("aaaaaaaa").await,
        Upstream::start("bbbbbbbb").await,
    );
    let quarter = model("churn", port, &[(&stable, 75), (&canary, 25)]);
    plane.publish_acknowledged(&quarter, "churn").await;
    wait("the model answers", async || {
        predict_once(&client(), port).await.0 == 200
    })
    .await;

    let traffic = Traffic::start(port, 8);
    traffic.more(1000).await;
    drop(plane);
    traffic.more(1000).await;

    // A fresh process that has not read the cluster yet takes nothing away.
    let plane = Plane::start(xds);
    wait("the router reconnects", async || {
        !plane.routers().connected().is_empty()
    })
    .await;
    traffic.more(1000).await;
    assert_eq!(plane.routers().acknowledged(&key("churn")), None);

    // It recognises the router's configuration, and continues from it.
    plane.publish_acknowledged(&quarter, "churn").await;
    traffic.more(1000).await;
    plane
        .publish_acknowledged(&model("churn", port, &[(&canary, 100)]), "churn")
        .await;
    let answers = traffic.stop().await;
    println!("control plane killed and started again: {answers:?}");
    assert_eq!(failures(&answers), 0, "{answers:?}");
    assert_eq!(
        predict_once(&client(), port).await,
        (200, "bbbbbbbb".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_weight_reaches_clients_within_milliseconds() {
    let binary = envoy_or_skip!();
    let (xds, port) = (free_port(), free_port());
    let plane = Plane::start(xds);
    let _router = Envoy::start(&binary, "router-1", xds);
    let (stable, canary) = (
        Upstream::start("aaaaaaaa").await,
        Upstream::start("bbbbbbbb").await,
    );
    let whole = |canary_weight| {
        model(
            "churn",
            port,
            &[(&stable, 100 - canary_weight), (&canary, canary_weight)],
        )
    };
    plane.publish_acknowledged(&whole(0), "churn").await;
    let client = client();
    wait("the model answers", async || {
        predict_once(&client, port).await.0 == 200
    })
    .await;

    let mut routed = Vec::new();
    let mut acknowledged = Vec::new();
    for round in 0..50 {
        let (weight, revision) = if round % 2 == 0 {
            (100, "bbbbbbbb")
        } else {
            (0, "aaaaaaaa")
        };
        let start = Instant::now();
        plane.publish(&whole(weight));
        while predict_once(&client, port).await != (200, revision.to_owned()) {}
        routed.push(start.elapsed());
        plane.publish_acknowledged(&whole(weight), "churn").await;
        acknowledged.push(start.elapsed());
    }
    for (what, times) in [("routed", &mut routed), ("acknowledged", &mut acknowledged)] {
        times.sort();
        println!("{what} after: median {:?}, max {:?}", times[25], times[49]);
    }
    assert!(
        routed[25] < Duration::from_millis(50),
        "median {:?}",
        routed[25]
    );
}
