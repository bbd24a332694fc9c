//! The HTTP client: checks the address of every redirect, and sends credentials only to their own
//! host.

use std::error::Error as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use reqwest::header::{
    ACCEPT, CONTENT_ENCODING, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Response, StatusCode, Url, redirect};

use super::error::FetchError;
use super::hosts::{GuardedResolver, HostList, Origin, system_lookup};

/// Redirects that are followed: a registry's to its storage, and one or two of a CDN.
const MAX_HOPS: usize = 5;
/// Longest wait that a source may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);

/// Timeouts and retries of requests to a source.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the next byte.
    pub stall: Duration,
    /// Attempts after one that failed, without progress in between.
    pub retries: u32,
}

/// The HTTP client: no proxy, no automatic redirect, no cookie, no decompression.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    hosts: HostList,
    /// How long it waits, and how often it tries.
    pub policy: RetryPolicy,
}

impl Client {
    /// A client for `hosts`, which trusts the system's authorities and those of `authorities`
    /// (PEM). An error where an authority is no PEM certificate.
    pub fn new(
        hosts: HostList,
        policy: RetryPolicy,
        authorities: &[(String, Vec<u8>)],
    ) -> Result<Self, FetchError> {
        Self::with_lookup(hosts, policy, authorities, system_lookup)
    }

    fn with_lookup<L, F>(
        hosts: HostList,
        policy: RetryPolicy,
        authorities: &[(String, Vec<u8>)],
        lookup: L,
    ) -> Result<Self, FetchError>
    where
        L: Fn(String) -> F + Send + Sync + 'static,
        F: Future<Output = std::io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        // Named for the whole process: with the default features of another crate there might be
        // two to choose from.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut certificates = Vec::new();
        for (field, pem) in authorities {
            let found = reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|_| FetchError::usage(field, "expected certificates in PEM"))?;
            if found.is_empty() {
                return Err(FetchError::usage(
                    field,
                    "expected at least one certificate in PEM",
                ));
            }
            certificates.extend(found);
        }
        let resolver = GuardedResolver {
            hosts: hosts.clone(),
            lookup,
        };
        let http = reqwest::Client::builder()
            .user_agent(concat!("serin-serve/", env!("CARGO_PKG_VERSION")))
            .no_proxy() // a proxy would resolve names itself, past the guard
            .redirect(redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .http1_only()
            .connect_timeout(policy.connect)
            .read_timeout(policy.stall)
            .dns_resolver(resolver)
            .tls_certs_merge(certificates)
            .build()
            .map_err(|error| {
                FetchError::usage(
                    "the TLS client",
                    format!("cannot be set up: {}", root(&error)),
                )
            })?;
        Ok(Self {
            http,
            hosts,
            policy,
        })
    }

    /// Whether a host is spoken to without TLS.
    pub fn is_plain(&self, host: &str, port: Option<u16>) -> bool {
        self.hosts.is_plain(host, port)
    }

    /// Sends a GET and follows redirects. `headers` go to the first host alone: where a redirect
    /// leads elsewhere, they stay behind. Answers of 429 and 5xx are errors that may pass; all
    /// others come back.
    pub async fn get(
        &self,
        url: &Url,
        headers: &HeaderMap,
        accept: Option<&'static str>,
        from: u64,
    ) -> Result<Response, FetchError> {
        let mut hop = url.clone();
        for _ in 0..=MAX_HOPS {
            self.hosts.check_url(&hop)?;
            let mut request = self.http.get(hop.clone());
            if hop.origin() == url.origin() {
                request = request.headers(headers.clone());
            }
            if let Some(accept) = accept {
                request = request.header(ACCEPT, HeaderValue::from_static(accept));
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = request
                .send()
                .await
                .map_err(|error| failure(&hop, &error))?;
            let status = response.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                hop = next_hop(&hop, &response)?;
                continue;
            }
            let may_pass = status.is_server_error()
                || status == StatusCode::TOO_MANY_REQUESTS
                || status == StatusCode::REQUEST_TIMEOUT;
            if may_pass {
                return Err(FetchError::Network {
                    message: format!("{} answers {status}", Origin(&hop)),
                    retry_after: retry_after(&response),
                });
            }
            if response.headers().contains_key(CONTENT_ENCODING) {
                return Err(FetchError::Source(format!(
                    "{} encodes its answer although that was not asked for; let it serve files as \
                     they are",
                    Origin(&hop)
                )));
            }
            return Ok(response);
        }
        Err(FetchError::Source(format!(
            "{} redirects more than {MAX_HOPS} times; name the address where it ends",
            Origin(url)
        )))
    }
}

fn next_hop(from: &Url, response: &Response) -> Result<Url, FetchError> {
    let location = response.headers().get(LOCATION);
    let next = location
        .and_then(|value| value.to_str().ok())
        .and_then(|value| from.join(value).ok())
        .filter(Url::has_host);
    next.ok_or_else(|| {
        let region = response.headers().get("x-amz-bucket-region");
        let remedy = region
            .and_then(|value| value.to_str().ok())
            .map(|region| format!("; the bucket is in the region {region}: set AWS_REGION"))
            .unwrap_or_default();
        FetchError::Source(format!(
            "{} answers {} without saying where to{remedy}",
            Origin(from),
            response.status()
        ))
    })
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let asked = Duration::from_secs(seconds.parse().ok()?);
    Some(asked.min(MAX_RETRY_AFTER))
}

/// What stopped a request: the guard's own refusal, or trouble on the way. Never the whole address.
pub(super) fn failure(url: &Url, error: &reqwest::Error) -> FetchError {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(refusal) = inner.downcast_ref::<FetchError>() {
            return refusal.clone();
        }
        cause = inner.source();
    }
    let what = if error.is_timeout() {
        "does not answer in time"
    } else if error.is_connect() {
        "cannot be connected to"
    } else {
        "broke off"
    };
    FetchError::network(format!("{} {what}: {}", Origin(url), root(error)))
}

/// The innermost cause: reqwest's own words are general, and hold the address.
fn root(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(std::error::Error::source) {
        cause = Some(inner);
    }
    cause.map_or_else(|| "the request failed".to_owned(), ToString::to_string)
}

/// Reads a file of certificates.
pub(super) fn read_authorities(field: &str, path: &Path) -> Result<(String, Vec<u8>), FetchError> {
    let pem = std::fs::read(path)
        .map_err(|error| FetchError::usage(field, format!("{}: {error}", path.display())))?;
    Ok((field.to_owned(), pem))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        connect: Duration::from_secs(5),
        stall: Duration::from_secs(5),
        retries: 0,
    };

    /// A name that has an allowed address when it is looked at, and loopback ever after, gains
    /// nothing: one look, and the connection goes where was looked.
    #[tokio::test]
    async fn a_name_that_changes_its_mind_gains_nothing() {
        let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
        if probe.connect("198.51.100.1:9").is_err() {
            println!("skipped: this machine has no address but loopback");
            return;
        }
        let own = probe.local_addr().unwrap().ip();
        let listener = TcpListener::bind((own, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let inside = TcpListener::bind((Ipv4Addr::LOCALHOST, address.port())).unwrap();
        inside.set_nonblocking(true).unwrap();
        let answers = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            stream.write_all(answer).unwrap();
        });
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&looks);
        let lookup = move |_: String| {
            let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
            let found = if first {
                own
            } else {
                Ipv4Addr::LOCALHOST.into()
            };
            async move { Ok(vec![SocketAddr::new(found, 0)]) }
        };
        let list = ["http://rebind.example".to_owned(), own.to_string()];
        let hosts: HostList = list.iter().map(|entry| entry.parse().unwrap()).collect();
        let client = Client::with_lookup(hosts, POLICY, &[], lookup).unwrap();
        let url = Url::parse(&format!("http://rebind.example:{}/", address.port())).unwrap();
        let headers = HeaderMap::new();
        let answer = client.get(&url, &headers, None, 0).await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "ok");
        assert_eq!(looks.load(Ordering::SeqCst), 1);
        answers.join().unwrap();

        let refused = client.get(&url, &headers, None, 0).await.unwrap_err();
        assert_eq!(refused.exit_code(), 3, "{refused}");
        assert!(
            refused.to_string().contains("127.0.0.1, which is loopback"),
            "{refused}"
        );
        assert!(inside.accept().is_err(), "somebody connected to loopback");
    }
}
