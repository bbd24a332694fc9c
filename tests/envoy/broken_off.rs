//! Answers that break off are errors of the version: each is counted once, and nothing else is.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};
use serin::{
    evidence::{Cursors, Tally, Versions},
    observe::metrics::{Client, Objective, Question, Source, read},
    router::envoy::{Backend, ModelRoute, RouterModel},
};
use testkit::free_port;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    envoy_or_skip,
    harness::{Envoy, Plane, key, wait},
};

const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
const HALF_IN_CHUNKS: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
/// Longer than the model's timeout.
const FOREVER: Duration = Duration::from_secs(60);

/// How the model's connection ends after its answer.
#[derive(Clone, Copy)]
enum End {
    Reset,
    Close,
    Stay,
}

/// What the model answers, how its connection ends, and when the client hangs up.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    answer: &'static str,
    end: End,
    client_leaves: Option<Duration>,
    /// Requests that count, and bad ones.
    counted: (u64, u64),
}

const fn case(name: &'static str, answer: &'static str, end: End, counted: (u64, u64)) -> Case {
    Case {
        name,
        answer,
        end,
        client_leaves: None,
        counted,
    }
}

const fn client_leaves(name: &'static str, answer: &'static str) -> Case {
    let counted = (if answer.is_empty() { 0 } else { 1 }, 0);
    Case {
        client_leaves: Some(Duration::from_millis(300)),
        ..case(name, answer, End::Stay, counted)
    }
}

const CASES: [Case; 17] = [
    case("whole", WHOLE, End::Stay, (1, 0)),
    case("whole, then a reset", WHOLE, End::Reset, (1, 0)),
    case("half, then a reset", HALF, End::Reset, (1, 1)),
    case("half, then a close", HALF, End::Close, (1, 1)),
    case("chunks, then a reset", HALF_IN_CHUNKS, End::Reset, (1, 1)),
    case("chunks, then a close", HALF_IN_CHUNKS, End::Close, (1, 1)),
    case(
        "chunks that are none",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
        End::Stay,
        (1, 1),
    ),
    case("half until the timeout", HALF, End::Stay, (1, 1)),
    case("nothing until the timeout", "", End::Stay, (1, 1)),
    case("a reset before the headers", "", End::Reset, (1, 1)),
    case("a close before the headers", "", End::Close, (1, 1)),
    case(
        "half a 500, then a reset",
        "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 9\r\n\r\nhalf",
        End::Reset,
        (1, 1),
    ),
    case(
        "half a 404, then a reset",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nhalf",
        End::Reset,
        (1, 1),
    ),
    case(
        "half a 429, then a reset",
        "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 9\r\n\r\nhalf",
        End::Reset,
        (0, 0),
    ),
    case(
        "a body that ends with its connection",
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nwhole",
        End::Close,
        (1, 0),
    ),
    client_leaves("the client leaves before the headers", ""),
    client_leaves("the client leaves in mid-answer", HALF_IN_CHUNKS),
];

/// A model server that answers each request as the case of the number in its path says.
async fn start_model() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(serve(connection));
        }
    });
    address
}

async fn serve(mut connection: TcpStream) {
    loop {
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            let Ok(byte) = connection.read_u8().await else {
                return;
            };
            request.push(char::from(byte));
        }
        let number = request.split(['/', ' ']).nth(2).unwrap();
        let case = CASES[number.parse::<usize>().unwrap()];
        let _ = connection.write_all(case.answer.as_bytes()).await;
        // The router has read the answer before the connection ends.
        tokio::time::sleep(Duration::from_millis(100)).await;
        match case.end {
            End::Reset => return connection.set_zero_linger().unwrap(),
            End::Close => return,
            End::Stay if case.answer == WHOLE => {}
            End::Stay => {
                let _ = tokio::time::timeout(FOREVER, connection.read_u8()).await;
                return;
            }
        }
    }
}

/// One request, on a connection of its own, to its end.
async fn ask(port: u16, number: usize) {
    let mut router = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    let request = format!("GET /{number} HTTP/1.1\r\nhost: model\r\nconnection: close\r\n\r\n");
    router.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let timeout = CASES[number].client_leaves.unwrap_or(FOREVER);
    let _ = tokio::time::timeout(timeout, router.read_to_end(&mut answer)).await;
}

/// What the evidence says of the version between two pages of the router's metrics.
async fn counted(before: &str, after: &str) -> Tally {
    let (first_ms, last_ms) = (1_700_000_000_000, 1_700_000_001_000);
    let mut series = vec![json!({
        "metric": labelled("up", ""),
        "values": [[first_ms / 1000, "1"], [last_ms / 1000, "1"]],
    })];
    let before: BTreeMap<&str, &str> = before.lines().filter_map(|l| l.rsplit_once(' ')).collect();
    for (name, value) in after.lines().filter_map(|line| line.rsplit_once(' ')) {
        let Some((metric, labels)) = name.split_once('{') else {
            continue;
        };
        if !metric.starts_with("envoy_cluster_upstream_rq") {
            continue;
        }
        let earlier = before
            .get(name)
            .map(|value| json!([first_ms / 1000, value]));
        let values: Vec<Value> = earlier
            .into_iter()
            .chain([json!([last_ms / 1000, value])])
            .collect();
        series.push(json!({"metric": labelled(metric, labels), "values": values}));
    }
    let versions = Versions {
        namespace: "ml".into(),
        name: "churn".into(),
        canary: "aaaaaaaa".into(),
        stable: "bbbbbbbb".into(),
    };
    let question = Question {
        source: Source::Envoy {
            namespace: "serin-system".into(),
            deployment: "serin-router".into(),
        },
        versions,
        objective: Objective::ErrorRate,
        scrape_interval: Duration::from_secs(1),
    };
    let client = Client::over(
        "a page".to_owned(),
        Arc::new(move |query, _| {
            // As Prometheus does: only what is asked for.
            let asked: Vec<_> = series
                .iter()
                .filter(|series| is_asked(&query, &series["metric"]))
                .collect();
            let data = json!({"resultType": "matrix", "result": asked});
            let body = json!({"status": "success", "data": data}).to_string();
            Box::pin(async move { Ok(http::Response::new(body).into()) })
        }),
    );
    let start = Cursors::starting_at(first_ms);
    let now = Timestamp::from_millisecond(last_ms).unwrap();
    let window = read(&client, &question, &start, None, now).await.unwrap();
    window.look.canary
}

fn labelled(metric: &str, labels: &str) -> Value {
    let mut all = json!({"__name__": metric, "instance": "a", "namespace": "serin-system",
        "pod": "serin-router-5d8f-aaaaa"});
    for (label, value) in labels
        .trim_end_matches('}')
        .split(',')
        .filter_map(|pair| pair.split_once('='))
    {
        all[label] = json!(value.trim_matches('"'));
    }
    all
}

/// Whether the query's list of metrics has this one, with the code 429 or none.
fn is_asked(query: &str, metric: &Value) -> bool {
    let names = query.split('"').nth(1).unwrap();
    let code = metric["envoy_response_code"].as_str();
    let name = metric["__name__"].as_str().unwrap();
    names.split('|').any(|asked| asked == name) && code.is_none_or(|code| code == "429")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_answer_that_breaks_off_is_one_bad_request() {
    let binary = envoy_or_skip!();
    let (xds, port) = (free_port(), free_port());
    let plane = Plane::start(xds);
    let router = Envoy::start(&binary, "router-1", xds);
    let route = ModelRoute {
        port,
        backends: vec![Backend {
            revision: "aaaaaaaa".to_owned(),
            weight: 100,
            endpoints: vec![start_model().await],
        }],
        timeout: Duration::from_secs(2),
    };
    let model = RouterModel {
        routes: BTreeMap::from([(key("churn"), route)]),
    };
    plane.publish_acknowledged(&model, "churn").await;
    router.wait_ready().await;

    let start = router.metrics().await;
    let mut before = start.clone();
    let mut all = Tally::default();
    for (number, case) in CASES.iter().enumerate() {
        ask(port, number).await;
        let (requests, bad) = case.counted;
        let expected = Tally::new(requests, bad);
        let mut seen = Tally::default();
        // What must count nothing gets a moment in which it could.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let name = case.name;
        wait(&format!("{name}: counted as {expected:?}"), async || {
            let after = router.metrics().await;
            seen = counted(&before, &after).await;
            let as_expected = seen == expected;
            if as_expected {
                before = after;
            } else {
                println!("{name}: {seen:?}");
            }
            as_expected
        })
        .await;
        all.requests += requests;
        all.bad += bad;
    }
    assert_eq!(counted(&start, &router.metrics().await).await, all);
}
