//! The configuration of a real Envoy, and the metrics that it exports.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use serin::router::envoy::{Backend, ModelRoute, RouterModel};
use testkit::free_port;

use crate::{
    envoy_or_skip,
    harness::{Envoy, Plane, Upstream, client, key, model, predict_once, wait},
};

/// Replaces what differs from run to run.
fn redact(value: &mut Value, port: u16) {
    match value {
        Value::Object(fields) => {
            fields.remove("last_updated");
            fields.remove("version_info");
            fields.values_mut().for_each(|field| redact(field, port));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, port)),
        Value::Number(number) if number.as_u64() == Some(port.into()) => *value = json!("PORT"),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_understands_every_field() {
    let binary = envoy_or_skip!();
    let (xds, port) = (free_port(), free_port());
    let plane = Plane::start(xds);
    let router = Envoy::start(&binary, "router-1", xds);
    let backend = |revision: &str, weight, endpoint: &str| Backend {
        revision: revision.to_owned(),
        weight,
        endpoints: vec![endpoint.parse().unwrap()],
    };
    let route = ModelRoute {
        port,
        backends: vec![
            backend("aaaaaaaa", 90, "192.0.2.1:8080"),
            backend("bbbbbbbb", 10, "[2001:db8::1]:8080"),
            backend("cccccccc", 0, "192.0.2.3:8080"),
        ],
        timeout: Duration::from_secs(7),
    };
    let model = RouterModel {
        routes: BTreeMap::from([(key("churn"), route)]),
    };
    plane.publish_acknowledged(&model, "churn").await;
    router.wait_ready().await;

    let dump = router.config().await;
    let mut dynamic = serde_json::Map::new();
    for part in dump["configs"].as_array().unwrap() {
        for (name, value) in part.as_object().unwrap() {
            if name.starts_with("dynamic_") {
                dynamic.insert(name.clone(), value.clone());
            }
        }
    }
    let mut dynamic = Value::Object(dynamic);
    sort_by_name(&mut dynamic);
    redact(&mut dynamic, port);
    insta::assert_snapshot!(serde_json::to_string_pretty(&dynamic).unwrap());
}

/// Envoy dumps clusters and endpoints in no order.
fn sort_by_name(dynamic: &mut Value) {
    for list in dynamic.as_object_mut().unwrap().values_mut() {
        let list = list.as_array_mut().unwrap();
        list.sort_by_key(ToString::to_string);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_per_version_with_edges_at_common_objectives() {
    let binary = envoy_or_skip!();
    let (xds, port) = (free_port(), free_port());
    let plane = Plane::start(xds);
    let router = Envoy::start(&binary, "router-1", xds);
    let pod = Upstream::start("aaaaaaaa").await;
    plane
        .publish_acknowledged(&model("churn", port, &[(&pod, 100)]), "churn")
        .await;
    wait("the model answers", async || {
        predict_once(&client(), port).await.0 == 200
    })
    .await;

    let version = r#"envoy_cluster_name="ml/churn/aaaaaaaa""#;
    let mut metrics = String::new();
    let counted = format!("envoy_cluster_upstream_rq_time_count{{{version}}} 1\n");
    wait("the latency is shown", async || {
        metrics = router.metrics().await;
        metrics.contains(&counted)
    })
    .await;
    for edge in [
        "0.5", "1", "2.5", "5", "10", "25", "50", "75", "100", "150", "200", "250", "300", "400",
        "500", "750", "1000", "1500", "2000", "2500", "5000", "10000", "+Inf",
    ] {
        let bucket = format!("envoy_cluster_upstream_rq_time_bucket{{{version},le=\"{edge}\"}}");
        assert!(metrics.contains(&bucket), "{bucket}");
    }
    let success =
        format!("envoy_cluster_upstream_rq_xx{{envoy_response_code_class=\"2\",{version}}}");
    assert!(metrics.contains(&success), "{success}");

    // Latencies come to be seen each second, not in Envoy's usual 5: of three such times, the
    // shortest leaves no doubt.
    let count = format!("envoy_cluster_upstream_rq_time_count{{{version}}} ");
    let mut seen = vec![("1".to_owned(), Instant::now())];
    wait("latencies are shown three times", async || {
        predict_once(&client(), port).await;
        let metrics = router.metrics().await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(&count));
        let now = line.unwrap();
        if seen.last().is_none_or(|(last, _)| last != now) {
            seen.push((now.to_owned(), Instant::now()));
        }
        seen.len() > 4
    })
    .await;
    let gaps = seen[1..].windows(2).map(|pair| pair[1].1 - pair[0].1);
    let shortest = gaps.min().unwrap();
    assert!(shortest < Duration::from_secs(3), "{shortest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stats_port_shows_two_pages_and_nothing_that_changes() {
    let binary = envoy_or_skip!();
    let xds = free_port();
    let plane = Plane::start(xds);
    let router = Envoy::start(&binary, "router-1", xds);
    plane.publish(&RouterModel::default());
    // No model at all is a configuration too.
    router.wait_ready().await;
    for (method, path, status) in [
        ("GET", "/ready", 200),
        ("GET", "/stats/prometheus", 200),
        ("POST", "/ready", 404),
        ("GET", "/config_dump", 404),
        ("POST", "/quitquitquit", 404),
        ("POST", "/healthcheck/fail", 404),
        ("GET", "/stats/prometheus/../../config_dump", 404),
    ] {
        let url = format!("http://127.0.0.1:{}{path}", router.stats);
        let answer = client()
            .request(method.parse().unwrap(), url)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), status, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_are_the_models_own() {
    let binary = envoy_or_skip!();
    let (xds, port) = (free_port(), free_port());
    let plane = Plane::start(xds);
    let _router = Envoy::start(&binary, "router-1", xds);
    let pod = Upstream::start("aaaaaaaa").await;
    plane
        .publish_acknowledged(&model("churn", port, &[(&pod, 100)]), "churn")
        .await;
    wait("the model answers", async || {
        predict_once(&client(), port).await.0 == 200
    })
    .await;
    let url = format!("http://127.0.0.1:{port}/predict");
    let answer = client().post(url).send().await.unwrap();
    let mut headers: Vec<_> = answer
        .headers()
        .keys()
        .map(http::HeaderName::as_str)
        .collect();
    headers.sort_unstable();
    assert_eq!(
        headers,
        ["content-length", "content-type", "date", "server"]
    );
    assert_eq!(answer.headers()["server"], "model/aaaaaaaa");
}
