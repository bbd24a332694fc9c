//! The hook with which a router pod ends.

use std::time::Duration;

use testkit::free_port;
use tokio::process::Command;

use crate::{
    envoy_or_skip,
    harness::{Envoy, Plane, TIMEOUT, Upstream, client, model, predict_once, wait},
};

const DRAIN: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/charts/serin/files/router-drain.sh"
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_router_serves_while_requests_still_come() {
    let binary = envoy_or_skip!();
    let (xds, port) = (free_port(), free_port());
    let plane = Plane::start(xds);
    let router = Envoy::start(&binary, "router-1", xds);
    let pod = Upstream::start("aaaaaaaa").await;
    let published = model("churn", port, &[(&pod, 100)]);
    plane.publish_acknowledged(&published, "churn").await;
    wait("the model answers", async || {
        predict_once(&client(), port).await.0 == 200
    })
    .await;
    let mut hook = Command::new("bash")
        .arg(DRAIN)
        .args([&router.admin.to_string(), "1", "60"])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    wait("it stops being ready", async || !router.ready().await).await;
    // One after the other, so that mostly none is in flight.
    for _ in 0..60 {
        assert_eq!(predict_once(&client(), port).await.0, 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ended = hook.try_wait().unwrap();
    assert!(ended.is_none(), "it ends while requests come");
    let ended = tokio::time::timeout(TIMEOUT, hook.wait()).await;
    assert!(ended.unwrap().unwrap().success());
}
