//! The only I/O of this module: one instant query, capped in time and size.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::HeaderMap;
use http::header::DATE;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use prometheus_http_query as prometheus;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

use super::answer::error_message;
use crate::evidence::{BlindReason, shortened};

/// Time for a whole answer, connecting included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of an answer that are read. Two hours of 15 s scrapes of 40 series are about 0.5 MiB.
const LARGEST_ANSWER: usize = 16 * MIB;
const MIB: usize = 1024 * 1024;
/// Difference between two clocks that is let pass, besides one scrape interval: the time of a slow
/// answer.
const SKEW_ALLOWED: Duration = TIMEOUT;

/// A connection to one Prometheus, or to anything else with its query API. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    /// For logs: never the headers, nor a password in the address.
    host: String,
    transport: Transport,
}

/// Sends a query as an instant query. The answer's body may still be under way. An error is the
/// cause as text.
pub type Transport = Arc<
    dyn Fn(String, Timestamp) -> BoxFuture<'static, Result<reqwest::Response, String>>
        + Send
        + Sync,
>;

/// Why no [`Client`] could be made.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The address is no URL.
    #[error("--prometheus-url is no URL")]
    Url(#[source] prometheus::Error),
    /// The TLS roots of this machine cannot be read, or the like.
    #[error("no HTTP client can be made")]
    Http(#[source] reqwest::Error),
}

/// A 200.
pub(super) struct Reply {
    /// All of it, at most 16 MiB.
    pub body: Vec<u8>,
    /// The server's clock, from the header `Date`, in whole seconds.
    server_time: Option<Timestamp>,
}

impl Client {
    /// A client for the Prometheus at `url`, which sends `headers` (credentials, tenant) along.
    ///
    /// A process-wide rustls crypto provider must have been installed. Redirects are not followed:
    /// only the administrator names the address. An error where the address or the TLS set-up
    /// cannot be used.
    pub fn new(url: &str, headers: HeaderMap) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(TIMEOUT)
            .build()
            .map_err(ClientError::Http)?;
        // With a slash at its end the crate would ask for `//api/v1/query`.
        let prometheus =
            prometheus::Client::from(http, url.trim_end_matches('/')).map_err(ClientError::Url)?;
        let host = prometheus.base_url().host_str().unwrap_or_default();
        Ok(Self::over(
            host.to_owned(),
            Arc::new(move |query, at| Box::pin(post(prometheus.clone(), query, at))),
        ))
    }

    /// A client of whatever answers over `transport`; `host` is its name in logs.
    pub fn over(host: String, transport: Transport) -> Self {
        Self { host, transport }
    }

    /// The same client for queries of the past, whose time differs from the server's clock.
    #[must_use]
    pub fn of_the_past(self) -> Self {
        let ask = self.transport;
        Self::over(
            self.host,
            Arc::new(move |query, at| {
                let answer = ask(query, at);
                Box::pin(async move {
                    let mut answer = answer.await?;
                    answer.headers_mut().remove(DATE);
                    Ok(answer)
                })
            }),
        )
    }

    /// Sends `query` as an instant query of the moment `at`.
    pub(super) async fn query(&self, query: &str, at: Timestamp) -> Result<Reply, BlindReason> {
        let deadline = Instant::now() + TIMEOUT;
        match timeout_at(deadline, self.whole_answer(query, at)).await {
            Ok(result) => result,
            Err(_) => Err(BlindReason::Timeout { after: TIMEOUT }),
        }
    }

    async fn whole_answer(&self, query: &str, at: Timestamp) -> Result<Reply, BlindReason> {
        let mut response = (self.transport)(query.to_owned(), at)
            .await
            .map_err(|cause| unreachable(&cause))?;
        let status = response.status();
        let server_time = response.headers().get(DATE).and_then(|date| {
            rfc2822::DateTimeParser::new()
                .parse_timestamp(date.as_bytes())
                .ok()
        });
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| unreachable(&innermost(&error)))?
        {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(BlindReason::TooLarge {
                    limit_mib: (LARGEST_ANSWER / MIB) as u64,
                });
            }
            body.extend_from_slice(&chunk);
        }
        if status != http::StatusCode::OK {
            return Err(BlindReason::Status {
                code: status.as_u16(),
                message: error_message(&body),
            });
        }
        Ok(Reply { body, server_time })
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl Reply {
    /// Refuses a server whose clock is further from `at`, the moment asked for, than a scrape
    /// interval and a slow answer explain: fresh samples would look stale, or stale ones fresh.
    /// Proxies that send no date are trusted.
    pub(super) fn check_clock(&self, at: Timestamp, scrape: Duration) -> Result<(), BlindReason> {
        let Some(server_time) = self.server_time else {
            return Ok(());
        };
        let by = server_time.duration_since(at).unsigned_abs();
        if by > scrape + SKEW_ALLOWED {
            return Err(BlindReason::ClockSkew { by });
        }
        Ok(())
    }
}

/// The way over HTTP.
async fn post(
    prometheus: prometheus::Client,
    query: String,
    at: Timestamp,
) -> Result<reqwest::Response, String> {
    prometheus
        .query(query)
        // `.at()` would cut the milliseconds off; `.timeout()` spares the server work for a
        // client that has given up.
        .query("time", unix_seconds(at))
        .timeout(TIMEOUT.as_millis() as i64)
        .post_raw()
        .await
        .map_err(|error| innermost(&error))
}

/// The innermost cause, which names no address and thus no password in one.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn unreachable(cause: &str) -> BlindReason {
    BlindReason::Unreachable {
        detail: shortened(cause),
    }
}

/// Unix time in seconds, to the millisecond.
fn unix_seconds(at: Timestamp) -> String {
    let ms = at.as_millisecond();
    format!("{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_keeps_its_milliseconds() {
        let at = Timestamp::from_millisecond(1_700_000_000_025).unwrap();
        assert_eq!(unix_seconds(at), "1700000000.025");
    }

    #[test]
    fn clocks_may_differ_by_a_scrape_and_a_slow_answer() {
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let scrape = Duration::from_secs(15);
        let reply = |seconds: i64| Reply {
            body: Vec::new(),
            server_time: Some(at + jiff::SignedDuration::from_secs(seconds)),
        };
        for near in [-20, 0, 20] {
            assert_eq!(reply(near).check_clock(at, scrape), Ok(()), "{near}");
        }
        for far in [-3600_i64, -21, 21, 3600] {
            let by = Duration::from_secs(far.unsigned_abs());
            assert_eq!(
                reply(far).check_clock(at, scrape),
                Err(BlindReason::ClockSkew { by }),
                "{far}"
            );
        }
    }
}
