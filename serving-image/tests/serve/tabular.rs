//! Iris, against scikit-learn's own probabilities.

use serde_json::{Value, json};

use crate::support::{Client, Server, fixture, iris, one_flower};

/// 32-bit floats against scikit-learn's 64-bit ones.
const TOLERANCE: f64 = 1e-5;

fn largest_difference(server: &Server, reference: &Value) -> f64 {
    let labels: Vec<&str> = reference["labels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l.as_str().unwrap())
        .collect();
    let answer = server
        .post("/predict", &json!({"instances": reference["instances"]}))
        .json();
    let predictions = answer["predictions"].as_array().unwrap();
    let expected = reference["probabilities"].as_array().unwrap();
    assert_eq!(predictions.len(), 150);
    let mut largest = 0_f64;
    for (prediction, expected) in predictions.iter().zip(expected) {
        let mut best = (labels[0], f64::MIN);
        for (label, probability) in labels.iter().zip(expected.as_array().unwrap()) {
            let probability = probability.as_f64().unwrap();
            let found = prediction["probabilities"][label].as_f64().unwrap();
            largest = largest.max((found - probability).abs());
            if probability > best.1 {
                best = (label, probability);
            }
        }
        assert_eq!(prediction["label"], best.0);
    }
    largest
}

#[test]
fn both_models_predict_what_scikit_learn_predicts() {
    for version in ["1.0.0", "2.0.0"] {
        let server = Server::start(&iris(version), &[]);
        let difference = largest_difference(&server, &fixture(&format!("iris-{version}.json")));
        assert!(
            difference < TOLERANCE,
            "iris {version} differs by {difference:e}"
        );
        println!("iris {version}: 150 flowers, largest difference to scikit-learn {difference:e}");
    }
}

#[test]
fn every_answer_carries_the_name_and_version_that_it_is_served_under() {
    let server = Server::start(
        &iris("1.0.0"),
        &["--model-name", "flowers", "--model-version", "7.1.0"],
    );
    let answers = [
        server.post("/predict", &one_flower()),
        server.post("/predict", &json!({})),
        server.get("/predict"),
        server.get("/nowhere"),
        server.get("/version"),
    ];
    assert_eq!(
        answers.each_ref().map(|answer| answer.status),
        [200, 422, 405, 404, 200]
    );
    for answer in answers {
        let body = answer.json();
        assert_eq!(
            (&body["model"], &body["model_version"]),
            (&json!("flowers"), &json!("7.1.0")),
            "{body}"
        );
        assert_eq!(answer.header("x-model-name"), Some("flowers"));
        assert_eq!(answer.header("x-model-version"), Some("7.1.0"));
    }
}

#[test]
fn a_request_id_is_taken_over_or_made() {
    let server = Server::start(&iris("1.0.0"), &[]);
    let mut client = Client::new(server.address);
    let mut ask = |id: &str| {
        let response = client
            .send("GET", "/version", &[("x-request-id", id)], b"")
            .unwrap();
        response.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(ask("abc-123"), "abc-123");
    let (first, second) = (ask("has a space"), ask(&"x".repeat(129)));
    assert!(
        first.len() == 32 && second.len() == 32 && first != second,
        "{first} {second}"
    );
}

#[test]
fn a_trace_is_taken_over_answered_and_logged() {
    let server = Server::start(&iris("1.0.0"), &["--drain-delay", "0s"]);
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let given = format!("00-{id}-00f067aa0ba902b7-01");
    let response = Client::new(server.address)
        .send("GET", "/version", &[("traceparent", &given)], b"")
        .unwrap();
    let answered = response.header("traceresponse").unwrap();
    let span = &answered[36..52];
    assert_eq!(answered, format!("00-{id}-{span}-01"));
    assert_ne!(span, "00f067aa0ba902b7");
    assert_eq!(response.header("x-request-id"), Some(id));
    server.terminate();
    let (_, log) = server.wait();
    let line = log
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|line| line["path"] == "/version")
        .unwrap();
    assert_eq!(
        (&line["trace_id"], &line["span_id"]),
        (&json!(id), &json!(span))
    );
}

#[test]
fn what_was_served_is_in_the_metrics_and_no_payload_is_in_the_log() {
    let server = Server::start(&iris("2.0.0"), &["--drain-delay", "0s"]);
    let reference = fixture("iris-2.0.0.json");
    server.post("/predict", &json!({"instances": reference["instances"]}));
    server.post(
        "/predict",
        &json!({"instances": [{"sepal_length": "4242.25"}]}),
    );
    let metrics = server.get("/metrics");
    assert_eq!(
        metrics.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    let labels = r#"model="iris",model_version="2.0.0""#;
    let predicted: u64 = ["setosa", "versicolor", "virginica"]
        .iter()
        .map(|class| {
            let series = format!("model_predictions_total{{{labels},class=\"{class}\"}} ");
            let line = metrics
                .text()
                .lines()
                .find_map(|line| line.strip_prefix(&series));
            line.unwrap().parse::<u64>().unwrap()
        })
        .sum();
    assert_eq!(predicted, 150);
    for line in [
        format!("model_requests_total{{{labels},code=\"200\"}} 1"),
        format!("model_requests_total{{{labels},code=\"422\"}} 1"),
        format!("model_request_duration_seconds_count{{{labels}}} 2"),
        "model_ready 1".to_owned(),
        "model_requests_in_flight 0".to_owned(),
        "model_test_faults_enabled 0".to_owned(),
    ] {
        assert!(
            metrics.text().lines().any(|found| found == line),
            "{line} is not in\n{}",
            metrics.text()
        );
    }

    server.terminate();
    let (status, log) = server.wait();
    assert!(status.success());
    let requests: Vec<Value> = log
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|entry| entry["message"] == "request")
        .collect();
    let predictions: Vec<_> = requests
        .iter()
        .filter(|entry| entry["path"] == "/predict")
        .collect();
    assert_eq!(
        predictions.len(),
        2,
        "one line for each request: {requests:?}"
    );
    for key in ["id", "version", "status", "ms", "bytes_in", "bytes_out"] {
        assert!(
            !predictions[0][key].is_null(),
            "{key} is missing: {}",
            predictions[0]
        );
    }
    assert!(
        !log.iter().any(|line| line.contains("4242.25")),
        "a value that was sent is in the log"
    );
}

#[test]
fn the_openapi_document_states_the_manifests_contract() {
    let server = Server::start(&iris("1.0.0"), &[]);
    let document = server.get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    for path in [
        "/predict",
        "/v2/models/{model}/versions/{version}/infer",
        "/docs",
        "/readyz",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    assert!(document["paths"].get("/v1/embeddings").is_none());
    let content =
        &document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"];
    let instances = &content["schema"]["properties"]["instances"];
    assert_eq!(instances["maxItems"], 1024);
    assert_eq!(
        instances["items"]["required"],
        json!(["sepal_length", "sepal_width", "petal_length", "petal_width"])
    );
    assert_eq!(
        instances["items"]["properties"]["petal_width"],
        json!({"type": "number", "minimum": 0.0, "maximum": 30.0, "description": "in cm"})
    );
}

#[test]
fn the_docs_page_needs_nothing_from_elsewhere() {
    let server = Server::start(&iris("1.0.0"), &[]);
    let page = server.get("/docs");
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    for (path, kind) in [
        ("docs/page.js", "text/javascript"),
        ("docs/page.css", "text/css"),
    ] {
        assert!(page.text().contains(&format!("\"{path}\"")), "{path}");
        let file = server.get(&format!("/{path}"));
        assert_eq!(file.status, 200);
        assert!(file.header("content-type").unwrap().starts_with(kind));
        assert!(!file.text().contains("://"), "{path} asks another host");
    }
    assert!(!page.text().contains("://"));
}
