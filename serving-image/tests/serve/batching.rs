//! Many requests before one engine: sharing batches, giving up, and being refused, with MiniLM's
//! real weights.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::embeddings::minilm;
use crate::support::{Client, Response, Server, TIMEOUT, iris, one_flower};

/// 64 texts of 200 tokens: a second of work, or more.
fn large() -> Value {
    json!({"instances": vec!["word ".repeat(198); 64]})
}

fn small() -> Value {
    json!({"instances": ["a small one"]})
}

/// The value of a series without further labels than the model's.
fn series(server: &Server, name: &str) -> f64 {
    let metrics = server.get("/metrics");
    let line = metrics
        .text()
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{")))
        .unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn post(server: &Server, header: &str, value: &str, body: &Value) -> Response {
    let headers = [("content-type", "application/json"), (header, value)];
    Client::new(server.address)
        .send("POST", "/predict", &headers, body.to_string().as_bytes())
        .unwrap()
}

#[test]
fn large_requests_do_not_starve_small_ones() {
    let Some(model) = minilm() else { return };
    let server = Server::start(&model, &["--batch-tokens", "512"]);
    let address = server.address;
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        let answers = [(); 3].map(|()| {
            scope.spawn(|| {
                let answer = Client::new(address).post("/predict", &large()).unwrap();
                answered.fetch_add(1, Ordering::SeqCst);
                answer
            })
        });
        wait_until("the large requests' first batch", || {
            series(&server, "model_batch_texts_count") >= 1.0
        });
        // 64 texts of 200 tokens are 32 batches of 512, three times; each of these shares one of
        // them.
        for _ in 0..5 {
            assert_eq!(server.post("/predict", &small()).status, 200);
        }
        let before = answered.load(Ordering::SeqCst);
        assert!(before < 3, "the large ones came first");
        for answer in answers {
            let answer = answer.join().unwrap();
            assert_eq!(answer.status, 200);
            let predictions = answer.json()["predictions"].as_array().unwrap().len();
            assert_eq!(predictions, 64);
        }
    });
    assert!(series(&server, "model_batch_texts_sum") >= 3.0 * 64.0 + 5.0);
    assert!(series(&server, "model_queue_seconds_count") >= 8.0);
}

#[test]
fn what_is_late_is_answered_504_and_not_computed_to_its_end() {
    let Some(model) = minilm() else { return };
    let server = Server::start(&model, &["--batch-tokens", "512"]);
    let late = post(&server, "x-request-timeout-ms", "50", &large());
    assert_eq!(late.status, 504, "{}", late.text());
    let problem = late.json();
    assert_eq!(problem["type"], "urn:serin:problem:deadline-exceeded");
    assert_eq!(
        problem["detail"],
        "The prediction was not ready within 50 ms"
    );
    wait_until("the line is empty", || {
        series(&server, "model_requests_waiting") < 1.0
    });
    assert_eq!(server.post("/predict", &small()).status, 200);
    let computed = series(&server, "model_batch_texts_sum");
    assert!(computed < 64.0, "{computed} texts were computed");
    assert!(server.get("/metrics").text().contains(r#"code="504"} 1"#));
}

#[test]
fn a_full_line_is_answered_429_with_a_time_to_come_back() {
    let Some(model) = minilm() else { return };
    let server = Server::start(&model, &["--batch-tokens", "512", "--queue", "1"]);
    let address = server.address;
    thread::scope(|scope| {
        let large = scope.spawn(|| Client::new(address).post("/predict", &large()).unwrap());
        wait_until("the large request is in line", || {
            series(&server, "model_requests_waiting") >= 1.0
        });
        let refused = server.post("/predict", &small());
        assert_eq!(refused.status, 429, "{}", refused.text());
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(large.join().unwrap().status, 200);
    });
    assert_eq!(server.post("/predict", &small()).status, 200);
}

#[test]
fn tabular_predictions_have_a_deadline_too() {
    let server = Server::start(
        &iris("1.0.0"),
        &[
            "--deadline",
            "20ms",
            "--test-faults",
            "--test-latency",
            "5s",
        ],
    );
    assert_eq!(server.post("/predict", &one_flower()).status, 504);
    for (header, value, status) in [
        ("x-request-timeout-ms", "1", 504),
        ("x-envoy-expected-rq-timeout-ms", "1", 504),
        ("x-request-timeout-ms", "soon", 400),
    ] {
        let answer = post(&server, header, value, &one_flower());
        assert_eq!(answer.status, status, "{header}: {value}");
    }
    // What is not a prediction has none.
    assert_eq!(server.get("/readyz").status, 200);
}
