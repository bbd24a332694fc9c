//! What single answers mean.

use super::*;
use crate::evidence::{Observation, Side, Tally};

const ROUTER: &str = "serin-router-6d9f7c5b8-x7k2p";
/// The scrapes of a target that was up all the time.
const UP: &[(f64, &str)] = &[(0.0, "1"), (15.0, "1"), (30.0, "1"), (45.0, "1")];

fn up(samples: &[(f64, &str)]) -> Value {
    up_of("10.0.0.1:9902", samples)
}

fn up_of(instance: &str, samples: &[(f64, &str)]) -> Value {
    let labels = json!({"__name__": "up", "job": "router", "instance": instance,
        "namespace": "serin-system", "pod": ROUTER});
    series(&labels, samples)
}

fn rq_xx(revision: &str, class: &str, samples: &[(f64, &str)]) -> Value {
    let labels = json!({"__name__": "envoy_cluster_upstream_rq_xx", "job": "router",
        "instance": "10.0.0.1:9902", "namespace": "serin-system", "pod": ROUTER,
        "envoy_cluster_name": format!("ml/churn/{revision}"), "envoy_response_code_class": class});
    series(&labels, samples)
}

fn canary(class: &str, samples: &[(f64, &str)]) -> Value {
    rq_xx("cccccccc", class, samples)
}

fn stable(class: &str, samples: &[(f64, &str)]) -> Value {
    rq_xx("55555555", class, samples)
}

/// Scrapes of a counter that stood at `from` and rose to `to` before the last one.
fn rise<'a>(from: &'a str, to: &'a str) -> [(f64, &'a str); 4] {
    [(0.0, from), (15.0, from), (30.0, from), (45.0, to)]
}

/// Reads the answer 50 s into a rollout that began at `since`.
fn read_since(since: f64, series: &[Value]) -> Result<Window, BlindReason> {
    let question = question(envoy(), Objective::ErrorRate);
    window(
        &question,
        series,
        None,
        &Cursors::starting_at(ms(since)),
        at(50.0),
    )
}

fn look(series: &[Value]) -> Observation {
    read_since(-1.0, series).unwrap().look
}

fn tally(requests: u64, bad: u64) -> Tally {
    Tally { requests, bad }
}

#[test]
fn increases_are_summed_per_version() {
    let seen = look(&[
        up(UP),
        canary(
            "2",
            &[(0.0, "100"), (15.0, "104"), (30.0, "110"), (45.0, "110")],
        ),
        canary("5", &[(0.0, "7"), (15.0, "7"), (30.0, "8"), (45.0, "10")]),
        stable("2", &rise("1000", "1090")),
        stable("4", &rise("10", "12")),
        stable("1", &rise("10", "99")),
        rq_xx("00000000", "5", &rise("0", "1000")),
    ]);
    assert_eq!(seen.canary, tally(13, 3));
    assert_eq!(seen.stable, tally(92, 0));
}

#[test]
fn the_first_error_ever_counts() {
    let seen = look(&[up(UP), canary("5", &[(30.0, "1"), (45.0, "1")])]);
    assert_eq!(seen.canary, tally(1, 1));
}

#[test]
fn the_first_sample_of_a_new_target_is_only_a_baseline() {
    let seen = look(&[
        up(&[(30.0, "1"), (45.0, "1")]),
        canary("2", &[(30.0, "5000"), (45.0, "5003")]),
    ]);
    assert_eq!(seen.canary, tally(3, 0));
}

#[test]
fn a_failed_scrape_does_not_prove_that_the_series_was_absent() {
    let seen = look(&[
        up(&[(15.0, "0"), (30.0, "1"), (45.0, "1")]),
        canary("2", &[(30.0, "5000"), (45.0, "5003")]),
    ]);
    assert_eq!(seen.canary, tally(3, 0));
}

#[test]
fn without_up_the_first_sample_is_a_baseline() {
    let seen = look(&[
        canary("2", &[(30.0, "5000"), (45.0, "5003")]),
        stable("2", &[(30.0, "1"), (45.0, "1")]),
    ]);
    assert_eq!(seen.canary, tally(3, 0));
}

#[test]
fn a_restarted_process_counts_from_zero() {
    let seen = look(&[
        up(UP),
        canary(
            "2",
            &[(0.0, "100"), (15.0, "110"), (30.0, "4"), (45.0, "6")],
        ),
    ]);
    assert_eq!(seen.canary, tally(16, 0));
}

#[test]
fn a_counter_that_was_absent_after_a_restart_counts_from_zero() {
    let seen = look(&[up(UP), canary("5", &[(0.0, "1"), (45.0, "2")])]);
    assert_eq!(seen.canary, tally(2, 2));
}

#[test]
fn a_gap_in_which_no_scrape_succeeded_hides_nothing() {
    let gap = up(&[(0.0, "1"), (15.0, "0"), (30.0, "0"), (45.0, "1")]);
    let seen = look(&[gap, canary("5", &[(0.0, "10"), (45.0, "12")])]);
    assert_eq!(seen.canary, tally(2, 2));
}

#[test]
fn a_pod_that_is_gone_keeps_its_increases() {
    let mut gone = canary("2", &[(0.0, "100"), (15.0, "150")]);
    gone["metric"]["instance"] = json!("10.0.0.2:9902");
    let seen = look(&[
        up(UP),
        up_of("10.0.0.2:9902", &[(0.0, "1"), (15.0, "1")]),
        gone,
    ]);
    assert_eq!(seen.canary, tally(50, 0));
}

#[test]
fn new_target_labels_start_a_new_baseline() {
    let relabelled = |mut series: Value| {
        series["metric"]["team"] = json!("fraud");
        series
    };
    let seen = look(&[
        up(&[(0.0, "1"), (15.0, "1")]),
        canary("2", &[(0.0, "5000"), (15.0, "5002")]),
        relabelled(up(&[(30.0, "1"), (45.0, "1")])),
        relabelled(canary("2", &[(30.0, "5004"), (45.0, "5007")])),
    ]);
    assert_eq!(seen.canary, tally(5, 0));
}

#[test]
fn shed_load_is_neither_good_nor_bad() {
    let mut shed = canary("4", &rise("10", "40"));
    shed["metric"]["__name__"] = json!("envoy_cluster_upstream_rq");
    shed["metric"]["envoy_response_code"] = json!("429");
    shed["metric"]
        .as_object_mut()
        .unwrap()
        .remove("envoy_response_code_class");
    let seen = look(&[up(UP), canary("4", &rise("20", "52")), shed]);
    assert_eq!(seen.canary, tally(2, 0));
}

/// Answers of the canary that broke off.
fn broken_off(samples: &[(f64, &str)]) -> Value {
    let mut series = canary("2", samples);
    series["metric"]["__name__"] = json!("envoy_cluster_upstream_rq_broken_off");
    let labels = series["metric"].as_object_mut().unwrap();
    labels.remove("envoy_response_code_class");
    series
}

#[test]
fn an_answer_that_breaks_off_is_one_bad_request() {
    let seen = look(&[
        up(UP),
        canary("2", &rise("100", "110")),
        canary("5", &rise("3", "4")),
        broken_off(&[(45.0, "3")]),
    ]);
    assert_eq!(seen.canary, tally(11, 4));
}

#[test]
fn a_stream_that_breaks_off_looks_after_it_began_is_bad_all_the_same() {
    let question = question(envoy(), Objective::ErrorRate);
    let read = |cursors: &Cursors, seconds, series: &[Value]| {
        window(&question, series, None, cursors, at(seconds)).unwrap()
    };
    let start = Cursors::starting_at(ms(-1.0));
    let up = |until: f64| {
        let samples: Vec<_> = (0..=(until / 15.0) as u32)
            .map(|i| (f64::from(i) * 15.0, "1"))
            .collect();
        up(&samples)
    };
    let began = read(&start, 16.0, &[up(15.0), canary("2", &[(15.0, "1")])]);
    assert_eq!(began.look.canary, tally(1, 0));

    let one = canary("2", &[(15.0, "1"), (30.0, "1")]);
    let broken = broken_off(&[(30.0, "1")]);
    let ended = read(&began.cursors, 31.0, &[up(30.0), one, broken]);
    assert_eq!(ended.look.canary, tally(0, 0), "no request to count it in");

    let two = canary("2", &[(15.0, "1"), (30.0, "1"), (45.0, "3")]);
    let broken = broken_off(&[(30.0, "1"), (45.0, "1")]);
    let status = serde_json::to_string(&ended.cursors).unwrap();
    let kept = serde_json::from_str(&status).unwrap();
    let next = read(&kept, 46.0, &[up(45.0), two.clone(), broken.clone()]);
    assert_eq!(next.look.canary, tally(2, 1));
    let again = read(&next.cursors, 47.0, &[up(45.0), two, broken]);
    assert_eq!(again.look, Observation::default());
}

#[test]
fn nothing_scraped_before_the_start_counts() {
    let series = [
        up(UP),
        canary("2", &[(0.0, "1"), (15.0, "3"), (30.0, "7"), (45.0, "15")]),
    ];
    assert_eq!(read_since(15.0, &series).unwrap().look.canary, tally(12, 0));
}

#[test]
fn a_second_poll_adds_nothing() {
    let series = [up(UP), canary("5", &[(30.0, "4"), (45.0, "5")])];
    let question = question(envoy(), Objective::ErrorRate);
    let first = read_since(-1.0, &series).unwrap();
    assert_eq!(first.look.canary, tally(5, 5));
    let second = window(&question, &series, None, &first.cursors, at(51.0)).unwrap();
    assert_eq!(second.look, Observation::default());
    assert_eq!(second.cursors, first.cursors);
}

#[test]
fn no_requests_on_a_fresh_target_are_evidence_of_no_requests() {
    let window = read_since(0.0, &[up(UP)]).unwrap();
    assert_eq!(window.look, Observation::default());
    assert_eq!(window.newest_sample, at(45.0));
}

#[test]
fn idle_targets_do_not_widen_the_range() {
    let idle = read_since(0.0, &[up(UP)]).unwrap();
    let span = idle.cursors.span(at(51.0), SCRAPE);
    assert_eq!(span.range, Duration::from_secs(60));
}

#[test]
fn no_target_is_blindness() {
    let absent = BlindReason::NoTarget { side: Side::Canary };
    assert_eq!(read_since(0.0, &[]), Err(absent.clone()));
    let down = up(&[(30.0, "0"), (45.0, "0")]);
    assert_eq!(read_since(0.0, &[down]), Err(absent));
}

#[test]
fn old_scrapes_are_blindness() {
    let stale = |age: u64| BlindReason::Stale {
        side: Side::Canary,
        age: Duration::from_secs(age),
        limit: Duration::from_secs(45),
    };
    assert_eq!(read_since(0.0, &[up(&[(4.0, "1")])]), Err(stale(46)));
    // Still a target, though no scrape succeeds any more.
    let down = up(&[(0.0, "1"), (15.0, "0"), (30.0, "0"), (45.0, "0")]);
    assert_eq!(read_since(0.0, &[down]), Err(stale(50)));
    assert!(read_since(0.0, &[up(&[(5.0, "1")])]).is_ok());
}

#[test]
fn each_version_of_the_serving_pods_needs_a_target_of_its_own() {
    let pod = |name: &str, pod: &str, samples: &[(f64, &str)]| {
        let labels = json!({"__name__": name, "job": "pods", "instance": pod, "code": "500",
            "namespace": "ml", "pod": pod, "model": "churn", "model_version": "2"});
        series(&labels, samples)
    };
    let question = question(Source::Serving, Objective::ErrorRate);
    let read = |series: &[Value]| {
        window(
            &question,
            series,
            None,
            &Cursors::starting_at(ms(-1.0)),
            at(50.0),
        )
    };
    let canary = pod("up", "churn-cccccccc-6d9f7c5b8-aaaaa", UP);
    assert_eq!(
        read(std::slice::from_ref(&canary)),
        Err(BlindReason::NoTarget { side: Side::Stable })
    );

    // Both serve model version "2"; the pods' names tell them apart.
    let stable = pod("up", "churn-55555555-7bbf4d9c6-bbbbb", UP);
    let errors = pod(
        "model_requests_total",
        "churn-cccccccc-6d9f7c5b8-aaaaa",
        &[(30.0, "2"), (45.0, "3")],
    );
    let seen = read(&[canary, stable, errors]).unwrap().look;
    assert_eq!(seen.canary, tally(3, 3));
    assert_eq!(seen.stable, tally(0, 0));
}

#[test]
fn a_target_scraped_twice_is_blindness() {
    let mut other = up(UP);
    other["metric"]["job"] = json!("everything");
    assert_eq!(
        read_since(0.0, &[up(UP), other]),
        Err(BlindReason::ScrapedTwice {
            instance: "10.0.0.1:9902".into()
        })
    );
}

#[test]
fn values_that_no_counter_has_are_blindness() {
    for (value, printed) in [
        ("NaN", "NaN"),
        ("+Inf", "inf"),
        ("-Inf", "-inf"),
        ("-1", "-1"),
    ] {
        assert_eq!(
            read_since(0.0, &[up(UP), canary("5", &[(45.0, value)])]),
            Err(BlindReason::NotFinite {
                series: "envoy_cluster_upstream_rq_xx".into(),
                value: printed.into(),
            }),
        );
    }
}

#[test]
fn a_series_without_instance_is_blindness() {
    let mut nameless = canary("5", &[(45.0, "1")]);
    nameless["metric"]
        .as_object_mut()
        .unwrap()
        .remove("instance");
    let reason = read_since(0.0, &[up(UP), nameless]).unwrap_err();
    assert!(
        reason.to_string().contains("has no label instance"),
        "{reason}"
    );
}

#[test]
fn huge_counters_do_not_overflow() {
    let seen = look(&[up(UP), canary("5", &[(30.0, "1e300"), (45.0, "3")])]);
    assert_eq!(seen.canary.requests, seen.canary.bad);
    assert!(seen.canary.bad > 1 << 60);
}

fn bucket(le: &str, samples: &[(f64, &str)]) -> Value {
    let mut series = canary("", samples);
    let labels = series["metric"].as_object_mut().unwrap();
    labels.remove("envoy_response_code_class");
    labels.insert(
        "__name__".into(),
        json!("envoy_cluster_upstream_rq_time_bucket"),
    );
    labels.insert("le".into(), json!(le));
    series
}

fn read_latency(series: &[Value]) -> Result<Window, BlindReason> {
    let max = Duration::from_millis(300);
    let snapped = Snapped {
        asked: max,
        edge: Duration::from_millis(250),
        spellings: vec!["250".into()],
    };
    let question = question(envoy(), Objective::Latency { max });
    window(
        &question,
        series,
        Some(snapped),
        &Cursors::starting_at(ms(-1.0)),
        at(50.0),
    )
}

#[test]
fn a_slow_request_is_one_that_the_threshold_bucket_lacks() {
    let window = read_latency(&[
        up(UP),
        bucket(
            "250",
            &[(0.0, "90"), (15.0, "90"), (30.0, "93"), (45.0, "97")],
        ),
        bucket(
            "+Inf",
            &[(0.0, "100"), (15.0, "101"), (30.0, "105"), (45.0, "110")],
        ),
    ]);
    let window = window.unwrap();
    assert_eq!(window.look.canary, tally(10, 3));
    assert_eq!(window.threshold.unwrap().edge, Duration::from_millis(250));
}

#[test]
fn a_histogram_without_the_threshold_bucket_is_not_all_slow() {
    assert_eq!(
        read_latency(&[up(UP), bucket("+Inf", &[(30.0, "105"), (45.0, "110")])]),
        Err(BlindReason::BucketsChanged)
    );
}

#[test]
fn a_window_survives_a_snapshot() {
    let window = read_since(-1.0, &[up(UP), canary("5", &[(30.0, "4")])]).unwrap();
    let json = serde_json::to_string(&window).unwrap();
    assert_eq!(serde_json::from_str::<Window>(&json).unwrap(), window);
}

/// What a caller's sidecar reports of requests to a workload.
fn istio(instance: &str, revision: &str, code: &str, samples: &[(f64, &str)]) -> Value {
    let labels = json!({"__name__": "istio_requests_total", "job": "mesh", "instance": instance,
        "namespace": "shop", "pod": "shop-1", "reporter": "source", "response_code": code,
        "destination_workload_namespace": "ml",
        "destination_workload": format!("churn-{revision}")});
    series(&labels, samples)
}

fn read_istio(series: &[Value]) -> Result<Window, BlindReason> {
    let question = question(Source::Istio { waypoint: false }, Objective::ErrorRate);
    let start = Cursors::starting_at(ms(-1.0));
    window(&question, series, None, &start, at(50.0))
}

#[test]
fn without_up_a_sample_of_one_version_proves_that_the_other_had_no_requests() {
    let stable = istio("a", "55555555", "200", &rise("100", "190"));
    let idle = read_istio(std::slice::from_ref(&stable)).unwrap();
    assert_eq!(
        (idle.look.canary, idle.look.stable),
        (tally(0, 0), tally(90, 0))
    );
    assert_eq!(idle.newest_sample, at(45.0));

    // So its first request, an error, counts.
    let error = istio("a", "cccccccc", "503", &[(45.0, "1")]);
    let seen = read_istio(&[stable.clone(), error]).unwrap().look;
    assert_eq!(seen.canary, tally(1, 1));

    // It is unknown since when a caller that was not scraped before has counted.
    let unknown = istio("b", "cccccccc", "503", &[(30.0, "500"), (45.0, "502")]);
    let seen = read_istio(&[stable, unknown]).unwrap().look;
    assert_eq!(seen.canary, tally(2, 2));
}

#[test]
fn without_up_nothing_scraped_or_nothing_new_is_blindness() {
    assert!(matches!(read_istio(&[]), Err(BlindReason::NoTarget { .. })));
    let old = istio("a", "55555555", "200", &[(0.0, "1"), (4.0, "2")]);
    assert!(matches!(read_istio(&[old]), Err(BlindReason::Stale { .. })));
    let once = istio("a", "55555555", "200", &rise("1", "2"));
    let mut twice = once.clone();
    twice["metric"]["job"] = json!("everything");
    assert!(matches!(
        read_istio(&[once, twice]),
        Err(BlindReason::ScrapedTwice { .. })
    ));
}

#[test]
fn a_series_that_lacks_a_declared_label_is_not_counted() {
    let custom = serde_json::from_value(json!({
        "requests": {"metric": "answers_total", "label": "code"},
        "labels": {"route": "/predict"},
    }));
    let question = question(Source::Custom(custom.unwrap()), Objective::ErrorRate);
    let pod = |name: &str, revision: &str, route: Option<&str>, samples: &[(f64, &str)]| {
        let pod = format!("churn-{revision}-6d9f7c5b8-aaaaa");
        let mut labels = json!({
            "__name__": name, "instance": pod, "namespace": "ml", "pod": pod, "code": "500",
        });
        if let Some(route) = route {
            labels["route"] = json!(route);
        }
        series(&labels, samples)
    };
    let series = [
        pod("up", "cccccccc", None, UP),
        pod("up", "55555555", None, UP),
        pod(
            "answers_total",
            "cccccccc",
            Some("/predict"),
            &rise("1", "4"),
        ),
        pod("answers_total", "cccccccc", None, &rise("1", "100")),
    ];
    let start = Cursors::starting_at(ms(-1.0));
    let seen = window(&question, &series, None, &start, at(50.0))
        .unwrap()
        .look;
    assert_eq!(seen.canary, tally(3, 3));
}
