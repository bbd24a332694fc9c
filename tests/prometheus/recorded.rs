//! Every evidence source, with series in the shape that its project exports, through a real
//! Prometheus.

use std::time::Duration;

use serin::{
    api::{CustomEvidence, LatencyUnit},
    evidence::Cursors,
    observe::metrics::{Objective, Question, Source, read, read_classes},
};

use crate::{
    expect,
    harness::{Prometheus, Recorded, now, question},
    look,
};

/// One source: what is exported from where, and what has to be counted between its first section
/// and its second.
struct Case {
    source: Source,
    /// Files, and the target labels of their exporters.
    exporters: &'static [(&'static str, &'static str)],
    honor_labels: bool,
    /// Requests and bad ones, of the canary and of stable.
    errors: ((u64, u64), (u64, u64)),
    /// The same at a latency of at most 300 ms.
    slow: ((u64, u64), (u64, u64)),
    /// The edge that stands for these 300 ms: ms.
    edge: u64,
    /// Requests and bad ones after all processes restarted.
    restarted: ((u64, u64), (u64, u64)),
}

fn asked(source: &Source, objective: Objective) -> Question {
    Question {
        source: source.clone(),
        ..question(objective)
    }
}

async fn counts_equal_what_was_recorded(case: Case) {
    let mut exporters = Vec::new();
    for (file, labels) in case.exporters {
        exporters.push(Recorded::start(file, labels, case.honor_labels).await);
    }
    let jobs: Vec<_> = exporters.iter().map(Recorded::job).collect();
    let Some(prometheus) = Prometheus::start_with(&jobs).await else {
        return;
    };
    let turn_to = async |section: &str| {
        for exporter in &exporters {
            exporter.turn_to(section);
        }
        for exporter in &exporters {
            exporter.scraped_again().await;
        }
    };
    turn_to("before").await;
    let mut of_errors = Cursors::starting_at(now().as_millisecond());
    let mut of_slow = of_errors.clone();
    turn_to("after").await;

    let errors = asked(&case.source, Objective::ErrorRate);
    let slow = asked(
        &case.source,
        Objective::Latency {
            max: Duration::from_millis(300),
        },
    );
    let expected = look(case.errors.0, case.errors.1);
    expect(&prometheus, &errors, &mut of_errors, expected).await;
    let expected = look(case.slow.0, case.slow.1);
    let window = expect(&prometheus, &slow, &mut of_slow, expected).await;
    let edge = window.threshold.unwrap().edge;
    assert_eq!(edge, Duration::from_millis(case.edge));

    turn_to("restarted").await;
    let expected = look(case.restarted.0, case.restarted.1);
    expect(&prometheus, &errors, &mut of_errors, expected).await;
}

/// What most of the files say.
const USUAL: ((u64, u64), (u64, u64)) = ((10, 2), (90, 0));
const USUALLY_RESTARTED: ((u64, u64), (u64, u64)) = ((1, 1), (20, 0));

#[tokio::test(flavor = "multi_thread")]
async fn serving_pods() {
    counts_equal_what_was_recorded(Case {
        source: Source::Serving,
        exporters: &[
            (
                "serving-stable.prom",
                "namespace: ml, pod: churn-55555555-6d9f7c5b8-aaaaa",
            ),
            (
                "serving-canary.prom",
                "namespace: ml, pod: churn-cccccccc-7bbf4d9c6-bbbbb",
            ),
        ],
        honor_labels: false,
        errors: ((11, 3), (89, 1)),
        slow: ((11, 3), (89, 9)),
        edge: 250,
        restarted: ((4, 1), (20, 0)),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn istio_sidecars() {
    counts_equal_what_was_recorded(Case {
        source: Source::Istio { waypoint: false },
        exporters: &[("istio.prom", "namespace: shop, pod: shop-6d9f7c5b8-aaaaa")],
        honor_labels: false,
        errors: USUAL,
        slow: ((10, 3), (90, 1)),
        edge: 250,
        restarted: USUALLY_RESTARTED,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn linkerd() {
    counts_equal_what_was_recorded(Case {
        source: Source::Linkerd,
        exporters: &[
            (
                "linkerd-stable.prom",
                "namespace: ml, pod: churn-55555555-6d9f7c5b8-aaaaa, deployment: churn-55555555",
            ),
            (
                "linkerd-canary.prom",
                "namespace: ml, pod: churn-cccccccc-7bbf4d9c6-bbbbb, deployment: churn-cccccccc",
            ),
        ],
        honor_labels: false,
        errors: ((10, 3), (90, 0)),
        slow: ((10, 3), (90, 0)),
        edge: 300,
        restarted: USUALLY_RESTARTED,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ingress_nginx() {
    counts_equal_what_was_recorded(Case {
        source: Source::IngressNginx,
        exporters: &[(
            "ingress-nginx.prom",
            "namespace: ingress-nginx, pod: ingress-nginx-controller-abc",
        )],
        honor_labels: true,
        errors: ((10, 2), (90, 1)),
        slow: ((10, 3), (90, 1)),
        edge: 250,
        restarted: USUALLY_RESTARTED,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik() {
    counts_equal_what_was_recorded(Case {
        source: Source::Traefik,
        exporters: &[(
            "traefik.prom",
            "namespace: traefik, pod: traefik-6d9f7c5b8-aaaaa",
        )],
        honor_labels: false,
        errors: USUAL,
        slow: ((10, 3), (90, 1)),
        edge: 300,
        restarted: USUALLY_RESTARTED,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vllm() {
    counts_equal_what_was_recorded(Case {
        source: Source::Vllm,
        exporters: &[
            (
                "vllm-stable.prom",
                "namespace: ml, pod: churn-55555555-6d9f7c5b8-aaaaa",
            ),
            (
                "vllm-canary.prom",
                "namespace: ml, pod: churn-cccccccc-7bbf4d9c6-bbbbb",
            ),
        ],
        honor_labels: false,
        errors: USUAL,
        slow: ((10, 3), (90, 1)),
        edge: 250,
        restarted: USUALLY_RESTARTED,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn triton() {
    counts_equal_what_was_recorded(Case {
        source: Source::Triton,
        exporters: &[
            (
                "triton-stable.prom",
                "namespace: ml, pod: churn-55555555-6d9f7c5b8-aaaaa",
            ),
            (
                "triton-canary.prom",
                "namespace: ml, pod: churn-cccccccc-7bbf4d9c6-bbbbb",
            ),
        ],
        honor_labels: false,
        errors: USUAL,
        slow: ((10, 5), (90, 10)),
        edge: 100,
        restarted: USUALLY_RESTARTED,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_of_ones_own() {
    let custom: CustomEvidence = serde_json::from_value(serde_json::json!({
        "requests": {"metric": "predict_answers_total", "label": "outcome", "bad": ["failed*"],
            "ignored": ["shed"]},
        "latency": {"metric": "predict_duration_us", "unit": "Microseconds"},
        "version": {"label": "deployment_name", "value": "{{name}}-{{revision}}"},
        "labels": {"route": "/predict"},
    }))
    .unwrap();
    assert_eq!(
        custom.latency.as_ref().unwrap().unit,
        LatencyUnit::Microseconds
    );
    counts_equal_what_was_recorded(Case {
        source: Source::Custom(custom),
        exporters: &[("custom.prom", "namespace: ml, pod: gateway-6d9f7c5b8-aaaaa")],
        honor_labels: false,
        errors: USUAL,
        slow: ((10, 3), (90, 1)),
        edge: 250,
        restarted: ((1, 0), (20, 0)),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn istio_waypoints_and_the_metrics_of_another_namespace() {
    let exporter = Recorded::start("istio.prom", "namespace: ml, pod: waypoint-abc", false).await;
    let foreign = Recorded::start("custom.prom", "namespace: other, pod: gateway-abc", false).await;
    let Some(prometheus) = Prometheus::start_with(&[exporter.job(), foreign.job()]).await else {
        return;
    };
    exporter.scraped_again().await;
    foreign.scraped_again().await;
    let start = Cursors::starting_at(now().as_millisecond());
    exporter.turn_to("after");
    foreign.turn_to("after");
    let waypoint = asked(&Source::Istio { waypoint: true }, Objective::ErrorRate);
    let expected = look((4, 4), (40, 0));
    expect(&prometheus, &waypoint, &mut start.clone(), expected).await;

    // The very series that are asked for, of a gateway in another namespace.
    let custom = serde_json::from_value(serde_json::json!({
        "requests": {"metric": "predict_answers_total", "label": "outcome"},
        "version": {"label": "deployment_name", "value": "{{name}}-{{revision}}"},
    }))
    .unwrap();
    let custom = asked(&Source::Custom(custom), Objective::ErrorRate);
    let blind = read(&prometheus.client(), &custom, &start, None, now()).await;
    let blind = blind.unwrap_err().to_string();
    assert!(blind.contains("no scraped target"), "{blind}");
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_by_class() {
    let stable = Recorded::start(
        "serving-stable.prom",
        "namespace: ml, pod: churn-55555555-6d9f7c5b8-aaaaa",
        false,
    )
    .await;
    let canary = Recorded::start(
        "serving-canary.prom",
        "namespace: ml, pod: churn-cccccccc-7bbf4d9c6-bbbbb",
        false,
    )
    .await;
    let Some(prometheus) = Prometheus::start_with(&[stable.job(), canary.job()]).await else {
        return;
    };
    stable.scraped_again().await;
    canary.scraped_again().await;
    let versions = question(Objective::ErrorRate).versions;
    let start = Cursors::starting_at(now().as_millisecond());
    for exporter in [&stable, &canary] {
        exporter.turn_to("after");
        exporter.scraped_again().await;
    }
    let second = Duration::from_secs(1);
    let classes = read_classes(&prometheus.client(), &versions, second, &start, now())
        .await
        .unwrap();
    // The canary's classes are born late: their first predictions count.
    let counts = |stay, leave| [("stay".to_owned(), stay), ("leave".to_owned(), leave)].into();
    assert_eq!(classes.canary, counts(5, 3));
    assert_eq!(classes.stable, counts(70, 18));
    let again = read_classes(
        &prometheus.client(),
        &versions,
        second,
        &classes.cursors,
        now(),
    )
    .await;
    assert!(again.unwrap().canary.is_empty());
}
