//! Tests of the pure part: from an answer's bytes to a [`Window`].
#![allow(clippy::unwrap_used, clippy::cast_possible_wrap)]

mod exactly_once;
mod queries;
mod replicas;
mod tables;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

pub(super) const SCRAPE: Duration = Duration::from_secs(15);
/// Seconds since this moment (Unix seconds) are the time of the tests.
pub(super) const EPOCH_S: i64 = 1_700_000_000;

pub(super) fn ms(seconds: f64) -> i64 {
    EPOCH_S * 1000 + (seconds * 1000.0).round() as i64
}

pub(super) fn at(seconds: f64) -> Timestamp {
    Timestamp::from_millisecond(ms(seconds)).unwrap()
}

pub(super) fn versions() -> Versions {
    Versions {
        namespace: "ml".into(),
        name: "churn".into(),
        canary: "cccccccc".into(),
        stable: "55555555".into(),
    }
}

pub(super) fn envoy() -> Source {
    Source::Envoy {
        namespace: "serin-system".into(),
        deployment: "serin-router".into(),
    }
}

pub(super) fn question(source: Source, objective: Objective) -> Question {
    Question {
        source,
        versions: versions(),
        objective,
        scrape_interval: SCRAPE,
    }
}

/// One series of an answer; times in seconds, values as Prometheus prints them.
pub(super) fn series(labels: &Value, samples: &[(f64, &str)]) -> Value {
    let values: Vec<Value> = samples
        .iter()
        .map(|(seconds, value)| json!([ms(*seconds) as f64 / 1000.0, value]))
        .collect();
    json!({"metric": labels, "values": values})
}

pub(super) fn body(series: &[Value]) -> Vec<u8> {
    let answer = json!({"status": "success", "data": {"resultType": "matrix", "result": series}});
    serde_json::to_vec(&answer).unwrap()
}

pub(super) fn window(
    question: &Question,
    series: &[Value],
    threshold: Option<Snapped>,
    cursors: &Cursors,
    now: Timestamp,
) -> Result<Window, BlindReason> {
    let plan = Plan::new(question, cursors, now);
    plan.window(&body(series), threshold, String::new(), cursors, now)
}
