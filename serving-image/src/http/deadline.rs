//! The deadline of a prediction: 504 when it has passed.
//!
//! At that moment the handler is dropped, and with it the receivers of what the compute pool and
//! the batcher still owe it; both skip abandoned work. So a late request costs no more
//! than the batch it is in.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::App;
use super::problem::Problem;

/// A client's own bound, in milliseconds; it may only shorten the server's.
const CLIENT: &str = "x-request-timeout-ms";

/// Envoy's header for its upstream: the milliseconds after which it gives up.
const ENVOY: &str = "x-envoy-expected-rq-timeout-ms";

/// The middleware of all routes that predict.
pub(super) async fn enforce(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match allowed(request.headers(), app.bounds.deadline) {
        Ok(time) => tokio::time::timeout(time, next.run(request))
            .await
            .unwrap_or_else(|_| over(time).into_response()),
        Err(problem) => problem.into_response(),
    }
}

/// The least of the server's bound and those of the headers.
fn allowed(headers: &HeaderMap, server: Duration) -> Result<Duration, Problem> {
    let milliseconds = |name: &str| {
        let text = headers.get(name)?.to_str().ok();
        Some(
            text.and_then(|text| text.parse::<u64>().ok())
                .filter(|time| *time > 0),
        )
    };
    let client = match milliseconds(CLIENT) {
        None => server,
        Some(Some(time)) => Duration::from_millis(time),
        Some(None) => {
            let detail = format!("{CLIENT} must be a whole number of milliseconds, at least 1");
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid-timeout",
                detail,
            ));
        }
    };
    // A proxy's header is no reason to refuse its client's request: 0 means there that it waits for
    // ever.
    let proxy = milliseconds(ENVOY)
        .flatten()
        .map_or(server, Duration::from_millis);
    Ok(server.min(client).min(proxy))
}

fn over(time: Duration) -> Problem {
    let detail = format!(
        "The prediction was not ready within {} ms",
        time.as_millis()
    );
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "deadline-exceeded", detail)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn headers_only_shorten_the_servers_bound() {
        type Case = (&'static [(&'static str, &'static str)], Option<u64>);
        let cases: [Case; 9] = [
            (&[], Some(1000)),
            (&[(CLIENT, "20")], Some(20)),
            (&[(CLIENT, "5000")], Some(1000)),
            (&[(ENVOY, "300")], Some(300)),
            (&[(ENVOY, "0")], Some(1000)),
            (&[(ENVOY, "soon")], Some(1000)),
            (&[(CLIENT, "700"), (ENVOY, "300")], Some(300)),
            (&[(CLIENT, "0")], None),
            (&[(CLIENT, "-1s")], None),
        ];
        for (given, expected) in cases {
            let headers = given
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect();
            let found = allowed(&headers, Duration::from_secs(1)).ok();
            assert_eq!(found, expected.map(Duration::from_millis), "{given:?}");
        }
    }
}
