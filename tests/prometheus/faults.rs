//! Servers with faults that a real Prometheus cannot be made to have.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serin::{
    evidence::{BlindReason, Cursors},
    observe::metrics::{Objective, read},
};
use tokio::net::TcpListener;

use crate::harness::{client, now, question};

/// Asks a server that gives each query the answer of `respond`.
async fn ask<R: IntoResponse + 'static>(respond: fn() -> R) -> BlindReason {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback(move || async move { respond() });
    let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let cursors = Cursors::starting_at(now().as_millisecond());
    let question = question(Objective::ErrorRate);
    let result = read(&client(address), &question, &cursors, None, now()).await;
    server.abort();
    result.unwrap_err()
}

fn stream(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[tokio::test]
async fn a_hang_after_the_headers_times_out() {
    let began = tokio::time::Instant::now();
    let reason = ask(|| {
        stream(Body::from_stream(futures::stream::pending::<
            Result<Bytes, std::io::Error>,
        >()))
    })
    .await;
    assert_eq!(
        reason,
        BlindReason::Timeout {
            after: Duration::from_secs(5)
        }
    );
    assert!(began.elapsed() < Duration::from_secs(7));
}

#[tokio::test]
async fn a_trickle_of_bytes_times_out() {
    let reason = ask(|| {
        stream(Body::from_stream(futures::stream::repeat(()).then(
            |()| async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok::<_, std::io::Error>(Bytes::from_static(b" "))
            },
        )))
    })
    .await;
    assert_eq!(
        reason,
        BlindReason::Timeout {
            after: Duration::from_secs(5)
        }
    );
}

#[tokio::test]
async fn answers_above_the_size_limit_are_not_read() {
    let reason = ask(|| {
        let mebibyte = Bytes::from(vec![b' '; 1 << 20]);
        let answer = futures::stream::repeat(mebibyte)
            .take(10 * 1024)
            .map(Ok::<_, std::io::Error>);
        stream(Body::from_stream(answer))
    })
    .await;
    assert_eq!(reason, BlindReason::TooLarge { limit_mib: 16 });
}

#[tokio::test]
async fn a_cut_connection_is_unreadable() {
    let reason = ask(|| {
        let parts = [
            Ok(Bytes::from_static(b"{\"status\":")),
            Err(std::io::Error::other("cut")),
        ];
        stream(Body::from_stream(futures::stream::iter(parts)))
    })
    .await;
    assert!(
        matches!(reason, BlindReason::Unreachable { .. }),
        "{reason:?}"
    );
}

#[tokio::test]
async fn expired_credentials_are_named() {
    let reason = ask(|| (StatusCode::UNAUTHORIZED, "token expired")).await;
    assert_eq!(
        reason.to_string(),
        "Prometheus answered 401 (token expired): renew the credentials with which the \
         operator asks"
    );
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let reason = ask(|| {
        (
            StatusCode::FOUND,
            [(header::LOCATION, "http://169.254.169.254/")],
        )
    })
    .await;
    assert!(
        matches!(reason, BlindReason::Status { code: 302, .. }),
        "{reason:?}"
    );
}

#[tokio::test]
async fn a_partial_answer_is_no_evidence() {
    let reason = ask(|| {
        r#"{"status":"success","warnings":["store 2 timed out"],
            "data":{"resultType":"matrix","result":[]}}"#
    })
    .await;
    assert_eq!(
        reason,
        BlindReason::Warnings {
            first: "store 2 timed out".into()
        }
    );
}

#[tokio::test]
async fn nan_is_refused_as_a_count() {
    let reason = ask(|| {
        r#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{"__name__":"envoy_cluster_upstream_rq_xx","instance":"a"},
            "values":[[1700000000,"NaN"]]}]}}"#
    })
    .await;
    assert!(
        matches!(reason, BlindReason::NotFinite { .. }),
        "{reason:?}"
    );
}

#[tokio::test]
async fn a_clock_an_hour_off_is_named() {
    let reason = ask(|| {
        let past = "Thu, 01 Jan 2026 00:00:00 GMT";
        let body = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
        ([(header::DATE, past)], body)
    })
    .await;
    assert!(
        matches!(reason, BlindReason::ClockSkew { .. }),
        "{reason:?}"
    );
}
