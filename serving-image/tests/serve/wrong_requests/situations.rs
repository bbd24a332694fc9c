//! Wrong categories, and requests that the server cannot answer now, each on a server of its own.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cases::{Case, Expected, SECRET, bare, infer, invalid, predict, problem, with};
use super::row;
use crate::artefact::iris_that_loads_for_ever;
use crate::support::{Server, TIMEOUT, explained, fixture, iris, one_flower};

/// The rows of the document's second table.
pub fn rows() -> String {
    [
        categories(),
        faulty(),
        loading(),
        full(),
        late(),
        draining(),
    ]
    .concat()
}

fn table(server: &Server, cases: &[Case]) -> String {
    cases.iter().map(|case| row(server, case)).collect()
}

fn flower() -> String {
    predict(&one_flower().to_string())
}

fn tensor() -> String {
    infer(
        &json!({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5,
        1.4, 0.2]}]})
        .to_string(),
    )
}

fn v2(name: &'static str, request: String, status: u16, expected: &str) -> Case {
    let expected = Expected::V2(vec![expected.to_owned()]);
    Case {
        name,
        request,
        status,
        expected,
    }
}

fn categories() -> String {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    let server = Server::start(&models.join("passengers-logistic"), &[]);
    let passenger = |changed: &str, value: Value| {
        let mut passenger =
            json!({"age": 34, "fare": 16, "class": 3, "meal": "none", "port": "Cherbourg"});
        passenger[changed] = value;
        predict(&json!({"instances": [passenger]}).to_string())
    };
    let wrong =
        |name, request, field: &str| invalid(name, request, &[&format!("/instances/0/{field}")]);
    table(
        &server,
        &[
            wrong(
                "a category that there is not",
                passenger("meal", json!(SECRET)),
                "meal",
            ),
            wrong(
                "a category in capitals",
                passenger("meal", json!("Small")),
                "meal",
            ),
            wrong(
                "a number for a category",
                passenger("meal", json!(4711)),
                "meal",
            ),
            wrong(
                "null for a required category",
                passenger("meal", Value::Null),
                "meal",
            ),
            wrong(
                "no text for a category that may be missing",
                passenger("port", json!("")),
                "port",
            ),
            wrong(
                "a class that there is not",
                passenger("class", json!(4)),
                "class",
            ),
            wrong(
                "a fraction of a class",
                passenger("class", json!(2.5)),
                "class",
            ),
        ],
    )
}

fn faulty() -> String {
    let flags = ["--test-faults", "--test-error-share", "1"];
    let server = Server::start(&iris("1.0.0"), &flags);
    table(
        &server,
        &[
            problem("a fault that was asked for", flower(), 500, "test-fault"),
            v2(
                "V2: a fault that was asked for",
                tensor(),
                500,
                "test facility",
            ),
        ],
    )
}

fn loading() -> String {
    let (directory, _pipe) = iris_that_loads_for_ever();
    let server = Server::launch(directory.path(), &[]);
    table(
        &server,
        &[
            problem(
                "a prediction while the model loads",
                flower(),
                503,
                "loading",
            ),
            v2(
                "V2: a prediction while the model loads",
                tensor(),
                503,
                "loaded",
            ),
            problem(
                "the readiness probe while it loads",
                bare("GET", "/readyz"),
                503,
                "loading",
            ),
        ],
    )
}

/// One explanation is computed for as long as 30 s, four wait: of eight, three are refused at once.
fn full() -> String {
    let server = Server::start(&explained("wine-perceptron"), &[]);
    let cases = fixture("explained-wine-perceptron.json");
    let instance = &cases[0]["instance"];
    let body = json!({
        "instances": vec![instance; 64], "permutations": 100_000, "time_limit_ms": 30_000
    });
    let request = with(
        "/explain",
        "content-type: application/json\r\n",
        &body.to_string(),
    );
    let waiting: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_millis(10)))
                .unwrap();
            stream
        })
        .collect();
    let deadline = Instant::now() + TIMEOUT;
    while !waiting
        .iter()
        .any(|mut stream| stream.read(&mut [0]).is_ok())
    {
        assert!(Instant::now() < deadline, "none was refused");
    }
    let case = problem("an explanation when four wait", request, 429, "overloaded");
    table(&server, &[case])
}

/// The handler sleeps for an hour, so it is late on any machine.
fn late() -> String {
    let flags = [
        "--deadline",
        "20ms",
        "--test-faults",
        "--test-latency",
        "60m",
    ];
    let server = Server::start(&iris("1.0.0"), &flags);
    let timed = |time: &str| {
        let headers = format!("content-type: application/json\r\nx-request-timeout-ms: {time}\r\n");
        with("/predict", &headers, &one_flower().to_string())
    };
    table(
        &server,
        &[
            problem(
                "past the server's deadline",
                flower(),
                504,
                "deadline-exceeded",
            ),
            v2(
                "V2: past the server's deadline",
                tensor(),
                504,
                "within 20 ms",
            ),
            problem(
                "past the deadline of its header",
                timed("1"),
                504,
                "deadline-exceeded",
            ),
            problem(
                "a deadline that is no number",
                timed(SECRET),
                400,
                "invalid-timeout",
            ),
            problem("a deadline of nothing", timed("0"), 400, "invalid-timeout"),
        ],
    )
}

fn draining() -> String {
    let server = Server::start(&iris("1.0.0"), &["--drain-delay", "60m"]);
    server.terminate();
    let deadline = Instant::now() + TIMEOUT;
    while server.get("/readyz").status == 200 {
        assert!(Instant::now() < deadline);
    }
    let probe = bare("GET", "/readyz");
    let rows = table(
        &server,
        &[problem(
            "the readiness probe after SIGTERM",
            probe,
            503,
            "draining",
        )],
    );
    let ready = server.get("/v2/health/ready");
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json(), json!({"live": false, "ready": false}));
    assert_eq!(server.get("/v2/models/iris/ready").status, 503);
    assert_eq!(server.post("/predict", &one_flower()).status, 200);
    rows
}
