//! Prometheus: the transport under the operator's real metrics client, with all faults of its
//! answers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use http_body_util::StreamBody;
use jiff::{Timestamp, fmt::rfc2822};
use serde::Serialize;
use serde_json::json;
use serin::observe::metrics::{Client, Transport};

use crate::{
    invariants,
    model_ref::IRIS,
    promql::{Data, Query},
    wire::Process,
    world::{EPOCH_MS, World},
};

/// A fault of Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Illness {
    /// The connection is refused.
    Down,
    /// Answers after this many seconds.
    Slow(u64),
    /// Sends only headers.
    Hanging,
    /// Sends without end.
    Endless,
    /// Answers with this status.
    Status(u16),
    /// One sample is no number.
    NotANumber(&'static str),
    /// Knows no series.
    Empty,
    /// Answers with another type of result.
    WrongType(&'static str),
    /// Scrapes nothing.
    Stale,
    /// Each series twice, under one `instance`.
    Twice,
    /// Data may be missing.
    Warns,
    /// Not JSON at all.
    Html,
    /// Has no latencies, everything else is healthy.
    OneUnknown,
}

impl Illness {
    /// The illnesses of faults.md 36 to 38, 40, 42 and 43.
    pub const ALL: [Self; 18] = [
        Self::Down,
        Self::Slow(4),
        Self::Slow(7),
        Self::Hanging,
        Self::Endless,
        Self::Status(401),
        Self::Status(302),
        Self::Status(422),
        Self::Status(503),
        Self::NotANumber("NaN"),
        Self::NotANumber("+Inf"),
        Self::NotANumber("-Inf"),
        Self::Empty,
        Self::WrongType("scalar"),
        Self::WrongType("string"),
        Self::Stale,
        Self::Twice,
        Self::Warns,
    ];

    /// The rest of them.
    pub const MORE: [Self; 2] = [Self::Html, Self::OneUnknown];

    /// Whether decisions may still be taken on what it answers.
    fn is_bearable(self) -> bool {
        matches!(self, Self::Slow(seconds) if seconds < 5)
    }
}

/// The metrics client of one process.
pub fn client(world: Arc<World>, process: Arc<Process>) -> Client {
    let transport: Transport =
        Arc::new(move |query, at| answer(world.clone(), process.clone(), query, at).boxed());
    Client::over("world".to_owned(), transport)
}

async fn answer(
    world: Arc<World>,
    process: Arc<Process>,
    query: String,
    at: Timestamp,
) -> Result<reqwest::Response, String> {
    if process.killed.is_cancelled() {
        return std::future::pending().await;
    }
    let (illness, latency, panics) = world.with(|state| {
        let faults = &mut state.faults;
        let panics = IRIS.is_asked_for(&query) && faults.panics();
        (faults.illness(), faults.latency(), panics)
    });
    if panics {
        // Without the hook, which would print it.
        std::panic::resume_unwind(Box::new("a panic in the middle of a reconcile"));
    }
    tokio::time::sleep(latency).await;
    match illness {
        Some(Illness::Down) => return Err("connection refused".to_owned()),
        Some(Illness::Slow(seconds)) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        Some(Illness::Hanging) => {
            let silence = StreamBody::new(futures::stream::pending::<
                Result<http_body::Frame<Bytes>, std::io::Error>,
            >());
            return Ok(http::Response::new(reqwest::Body::wrap(silence)).into());
        }
        Some(Illness::Endless) => {
            let megabyte = Bytes::from(vec![b' '; 1 << 20]);
            let flood = futures::stream::repeat(megabyte)
                .map(|bytes| Ok::<_, std::io::Error>(http_body::Frame::data(bytes)));
            return Ok(http::Response::new(reqwest::Body::wrap(StreamBody::new(flood))).into());
        }
        _ => {}
    }
    let (code, answer, clock) = world.with(|state| {
        let clock = Timestamp::from_millisecond(EPOCH_MS + state.objects.now_ms as i64).unwrap();
        let Some(parsed) = Query::parse(&query) else {
            state.is_broken(format!("the fake Prometheus cannot read {query}"));
            return (400, Vec::new(), clock);
        };
        state.traffic.answered[state.traffic.asked] += 1;
        let data = parsed.answer(state.traffic.series(), at.as_millisecond());
        let believable = match illness {
            Some(Illness::Stale) => invariants::is_fresh(&state.faults),
            illness => illness.is_none_or(Illness::is_bearable),
        };
        let answered = spoil(&data, illness, &query);
        state.queried(&process.name, &query, believable);
        let (status, body) = answered;
        (status, body, clock)
    });
    let response = http::Response::builder()
        .status(code)
        .header(
            http::header::DATE,
            rfc2822::to_string(&clock.to_zoned(jiff::tz::TimeZone::UTC)).unwrap(),
        )
        .body(reqwest::Body::from(answer))
        .unwrap();
    Ok(response.into())
}

/// The body of an answer, as the illness has it.
fn spoil(data: &Data<'_>, illness: Option<Illness>, query: &str) -> (u16, Vec<u8>) {
    if illness.is_none() {
        return (200, body(data, &[]));
    }
    let mut data = serde_json::to_value(data).unwrap();
    let mut warnings = Vec::new();
    match illness {
        Some(Illness::Status(code)) => {
            let body = json!({"status": "error", "errorType": "x", "error": "not now"});
            return (code, serde_json::to_vec(&body).unwrap());
        }
        Some(Illness::Html) => return (200, b"<html>Sign in</html>".to_vec()),
        Some(Illness::NotANumber(text)) => {
            for series in data["result"].as_array_mut().into_iter().flatten() {
                if series["metric"]["__name__"] != "up"
                    && let Some(last) = series["values"]
                        .as_array_mut()
                        .and_then(|list| list.last_mut())
                {
                    last[1] = json!(text);
                }
            }
        }
        Some(Illness::Empty) => data["result"] = json!([]),
        Some(Illness::OneUnknown) if query.contains("_bucket") => data["result"] = json!([]),
        Some(Illness::WrongType(name)) => {
            data = json!({"resultType": name, "result": [1.0, "1"]});
        }
        Some(Illness::Twice) => {
            if let Some(list) = data["result"].as_array_mut() {
                let mut twins = list.clone();
                for twin in &mut twins {
                    twin["metric"]["replica"] = json!("b");
                }
                list.extend(twins);
            }
        }
        Some(Illness::Warns) => warnings.push("some data could not be read"),
        _ => {}
    }
    (200, body(&data, &warnings))
}

/// The body of a good answer.
fn body(data: &impl Serialize, warnings: &[&str]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Success<'a, T> {
        status: &'static str,
        data: &'a T,
        warnings: &'a [&'a str],
    }
    let status = "success";
    let body = Success {
        status,
        data,
        warnings,
    };
    serde_json::to_vec(&body).unwrap()
}
