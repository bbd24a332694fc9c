//! Spans on their way to a collector: a small one of ours, which reads them by OpenTelemetry's own
//! messages.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use prost::Message as _;
use serde_json::json;
use tokio::net::TcpSocket;

use crate::embeddings::minilm;
use crate::generation::{Stream, metric, smollm2};
use crate::secure::Front;
use crate::support::{Client, Server, TIMEOUT, iris, one_flower};

/// Spans are sent at once, so that a test need not wait for them.
const SOON: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "10");

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A message as it came.
struct Message {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// A collector that answers its messages in turn, the last answer for all that follow.
struct Collector {
    endpoint: String,
    messages: Receiver<Message>,
}

impl Collector {
    fn start(answers: &[(u16, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (sender, messages) = channel();
        let answers: Vec<_> = answers
            .iter()
            .map(|(code, body)| (*code, body.to_vec()))
            .collect();
        let answers = Arc::new(Mutex::new(answers));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (sender, answers) = (sender.clone(), Arc::clone(&answers));
                thread::spawn(move || receive(stream, &sender, &answers));
            }
        });
        Self { endpoint, messages }
    }

    fn taking_all() -> Self {
        Self::start(&[(200, b"")])
    }

    /// Waits for the spans of that many requests; with the last message that brought some.
    fn requests(&self, count: usize) -> (Vec<Span>, Message) {
        let mut spans = Vec::new();
        loop {
            let message = self.messages.recv_timeout(TIMEOUT).unwrap();
            spans.extend(spans_of(&message.body));
            if servers(&spans) == count {
                return (spans, message);
            }
        }
    }

    /// The spans that came since.
    fn further(&self) -> Vec<Span> {
        let messages = self.messages.try_iter();
        messages
            .flat_map(|message| spans_of(&message.body))
            .collect()
    }
}

fn spans_of(body: &[u8]) -> Vec<Span> {
    let resources = decode(body).resource_spans.into_iter();
    let scopes = resources.flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

/// How many requests these spans are of.
fn servers(spans: &[Span]) -> usize {
    let servers = spans.iter().filter(|span| span.kind() == SpanKind::Server);
    servers.count()
}

/// Reads requests from a connection until it ends. The message is there for the test before its
/// sender has the answer.
fn receive(stream: TcpStream, sender: &Sender<Message>, answers: &Mutex<Vec<(u16, Vec<u8>)>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        assert_eq!(head[0], "POST /v1/traces HTTP/1.1");
        let headers: Vec<(String, String)> = head[1..]
            .iter()
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let header = |name: &str| headers.iter().find(|(found, _)| found == name);
        let length = header("content-length").unwrap().1.parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        let (code, answer) = {
            let mut answers = answers.lock().unwrap();
            match answers.len() {
                1 => answers[0].clone(),
                _ => answers.remove(0),
            }
        };
        sender.send(Message { headers, body }).unwrap();
        let length = answer.len();
        let head =
            format!("HTTP/1.1 {code} x\r\nretry-after: 0\r\ncontent-length: {length}\r\n\r\n");
        let answer = [head.as_bytes(), &answer].concat();
        if stream.get_mut().write_all(&answer).is_err() {
            return;
        }
    }
}

fn decode(body: &[u8]) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest::decode(body).unwrap()
}

/// Attributes as text.
fn attributes(of: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |value: &KeyValue| match value.value.as_ref().unwrap().value.as_ref().unwrap() {
        Any::StringValue(text) => text.clone(),
        Any::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    of.iter()
        .map(|pair| (pair.key.as_str(), text(pair)))
        .collect()
}

/// The span of a request by its name, and the names of its parts in the order in which they began.
fn request<'a>(spans: &'a [Span], name: &str) -> (&'a Span, Vec<&'a str>) {
    let server = spans.iter().find(|span| span.name == name);
    let server = server.unwrap_or_else(|| panic!("no {name} in {spans:?}"));
    assert_eq!(server.kind(), SpanKind::Server);
    let mut parts: Vec<&Span> = spans
        .iter()
        .filter(|span| span.parent_span_id == server.span_id)
        .collect();
    for part in &parts {
        assert_eq!(part.trace_id, server.trace_id);
        assert_eq!(part.kind(), SpanKind::Internal);
        assert!(part.start_time_unix_nano >= server.start_time_unix_nano);
        assert!(part.end_time_unix_nano >= part.start_time_unix_nano);
    }
    parts.sort_by_key(|part| (part.start_time_unix_nano, part.end_time_unix_nano));
    (
        server,
        parts.iter().map(|part| part.name.as_str()).collect(),
    )
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    let pair = |byte: &u8| [digit(byte >> 4), digit(byte & 15)];
    bytes.iter().flat_map(pair).collect()
}

/// Sends SIGTERM and waits: by then all spans are out.
fn end(server: Server) -> Vec<String> {
    server.terminate();
    let (status, log) = server.wait();
    assert!(status.success(), "{log:?}");
    log
}

fn predict(server: &Server, headers: &[(&str, &str)]) -> crate::support::Response {
    let headers = [headers, &[("content-type", "application/json")]].concat();
    let body = one_flower().to_string();
    let mut client = Client::new(server.address);
    client
        .send("POST", "/predict", &headers, body.as_bytes())
        .unwrap()
}

#[test]
fn a_requests_spans_tell_its_times_and_nothing_of_its_payload() {
    let collector = Collector::taking_all();
    let server = Server::start_in(
        &iris("1.0.0"),
        &["--drain-delay", "0s"],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "authorization=Bearer%20hunter2",
            ),
            ("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=iris-0"),
            SOON,
        ],
    );
    let answer = predict(&server, &[("traceparent", PARENT)]);
    let response = answer.header("traceresponse").unwrap().to_owned();
    let unsampled = PARENT.replace("-01", "-00");
    let answer = predict(&server, &[("traceparent", &unsampled)]);
    assert!(answer.header("traceresponse").unwrap().ends_with("-00"));
    let begun = server.post("/v2/models/iris/infer", &json!({"inputs": []}));
    assert_eq!(begun.status, 400);
    assert!(begun.header("traceresponse").unwrap().ends_with("-01"));
    assert_eq!(server.get("/nowhere/secret").status, 404);
    assert_eq!(server.get("/readyz").status, 200);
    let (spans, message) = collector.requests(3);
    let log = end(server);
    assert!(!log.join("\n").contains("hunter2"), "{log:?}");
    // The request whose caller does not record, and the probes, left nothing.
    assert_eq!(collector.further(), []);

    let header = |name: &str| message.headers.iter().find(|(found, _)| found == name);
    assert_eq!(header("authorization").unwrap().1, "Bearer hunter2");
    assert_eq!(header("content-type").unwrap().1, "application/x-protobuf");
    let exported = format!("{spans:?}");
    for secret in ["sepal", "setosa", "5.1"] {
        assert!(!exported.contains(secret), "{secret} is exported");
    }
    let export = decode(&message.body);
    let [resource] = &export.resource_spans[..] else {
        panic!("{export:?}");
    };
    let own = attributes(&resource.resource.as_ref().unwrap().attributes);
    assert_eq!(own["service.name"], "iris");
    assert_eq!(own["service.version"], "1.0.0");
    assert_eq!(own["k8s.pod.name"], "iris-0");
    let spans = &spans[..];

    let (server, parts) = request(spans, "POST /predict");
    assert_eq!(parts, ["preprocess", "forward", "render"]);
    assert_eq!(hex(&server.trace_id), PARENT[3..35]);
    assert_eq!(hex(&server.parent_span_id), PARENT[36..52]);
    let expected = format!("00-{}-{}-01", &PARENT[3..35], hex(&server.span_id));
    assert_eq!(response, expected);
    assert_eq!(server.status, None);
    let found = attributes(&server.attributes);
    let body = one_flower().to_string().len().to_string();
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/predict"),
        ("url.path", "/predict"),
        ("url.scheme", "http"),
        ("http.response.status_code", "200"),
        ("http.request.body.size", body.as_str()),
        ("model.name", "iris"),
        ("model.version", "1.0.0"),
    ] {
        assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
    }
    let last = spans.iter().find(|span| span.name == "render").unwrap();
    assert!(last.end_time_unix_nano <= server.end_time_unix_nano);

    let (v2, _) = request(spans, "POST /v2/models/{model}/infer");
    assert_eq!(
        attributes(&v2.attributes)["http.response.status_code"],
        "400"
    );
    assert!(v2.parent_span_id.is_empty());
    let (unknown, parts) = request(spans, "GET");
    assert_eq!(
        (
            attributes(&unknown.attributes).get("http.route"),
            parts.len()
        ),
        (None, 0)
    );
}

#[test]
fn texts_tell_how_they_waited_and_with_whom_they_were_computed() {
    let Some(model) = minilm() else { return };
    let collector = Collector::taking_all();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str());
    let server = Server::start_in(&model, &[], &[endpoint, SOON]);
    let body = json!({"input": ["hunter2 is my password", "and this is another"]});
    assert_eq!(server.post("/v1/embeddings", &body).status, 200);
    let (spans, _) = collector.requests(1);
    let (_, parts) = request(&spans, "POST /v1/embeddings");
    // Each of the three steps waits for its thread.
    assert_eq!(
        parts,
        ["queue", "preprocess", "queue", "forward", "queue", "render"]
    );
    let forward = spans.iter().find(|span| span.name == "forward").unwrap();
    let found = attributes(&forward.attributes);
    assert_eq!(
        (found["texts"].as_str(), found["batch.texts"].as_str()),
        ("2", "2")
    );
    assert!(found["batch.tokens"].parse::<u64>().unwrap() > 8);
    assert!(!format!("{spans:?}").contains("hunter2"));
}

#[test]
fn generated_texts_tell_prompt_and_tokens_also_when_streamed() {
    let Some(model) = smollm2() else { return };
    let collector = Collector::taking_all();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str());
    let server = Server::start_in(&model, &[], &[endpoint, SOON]);
    let body = json!({"prompt": "The capital of hunter2", "max_tokens": 5, "stream": true,
        "temperature": 0});
    let (status, stream) = Stream::open(server.address, "/v1/completions", &body);
    assert_eq!(status, 200);
    assert!(stream.rest().1);
    let (spans, _) = collector.requests(1);
    let (server, parts) = request(&spans, "POST /v1/completions");
    assert_eq!(parts, ["queue", "preprocess", "queue", "prompt", "tokens"]);
    let found = attributes(&server.attributes);
    assert_eq!(found["gen_ai.usage.output_tokens"], "5");
    let tokens = |name: &str| {
        let part = spans.iter().find(|span| span.name == name).unwrap();
        attributes(&part.attributes)["tokens"].clone()
    };
    assert_eq!(tokens("tokens"), "5");
    assert_eq!(tokens("prompt"), found["gen_ai.usage.input_tokens"]);
    assert!(!format!("{spans:?}").contains("hunter2"));
}

/// Spans that are lost, by all reasons together.
fn dropped(server: &Server) -> f64 {
    let lost = ["queue", "collector", "rejected"].map(|reason| {
        let series = format!("model_spans_dropped_total{{reason=\"{reason}\"}}");
        metric(server, &series)
    });
    lost.iter().sum()
}

fn await_count(what: &str, expected: f64, count: impl Fn() -> f64) {
    let deadline = std::time::Instant::now() + TIMEOUT;
    while (count() - expected).abs() > 0.5 {
        let now = std::time::Instant::now();
        assert!(now < deadline, "{what}: {} instead of {expected}", count());
        thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_collector_that_is_down_disturbs_nobody_and_what_is_lost_is_counted() {
    // Bound, so that no other process gets the port, and never listened on.
    let unused = TcpSocket::new_v4().unwrap();
    unused.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = format!("http://{}", unused.local_addr().unwrap());
    let server = Server::start_in(
        &iris("1.0.0"),
        &["--drain-delay", "0s"],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "40"),
            SOON,
            ("OTEL_BSP_EXPORT_TIMEOUT", "100"),
        ],
    );
    for _ in 0..50 {
        assert_eq!(predict(&server, &[]).status, 200);
    }
    await_count("lost spans", 200.0, || dropped(&server));
    assert!(metric(&server, "model_spans_exported_total").abs() < 0.5);
    let log = end(server).join("\n");
    assert_eq!(log.matches("spans are lost").count(), 1, "{log}");
}

#[test]
fn a_collector_that_hangs_does_not_keep_the_process_from_ending() {
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", hanging.local_addr().unwrap());
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
    let server = Server::start_in(&iris("1.0.0"), &["--drain-delay", "0s"], &variables);
    assert_eq!(predict(&server, &[]).status, 200);
    let log = end(server).join("\n");
    assert!(log.contains("the last spans are lost"), "{log}");
    assert!(log.contains("shutdown complete"), "{log}");
}

#[test]
fn trouble_that_passes_loses_nothing_and_rejected_spans_are_counted() {
    let some = ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: 3,
            error_message: "too old".into(),
        }),
    };
    let some = some.encode_to_vec();
    let collector = Collector::start(&[(503, b"busy"), (200, &some), (400, b"no")]);
    let server = Server::start_in(
        &iris("1.0.0"),
        &[
            "--drain-delay",
            "0s",
            "--test-faults",
            "--test-error-share",
            "1",
        ],
        &[
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                &format!("{}/v1/traces", collector.endpoint),
            ),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            SOON,
        ],
    );
    let wrong = |path: &str| server.post(path, &json!({"instances": 1})).status;
    assert_eq!(wrong("/predict"), 500);
    let mut messages: Vec<Message> = Vec::new();
    for _ in 0..2 {
        messages.push(collector.messages.recv_timeout(TIMEOUT).unwrap());
    }
    assert_eq!(messages[0].body, messages[1].body);
    let encoding = messages[0]
        .headers
        .iter()
        .find(|(name, _)| name == "content-encoding");
    assert_eq!(encoding.unwrap().1, "gzip");
    let mut body = Vec::new();
    flate2::read::GzDecoder::new(&messages[0].body[..])
        .read_to_end(&mut body)
        .unwrap();
    let export = decode(&body);
    let spans = &export.resource_spans[0].scope_spans[0].spans;
    let (failed, _) = request(spans, "POST /predict");
    assert_eq!(failed.status.as_ref().unwrap().code(), StatusCode::Error);
    assert_eq!(attributes(&failed.attributes)["error.type"], "500");
    // The one span was taken with three rejections: it counts as rejected, and as nothing else.
    await_count("rejected", 1.0, || dropped(&server));
    assert!(metric(&server, "model_spans_exported_total").abs() < 0.5);
    // What is refused for good is not sent again.
    assert_eq!(wrong("/predict"), 500);
    await_count("lost", 2.0, || dropped(&server));
    end(server);
    assert_eq!(collector.messages.try_iter().count(), 1);
}

#[test]
fn an_encrypted_collector_is_verified_by_the_authority_that_is_named() {
    let collector = Collector::taking_all();
    let behind = collector.endpoint.strip_prefix("http://").unwrap();
    let front = Front::start(behind.parse().unwrap());
    let authority = front.authority();
    let known = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", front.url.as_str()),
        (
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            authority.to_str().unwrap(),
        ),
        SOON,
    ];
    let server = Server::start_in(&iris("1.0.0"), &[], &known);
    assert_eq!(predict(&server, &[]).status, 200);
    assert_eq!(collector.requests(1).0.len(), 4);

    let unknown = [known[0], SOON];
    let server = Server::start_in(&iris("1.0.0"), &["--drain-delay", "0s"], &unknown);
    assert_eq!(predict(&server, &[]).status, 200);
    end(server);
    assert_eq!(collector.further(), []);
}

#[test]
fn what_is_not_spoken_is_said_and_the_model_is_served() {
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ];
    let server = Server::start_in(&iris("1.0.0"), &["--drain-delay", "0s"], &variables);
    assert_eq!(predict(&server, &[]).status, 200);
    assert!(!server.get("/metrics").text().contains("model_spans"));
    let log = end(server).join("\n");
    assert!(log.contains("only http/protobuf is spoken"), "{log}");
}
