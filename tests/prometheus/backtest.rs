//! Scores policies on a past that a real Prometheus holds.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serin::backtest::{Arguments, run};

use crate::harness::{Prometheus, now};

const SCRAPE: i64 = 15;
/// Requests a second.
const RATE: i64 = 10;

/// Who counted.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    Router,
    Pods,
}

/// What was counted: a scrape every 15 s from the first moment to the last.
struct Past {
    source: Source,
    from: Timestamp,
    to: Timestamp,
    /// One request in so many failed.
    one_error_in: i64,
    /// No scrape from here…
    gap_from: i64,
    /// …to here, in seconds since the first.
    gap_to: i64,
}

impl Past {
    /// Two hours that ended an hour ago.
    fn of_two_hours(one_error_in: i64) -> Self {
        let to = now().as_second() / SCRAPE * SCRAPE - 3_600;
        Self {
            source: Source::Router,
            from: Timestamp::from_second(to - 7_200).unwrap(),
            to: Timestamp::from_second(to).unwrap(),
            one_error_in,
            gap_from: 0,
            gap_to: 0,
        }
    }

    fn openmetrics(&self) -> String {
        let (target, of_class, of_bucket) = match self.source {
            Source::Router => (
                concat!(
                    r#"namespace="serin-system",pod="serin-router-5d8f-aaaaa","#,
                    r#"instance="10.0.0.1:9902""#,
                ),
                concat!(
                    r#"envoy_cluster_upstream_rq_xx{TARGET,"#,
                    r#"envoy_cluster_name="ml/churn/55555555",envoy_response_code_class="VALUE"}"#,
                ),
                concat!(
                    "envoy_cluster_upstream_rq_time_bucket{TARGET,",
                    r#"envoy_cluster_name="ml/churn/55555555",le="VALUE"}"#,
                ),
            ),
            Source::Pods => (
                r#"namespace="ml",pod="churn-55555555-6d9f7c5b8-x7k2p",instance="10.0.0.2:8080""#,
                r#"model_requests_total{TARGET,code="VALUE00"}"#,
                r#"model_request_duration_seconds_bucket{TARGET,le="VALUE"}"#,
            ),
        };
        let series = |of: &str, value: &str| of.replace("TARGET", target).replace("VALUE", value);
        let edges = match self.source {
            Source::Router => ["100", "250"],
            Source::Pods => ["0.1", "0.25"],
        };
        let mut text = String::new();
        // All requests take from 100 to 250 ms.
        for (series, value) in [
            (
                series("up{TARGET}", ""),
                &(|_| 1_i64) as &dyn Fn(i64) -> i64,
            ),
            (series(of_class, "2"), &|all| all - all / self.one_error_in),
            (series(of_class, "5"), &|all| all / self.one_error_in),
            (series(of_bucket, edges[0]), &|_| 0),
            (series(of_bucket, edges[1]), &|all| all),
            (series(of_bucket, "+Inf"), &|all| all),
        ] {
            let first = self.from.as_second();
            for at in (first..=self.to.as_second()).step_by(SCRAPE as usize) {
                let since = at - first;
                if since < self.gap_from || since >= self.gap_to {
                    writeln!(text, "{series} {} {at}", value(since * RATE)).unwrap();
                }
            }
        }
        text + "# EOF\n"
    }
}

/// A manifest with steps of 10, 50 and 100 % of two minutes each.
fn policy(directory: &tempfile::TempDir, source: Source, objectives: &str) -> PathBuf {
    let evidence = match source {
        Source::Router => "Envoy",
        Source::Pods => "Serving",
    };
    let objectives = objectives.replace("{name:", &format!("{{source: {evidence}, name:"));
    let path = directory.path().join("policy.yaml");
    let zeros = "0".repeat(64);
    let manifest = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: ml}}\n---\n\
         apiVersion: serin.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {{name: \
         churn}}\nspec:\n  \
         model: {{uri: 'file:///m', version: '1', digest: 'sha256:{zeros}'}}\n  \
         objectives: [{objectives}]\n  \
         rollout:\n    bakeTime: 2m\n    steps:\n    - {{weight: 10, minDuration: 2m}}\n    - \
         {{weight: 50, minDuration: 2m}}\n    \
         - {{weight: 100, minDuration: 2m}}\n"
    );
    std::fs::write(&path, manifest).unwrap();
    path
}

const ERRORS: &str = "{name: errors, errorRate: {max: '1%'}}";

async fn report(past: &Past, objectives: &str, revision: &str) -> Option<Result<String, String>> {
    let prometheus = Prometheus::with_past(&past.openmetrics()).await?;
    let directory = tempfile::tempdir().unwrap();
    let arguments = Arguments {
        prometheus_url: prometheus.url(),
        prometheus_header: Vec::new(),
        from: past.from,
        to: Some(past.to),
        namespace: "ml".to_owned(),
        name: "churn".to_owned(),
        policy: Some(policy(&directory, past.source, objectives)),
        revision: Some(revision.to_owned()),
        scrape_interval: Duration::from_secs(SCRAPE.unsigned_abs()),
        router_namespace: "serin-system".to_owned(),
        router_service: "serin-router".to_owned(),
        rollouts: 40,
        seed: 1,
    };
    let report = run(&arguments).await.map_err(|error| error.to_string());
    let again = run(&arguments).await.map_err(|error| error.to_string());
    assert_eq!(report, again, "the same seed gives the same report");
    println!("{report:?}");
    Some(report)
}

fn assert_says(report: &str, words: &[&str]) {
    // The report is wrapped.
    let flat = report.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in words {
        assert!(flat.contains(words), "{words:?} is not in:\n{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_past_promotes_and_a_gap_in_it_is_reported() {
    let mut past = Past::of_two_hours(1_000);
    (past.gap_from, past.gap_to) = (3_600, 4_200);
    let objectives = "{name: errors, errorRate: {max: '1%'}}, \
                      {name: latency, latency: {quantile: 0.99, max: 300ms}}";
    let Some(report) = report(&past, objectives, "55555555").await else {
        return;
    };
    let report = report.unwrap();
    assert_says(
        &report,
        &[
            "ml/churn, revision 55555555",
            "steps 10, 50, 100 %",
            // All but the first scrape's, which is the baseline: 7,185 s or, with the baseline
            // before the period, 7,200 s.
            "bad (0.1 %); allowed: 1 %",
            "rolled back 0 (0 %), each one falsely. With 95 % certainty the true share is below",
            "blind in",
            "the serving version had not been scraped for over three intervals",
            "Traffic: the step at 10 % takes",
            "300ms is no edge of the histogram; 250ms is judged instead",
        ],
    );
    assert!(!report.contains("promoted       0"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_objective_that_the_serving_version_breaks_is_reported() {
    let past = Past::of_two_hours(25);
    let Some(report) = report(&past, ERRORS, "55555555").await else {
        return;
    };
    assert_says(
        &report.unwrap(),
        &[
            "(4 %); allowed: 1 %",
            "promoted 0",
            "rolled back 0",
            "the version that served broke this objective itself (4 % bad, allowed 1 %)",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_did_not_serve_and_an_empty_period_are_reported() {
    let mut past = Past::of_two_hours(1_000);
    let Some(other) = report(&past, ERRORS, "66666666").await else {
        return;
    };
    assert_says(&other.unwrap(), &["not one request was counted"]);

    past.from -= SignedDuration::from_hours(1);
    past.to = past.from + SignedDuration::from_secs(10);
    let Some(short) = report(&past, ERRORS, "55555555").await else {
        return;
    };
    let short = short.unwrap_err();
    assert!(short.contains("no room for two looks"), "{short}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pods_counters_and_a_comparison_with_stable_are_supported() {
    let mut past = Past::of_two_hours(1_000);
    past.source = Source::Pods;
    let objectives = "{name: errors, errorRate: {max: '1%'}}, \
                      {name: beside-stable, noWorseThanStable: \
                      {latency: {quantile: 0.99, by: '20%'}, errorRate: '0.5%'}}";
    let Some(report) = report(&past, objectives, "55555555").await else {
        return;
    };
    let report = report.unwrap();
    assert_says(
        &report,
        &[
            "bad (0.1 %); allowed: 1 %",
            "rolled back 0",
            "0 of 480 looks",
        ],
    );
    assert!(!report.contains("promoted       0"), "{report}");
}
