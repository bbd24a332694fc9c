//! `serin-serve bench` against a real server.

use std::fs;
use std::net::SocketAddr;
use std::process::Output;

use serde_json::{Value, json};

use crate::secure::Front;
use crate::support::{Server, iris, one_flower, serin_serve};

fn bench(address: SocketAddr, args: &[&str]) -> Output {
    let url = format!("http://{address}");
    serin_serve(&["bench", &url]).args(args).output().unwrap()
}

/// The findings of a load test that ends with this exit code.
fn findings(address: SocketAddr, args: &[&str], code: i32) -> Value {
    let ended = bench(address, &[args, &["--output", "json"]].concat());
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(code), "{said}");
    serde_json::from_slice(&ended.stdout).unwrap()
}

fn answered(server: &Server, code: u16) -> u64 {
    let series =
        format!("model_requests_total{{model=\"iris\",model_version=\"1.0.0\",code=\"{code}\"}} ");
    let metrics = server.get("/metrics");
    let count = metrics
        .text()
        .lines()
        .find_map(|line| line.strip_prefix(&series));
    count.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn every_request_that_is_due_is_sent_and_counted() {
    let server = Server::start(&iris("1.0.0"), &[]);
    let args = [
        "--arrivals",
        "constant",
        "--rates",
        "50,200",
        "--duration",
        "2s",
        "--warm-up",
        "500ms",
    ];
    let found = findings(server.address, &args, 0);
    let steps = found["steps"].as_array().unwrap();
    let count = |step: usize, name: &str| steps[step][name].as_u64().unwrap();
    assert_eq!((count(0, "requests"), count(1, "requests")), (100, 400));
    assert_eq!(
        (&steps[0]["outcomes"], &steps[1]["outcomes"]),
        (&json!({"200": 100}), &json!({"200": 400}))
    );
    assert_eq!(steps[1]["latency"]["count"], 400);
    assert!(
        steps[1]["latency"]["percentiles_ms"]["p95"]
            .as_f64()
            .unwrap()
            > 0.0
    );
    assert_eq!(
        steps[1]["latency"]["percentiles_ms"]["p99.9"],
        Value::Null,
        "400 samples tell no p99.9"
    );
    // Warm-ups are sent as well: the server's own count is the proof.
    assert_eq!(answered(&server, 200), 125 + 500);
    // It says against what it ran.
    assert_eq!(
        (&found["server"]["model"], &found["same_machine"]),
        (&json!("iris"), &json!(true))
    );
    assert_eq!(
        found["server"]["digest"],
        server.get("/version").json()["digest"]
    );
    assert_eq!(found["requests"], "256 made from /openapi.json");
}

#[test]
fn people_come_at_random_with_what_a_file_or_the_model_gives_them() {
    let server = Server::start(&iris("1.0.0"), &[]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bodies.jsonl");
    fs::write(
        &file,
        format!("{}\n\n{{\"instances\": []}}\n", one_flower()),
    )
    .unwrap();
    let common = ["--rate", "150", "--duration", "2s", "--warm-up", "0ms"];
    let found = findings(
        server.address,
        &[&common[..], &["--requests", file.to_str().unwrap()]].concat(),
        0,
    );
    let outcomes = &found["steps"][0]["outcomes"];
    let (good, refused) = (
        outcomes["200"].as_u64().unwrap(),
        outcomes["422"].as_u64().unwrap(),
    );
    assert!(
        (200..400).contains(&(good + refused)) && good.abs_diff(refused) <= 1,
        "{outcomes}"
    );
    assert_eq!(
        found["steps"][0]["latency"]["count"], good,
        "refusals have no say in the latency"
    );

    let model = iris("1.0.0");
    let found = findings(
        server.address,
        &[
            &common[..],
            &["--model-dir", model.to_str().unwrap(), "--instances", "7"],
        ]
        .concat(),
        0,
    );
    assert_eq!(found["steps"][0]["errors"], 0);
    assert!(
        found["requests"]
            .as_str()
            .unwrap()
            .starts_with("5 made from the golden examples")
    );
}

/// One connection and 50 ms an answer are 20 answers a second. At 60 a second the queue grows, and
/// a closed loop would not notice.
#[test]
fn a_server_that_cannot_keep_up_is_charged_for_the_wait() {
    let server = Server::start(&iris("1.0.0"), &["--test-faults", "--test-latency", "50ms"]);
    let args = [
        "--arrivals",
        "constant",
        "--rate",
        "60",
        "--duration",
        "2s",
        "--warm-up",
        "0ms",
        "--connections",
        "1",
        "--timeout",
        "60s",
    ];
    let found = findings(server.address, &args, 0);
    let step = &found["steps"][0];
    let p50 = |of: &str| step[of]["percentiles_ms"]["p50"].as_f64().unwrap();
    assert_eq!(
        (&step["requests"], &step["errors"]),
        (&json!(120), &json!(0))
    );
    assert!(
        p50("service") >= 50.0 && p50("latency") > 10.0 * p50("service"),
        "{step}"
    );
    assert!(
        (p50("latency") - p50("service") - p50("delay")).abs() < 0.3 * p50("latency"),
        "{step}"
    );

    // The same with little patience: what waits too long is given up, and counts.
    let args = [
        "--arrivals",
        "constant",
        "--rate",
        "60",
        "--duration",
        "2s",
        "--warm-up",
        "0ms",
        "--connections",
        "1",
        "--timeout",
        "300ms",
    ];
    let step = &findings(server.address, &args, 0)["steps"][0];
    assert!(
        step["outcomes"]["timed out"].as_u64().unwrap() > 30,
        "{step}"
    );
    assert!(
        step["latency"]["percentiles_ms"]["p90"].as_f64().unwrap() >= 299.0,
        "{step}"
    );
}

#[test]
fn objectives_decide_the_exit_code() {
    let server = Server::start(
        &iris("1.0.0"),
        &[
            "--test-faults",
            "--test-error-share",
            "0.5",
            "--test-latency",
            "30ms",
        ],
    );
    let common = [
        "--rate",
        "100",
        "--duration",
        "3s",
        "--warm-up",
        "0ms",
        "--max-p50",
    ];
    let run = |objectives: &[&str], code| {
        findings(server.address, &[&common[..], objectives].concat(), code)
    };
    let held = |found: &Value| -> Vec<bool> {
        found["objectives"]
            .as_array()
            .unwrap()
            .iter()
            .map(|objective| objective["held"].as_bool().unwrap())
            .collect()
    };
    assert_eq!(
        held(&run(&["10s", "--max-error-rate", "90%"], 0)),
        [true, true]
    );
    assert_eq!(
        held(&run(&["10ms", "--max-error-rate", "90%"], 3)),
        [false, true]
    );
    assert_eq!(
        held(&run(&["10s", "--max-error-rate", "5%"], 3)),
        [true, false]
    );
    // What was not measured was not held.
    assert_eq!(held(&run(&["10s", "--max-p999", "10s"], 3)), [true, false]);
}

#[test]
fn a_report_is_one_page_that_needs_nothing_beside_it() {
    let server = Server::start(&iris("1.0.0"), &[]);
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("report.html");
    let args = [
        "--rates",
        "100,300",
        "--duration",
        "2s",
        "--max-p95",
        "5s",
        "--soak",
        "--report",
        page.to_str().unwrap(),
    ];
    let ended = bench(server.address, &args);
    assert!(ended.status.success());
    let text = String::from_utf8(ended.stdout).unwrap();
    for expected in [
        "iris 1.0.0, sha256:",
        "poisson arrivals",
        " MiB in the first quarter, ",
        "held   p95 ≤ 5000 ms at 300/s",
        "note: The server runs on the machine",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    let page = fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(
        page.matches("<polyline").count() >= 2 + 2 * 2,
        "two rates by percentile, two lines over time each"
    );
    for foreign in ["<script", "<link", "<img", "url(", "src=", "href="] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

#[test]
fn what_cannot_be_asked_says_why() {
    let server = Server::start(&iris("1.0.0"), &[]);
    let said = |ended: Output| {
        (
            ended.status.code(),
            String::from_utf8(ended.stderr).unwrap(),
        )
    };
    let (code, text) = said(serin_serve(&["bench", "ftp://localhost"]).output().unwrap());
    assert!(
        code == Some(2) && text.contains("must start with http:// or https://"),
        "{text}"
    );
    let (code, text) = said(bench(server.address, &["--path", "/nowhere"]));
    assert!(
        code == Some(2) && text.contains("give some with --requests"),
        "{text}"
    );
    let address = server.address;
    drop(server);
    let (code, text) = said(bench(address, &[]));
    assert!(
        code == Some(4) && text.contains("cannot be reached"),
        "{text}"
    );
}

#[test]
fn an_encrypted_server_is_verified_and_asked_the_same() {
    let server = Server::start(&iris("1.0.0"), &[]);
    let front = Front::start(server.address);
    let authority = front.authority();
    let rate = ["--rate", "50", "--duration", "2s", "--warm-up", "0ms"];
    let rate = [&rate[..], &["--arrivals", "constant"]].concat();
    let bench = |args: &[&str]| {
        let mut command = serin_serve(&["bench", &front.url, "--output", "json"]);
        let ended = command.args(&rate).args(args).output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        (ended.status.code(), ended.stdout, said)
    };
    let (code, found, said) = bench(&["--cacert", authority.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let found: Value = serde_json::from_slice(&found).unwrap();
    assert_eq!(found["steps"][0]["outcomes"], json!({"200": 100}));
    assert_eq!(found["url"], format!("{}/predict", front.url));
    assert_eq!(found["server"]["model"], "iris");
    assert_eq!(answered(&server, 200), 100);

    // The system's authorities alone do not know it; a machine without any trusts none.
    let (code, _, said) = bench(&[]);
    let unknown = code == Some(4) && said.contains("certificate");
    assert!(
        unknown || code == Some(2) && said.contains("cannot trust"),
        "{said}"
    );
    let (code, _, said) = bench(&["--cacert", "/nowhere/ca.pem"]);
    assert!(
        code == Some(2) && said.contains("/nowhere/ca.pem"),
        "{said}"
    );
}
