//! Clients that close their connection before they have their answer.

use std::io::Write as _;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::embeddings::minilm;
use crate::generation::await_metric;
use crate::support::{Server, explained, fixture, iris, one_flower};

/// Sends a request, and does not wait for its answer.
fn ask(server: &Server, path: &str, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).unwrap();
    let body = body.to_string();
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: \
         {length}\r\n\r\n{body}"
    )
    .unwrap();
    stream
}

/// Its handler would sleep for an hour.
#[test]
fn a_client_that_goes_away_is_counted_and_logged() {
    let flags = [
        "--test-faults",
        "--test-latency",
        "60m",
        "--deadline",
        "120m",
        "--drain-delay",
        "0s",
    ];
    let server = Server::start(&iris("1.0.0"), &flags);
    let client = ask(&server, "/predict", &one_flower());
    await_metric(&server, "model_requests_in_flight", 1.0);
    drop(client);
    let closed = r#"model_requests_total{model="iris",model_version="1.0.0",code="499"}"#;
    await_metric(&server, closed, 1.0);
    await_metric(&server, "model_requests_in_flight", 0.0);
    server.terminate();
    let (status, log) = server.wait();
    assert!(status.success());
    let lines: Vec<&String> = log
        .iter()
        .filter(|line| line.contains(r#""path":"/predict""#))
        .collect();
    assert_eq!(lines.len(), 1, "{log:?}");
    let line: Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(
        (&line["status"], &line["bytes_out"]),
        (&json!(499), &json!(0))
    );
}

/// Twelve requests of 64 long texts take turns: many seconds of work, of which next to nothing is
/// done.
#[test]
fn texts_whose_client_went_away_are_not_computed() {
    let Some(model) = minilm() else { return };
    let server = Server::start(&model, &["--batch-tokens", "512"]);
    let long = json!({"instances": vec!["word ".repeat(198); 64]});
    let clients: Vec<TcpStream> = (0..12).map(|_| ask(&server, "/predict", &long)).collect();
    await_metric(&server, "model_requests_waiting", 12.0);
    drop(clients);
    await_metric(&server, "model_requests_abandoned_total", 12.0);
    await_metric(&server, "model_requests_waiting", 0.0);
    await_metric(&server, "model_requests_in_flight", 0.0);
    let closed =
        r#"model_requests_total{model="all-minilm-l6-v2",model_version="1.0.0",code="499"}"#;
    await_metric(&server, closed, 12.0);
    let answer = server.post("/predict", &json!({"instances": ["a text"]}));
    assert_eq!(answer.status, 200);
}

/// It would go on for 30 s, and would then be counted as answered.
#[test]
fn an_explanation_ends_when_its_client_goes_away() {
    let server = Server::start(&explained("wine-perceptron"), &[]);
    let instance = &fixture("explained-wine-perceptron.json")[0]["instance"];
    let body = json!({
        "instances": vec![instance; 64], "permutations": 100_000, "time_limit_ms": 30_000
    });
    let client = ask(&server, "/explain", &body);
    await_metric(&server, "model_explanations_in_progress", 1.0);
    drop(client);
    let abandoned = "model_explanations_total{model=\"wine-perceptron\",\
                     model_version=\"1.0.0\",outcome=\"abandoned\"}";
    await_metric(&server, abandoned, 1.0);
    await_metric(&server, "model_explanations_in_progress", 0.0);
}
