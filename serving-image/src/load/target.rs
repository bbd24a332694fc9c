//! The server that is asked, and one connection to it.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use axum::http::uri::PathAndQuery;
use axum::http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::BenchError;
use super::args::BenchArgs;

/// Longest answer that is read into memory.
const MAX_ANSWER: usize = 64 << 20;

/// Longest wait for an answer to a question about the server itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where requests go, and what all of them have in common.
#[derive(Debug)]
pub(super) struct Target {
    pub address: SocketAddr,
    pub authority: String,
    pub path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An answer with this status, to its end.
    Answered(StatusCode),
    /// No answer in time.
    TimedOut,
    /// No connection could be made.
    NoConnection,
    /// The connection ended before the answer did.
    Lost,
}

impl Outcome {
    pub(super) fn is_good(self) -> bool {
        matches!(self, Self::Answered(status) if status.is_success())
    }

    /// As reports name it: the status code, or words.
    pub(super) fn name(self) -> String {
        match self {
            Self::Answered(status) => status.as_u16().to_string(),
            Self::TimedOut => "timed out".to_owned(),
            Self::NoConnection => "no connection".to_owned(),
            Self::Lost => "connection lost".to_owned(),
        }
    }
}

impl Target {
    /// Resolves the address once, so that every request goes to the same server.
    pub(super) async fn resolve(args: &BenchArgs) -> Result<Self, BenchError> {
        let wrong = |why: &str| BenchError::Url(args.url.clone(), why.to_owned());
        let uri: Uri = args.url.parse().map_err(|_| wrong("it is no URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("it must start with http:// (TLS is not spoken)"));
        }
        let host = uri.host().ok_or_else(|| wrong("it names no host"))?;
        let port = uri.port_u16().unwrap_or(80);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let mut found = tokio::net::lookup_host((bare, port))
            .await
            .map_err(|error| wrong(&error.to_string()))?;
        let address = found
            .next()
            .ok_or_else(|| wrong("the name has no address"))?;
        let path = match uri.path_and_query().map(PathAndQuery::as_str) {
            None | Some("/") => args.path.clone(),
            Some(path) => path.to_owned(),
        };
        let header = |(name, value): &(String, String)| {
            let name =
                HeaderName::try_from(name).map_err(|_| wrong("a --header's name is wrong"))?;
            let value =
                HeaderValue::try_from(value).map_err(|_| wrong("a --header's value is wrong"))?;
            Ok((name, value))
        };
        Ok(Self {
            address,
            authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
            path,
            headers: args
                .headers
                .iter()
                .map(header)
                .collect::<Result<_, BenchError>>()?,
        })
    }

    /// Asks the server about itself, on a connection of its own.
    pub(super) async fn get(&self, path: &str) -> Option<Bytes> {
        let ask = async {
            let mut connection = Connection::default();
            let request = self.request(Method::GET, path, Bytes::new())?;
            let (status, body) = connection.send(self.address, request).await.ok()?;
            (status == StatusCode::OK).then_some(body)
        };
        tokio::time::timeout(PATIENCE, ask).await.ok().flatten()
    }

    /// The same, as JSON.
    pub(super) async fn get_json(&self, path: &str) -> Option<Value> {
        serde_json::from_slice(&self.get(path).await?).ok()
    }

    /// Whether a connection can be made at all.
    pub(super) async fn listens(&self) -> bool {
        let connected = tokio::time::timeout(PATIENCE, TcpStream::connect(self.address)).await;
        matches!(connected, Ok(Ok(_)))
    }

    /// Sends `body`, and waits for the whole answer.
    pub(super) async fn post(&self, connection: &mut Connection, body: Bytes) -> Outcome {
        let Some(request) = self.request(Method::POST, &self.path, body) else {
            return Outcome::Lost; // not reached: a path that came out of a URL is one
        };
        match connection.send(self.address, request).await {
            Ok((status, _)) => Outcome::Answered(status),
            Err(outcome) => outcome,
        }
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Option<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(body)).ok()
    }
}

/// A connection that is made when it is needed, and kept as long as the server keeps it.
#[derive(Debug, Default)]
pub(super) struct Connection(Option<SendRequest<Full<Bytes>>>);

impl Connection {
    async fn send(
        &mut self,
        address: SocketAddr,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Outcome> {
        // Taken out: a request that is given up half-way leaves no connection behind.
        let mut sender = match self.0.take().filter(|sender| !sender.is_closed()) {
            Some(mut sender) => match sender.ready().await {
                Ok(()) => sender,
                Err(_) => connect(address).await?,
            },
            None => connect(address).await?,
        };
        let answer = sender
            .send_request(request)
            .await
            .map_err(|_| Outcome::Lost)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER);
        let body = body.collect().await.map_err(|_| Outcome::Lost)?.to_bytes();
        self.0 = Some(sender);
        Ok((status, body))
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Outcome> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|_| Outcome::NoConnection)?;
    let _ = stream.set_nodelay(true); // only latency is lost without
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Outcome::NoConnection)?;
    tokio::spawn(connection); // ends with the sender, or with the server
    Ok(sender)
}
