//! The test facility: off unless asked for, announced, and as strong as asked for.

use std::time::{Duration, Instant};

use crate::support::{Client, Server, iris, one_flower, serin_serve};

#[test]
fn the_share_of_errors_and_the_latency_are_what_was_asked_for() {
    let flags = [
        "--test-faults",
        "--test-error-share",
        "0.2",
        "--test-latency",
        "3ms",
        "--drain-delay",
        "0s",
    ];
    let server = Server::start(&iris("1.0.0"), &flags);
    let mut client = Client::new(server.address);
    let (requests, started) = (1000, Instant::now());
    let mut failed = 0;
    for _ in 0..requests {
        let response = client.post("/predict", &one_flower()).unwrap();
        if response.status == 500 {
            assert_eq!(response.json()["type"], "urn:serin:problem:test-fault");
            failed += 1;
        }
    }
    assert!(
        (160..=240).contains(&failed),
        "{failed} of {requests} failed"
    );
    assert!(started.elapsed() >= Duration::from_millis(3 * requests));
    let metrics = server.get("/metrics");
    assert!(metrics.text().contains("model_test_faults_enabled 1"));
    let counted = format!(
        r#"model_requests_total{{model="iris",model_version="1.0.0",code="500"}} {failed}"#
    );
    assert!(metrics.text().contains(&counted), "{}", metrics.text());

    server.terminate();
    let (_, log) = server.wait();
    assert!(
        log.iter()
            .any(|line| line.contains("WARN") && line.contains("TEST FACILITY ON")),
        "{log:?}"
    );
}

#[test]
fn faults_without_the_switch_are_refused() {
    for variable in ["SERIN_SERVE_TEST_ERROR_SHARE", "SERIN_SERVE_TEST_LATENCY"] {
        let value = if variable.ends_with("SHARE") {
            "0.5"
        } else {
            "5ms"
        };
        let output = serin_serve(&["serve", "--address", "127.0.0.1:0", "--model-dir"])
            .arg(iris("1.0.0"))
            .env(variable, value)
            .env("SERIN_SERVE_TEST_FAULTS", "false")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("need --test-faults"), "{said}");
    }
}
