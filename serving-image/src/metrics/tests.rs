#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::json;

fn manifest(extra: &Value) -> Manifest {
    let mut manifest = json!({
        "schemaVersion": 1, "name": "m", "version": "1", "kind": "tabular",
        "task": "classification",
        "inputs": [
            {"name": "age", "type": "number"},
            {"name": "income", "type": "number", "nullable": true},
            {"name": "plan", "type": "string", "allowed": ["free", "pro", "team"]}
        ],
        "preprocessing": [
            {"step": "impute", "values": {"income": 30.0}},
            {"step": "ordinal", "categories": {"plan": ["free", "pro", "team"]}},
            {"step": "order", "features": ["age", "income", "plan"]}
        ],
        "network": {"architecture": "linear", "weights": "w"},
        "outputs": {"labels": ["no", "yes"]}
    });
    for (name, value) in extra.as_object().unwrap() {
        manifest[name] = value.clone();
    }
    Manifest::parse(manifest.to_string().as_bytes()).unwrap()
}

fn metrics(manifest: &Manifest, edges: &[f64]) -> Metrics {
    let served = Served {
        manifest,
        name: "m",
        version: "1",
        digest: "sha256:00",
        test_faults: false,
    };
    Metrics::new(&served, edges)
}

fn prediction(output: &[f32]) -> Prediction {
    Prediction {
        output: output.to_vec(),
        ..Prediction::default()
    }
}

fn assert_lines(metrics: &Metrics, lines: &[&str]) {
    let text = metrics.encode();
    for line in lines {
        assert!(
            text.lines().any(|found| found == *line),
            "{line} is not in\n{text}"
        );
    }
}

#[test]
fn the_series_have_the_names_that_the_gate_reads() {
    let metrics = metrics(&manifest(&json!({})), &DURATION_EDGES);
    metrics.answered(200, 0.2);
    metrics.answered(429, 0.0001);
    metrics.answered(422, 0.0001);
    metrics.predicted(&[], &[prediction(&[0.97, 0.03])]);
    assert_lines(
        &metrics,
        &[
            r#"model_requests_total{model="m",model_version="1",code="200"} 1"#,
            r#"model_requests_total{model="m",model_version="1",code="422"} 1"#,
            r#"model_requests_total{model="m",model_version="1",code="429"} 1"#,
            r#"model_requests_total{model="m",model_version="1",code="500"} 0"#,
            r#"model_request_duration_seconds_bucket{le="0.15",model="m",model_version="1"} 2"#,
            r#"model_request_duration_seconds_bucket{le="0.2",model="m",model_version="1"} 3"#,
            r#"model_predictions_total{model="m",model_version="1",class="no"} 1"#,
            r#"model_predictions_total{model="m",model_version="1",class="yes"} 0"#,
            r#"model_prediction_confidence_bucket{le="0.95",model="m",model_version="1"} 0"#,
            r#"model_prediction_confidence_bucket{le="0.99",model="m",model_version="1"} 1"#,
            "model_test_faults_enabled 0",
        ],
    );
    let text = metrics.encode();
    assert!(text.contains(r#"model_info{model="m",model_version="1",digest="sha256:00""#));
    // No reference, no series of inputs.
    assert!(!text.contains("model_input"), "{text}");
}

#[test]
fn the_edges_of_the_latency_are_those_asked_for() {
    let metrics = metrics(&manifest(&json!({})), &[0.07, 0.3]);
    metrics.answered(200, 0.07);
    assert_lines(
        &metrics,
        &[
            r#"model_request_duration_seconds_bucket{le="0.07",model="m",model_version="1"} 1"#,
            r#"model_request_duration_seconds_bucket{le="0.3",model="m",model_version="1"} 1"#,
        ],
    );
    assert!(!metrics.encode().contains(r#"le="2.5""#));
}

#[test]
fn inputs_are_counted_in_the_bins_of_training() {
    let reference = json!({"reference": {
        "inputs": {
            "age": {"edges": [30.0, 60.0], "shares": [0.25, 0.5, 0.25]},
            "plan": {"shares": {"free": 0.7, "pro": 0.2}}
        },
        "outputs": {"shares": {"no": 0.9, "yes": 0.1}}
    }});
    let metrics = metrics(&manifest(&reference), &DURATION_EDGES);
    let instances = [
        json!({"age": 30, "income": null, "plan": "pro"}), // on an edge: the bin below
        json!({"age": 30.5, "plan": "team"}),              // no income; a plan without its own bin
        json!({"age": 99, "income": 3, "plan": "free"}),
    ];
    let answers = vec![prediction(&[0.4, 0.6]); 3];
    metrics.predicted(&instances, &answers);
    let bin = |feature: &str, bin: &str, count: &str| {
        let labels = format!(r#"model="m",model_version="1",feature="{feature}",bin="{bin}""#);
        format!("model_input_feature_bin_total{{{labels}}} {count}")
    };
    let share = |feature: &str, bin: &str, share: &str| {
        let labels = format!(r#"model="m",model_version="1",feature="{feature}",bin="{bin}""#);
        format!("model_input_reference_share{{{labels}}} {share}")
    };
    for line in [
        bin("age", "(-Inf,30]", "1"),
        bin("age", "(30,60]", "1"),
        bin("age", "(60,+Inf)", "1"),
        bin("plan", "free", "1"),
        bin("plan", "pro", "1"),
        bin("plan", "(other)", "1"),
        share("age", "(30,60]", "0.5"),
        share("plan", "pro", "0.2"),
    ] {
        assert_lines(&metrics, &[&line]);
    }
    assert_lines(
        &metrics,
        &[
            r#"model_input_missing_total{model="m",model_version="1",feature="income"} 2"#,
            r#"model_prediction_reference_share{model="m",model_version="1",class="yes"} 0.1"#,
            r#"model_predictions_total{model="m",model_version="1",class="yes"} 3"#,
        ],
    );
}

#[test]
fn numbers_that_are_predicted_are_counted_in_bins_too() {
    let manifest = manifest(&json!({
        "task": "regression", "outputs": {},
        "reference": {"outputs": {"edges": [10.0], "shares": [0.5, 0.5]}}
    }));
    let metrics = metrics(&manifest, &DURATION_EDGES);
    metrics.predicted(&[], &[prediction(&[3.0]), prediction(&[10.5])]);
    assert_lines(
        &metrics,
        &[
            r#"model_predictions_total{model="m",model_version="1",class="(-Inf,10]"} 1"#,
            r#"model_predictions_total{model="m",model_version="1",class="(10,+Inf)"} 1"#,
            "model_prediction_reference_share{model=\"m\",model_version=\"1\",\
             class=\"(10,+Inf)\"} 0.5",
        ],
    );
}

#[test]
fn no_model_makes_more_series_than_its_bound() {
    let categories: serde_json::Map<String, Value> = (0..40)
        .map(|index| (format!("c{index}"), json!(0.025)))
        .collect();
    let reference = json!({"reference": {"inputs": {"plan": {"shares": categories}}}});
    let text = metrics(&manifest(&reference), &DURATION_EDGES).encode();
    let bins = text
        .lines()
        .filter(|line| line.starts_with("model_input_feature_bin_total"));
    assert_eq!(bins.count(), 12);
}
