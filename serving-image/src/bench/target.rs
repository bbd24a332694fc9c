//! The server under test, and one connection to it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use axum::http::uri::PathAndQuery;
use axum::http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::BenchError;
use super::args::BenchArgs;
use crate::tls;

/// Longest answer that is read into memory.
const MAX_ANSWER: usize = 64 << 20;

/// Longest wait for an answer to a question about the server itself.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where requests go, and what all of them have in common.
#[derive(Debug)]
pub(super) struct Target {
    pub address: SocketAddr,
    pub authority: String,
    pub path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// None for plain HTTP.
    tls: Option<Tls>,
}

/// How connections are encrypted, and whose certificate the server must have.
struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TLS with {:?}", self.name)
    }
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
        let is_encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("it must start with http:// or https://")),
        };
        let host = uri.host().ok_or_else(|| wrong("it names no host"))?;
        let port = uri
            .port_u16()
            .unwrap_or(if is_encrypted { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let tls = if is_encrypted {
            let name = ServerName::try_from(bare.to_owned());
            Some(Tls {
                connector: Arc::new(tls::client(args.cacert.as_deref())?).into(),
                name: name.map_err(|_| wrong("no certificate can have that name"))?,
            })
        } else {
            None
        };
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
            tls,
        })
    }

    /// The URL of the requests.
    pub(super) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.path)
    }

    /// Asks the server about itself, on a separate connection.
    pub(super) async fn get(&self, path: &str) -> Option<Bytes> {
        let ask = async {
            let mut connection = Connection::default();
            let request = self.request(Method::GET, path, Bytes::new())?;
            let (status, body) = connection.send(self, request).await.ok()?;
            (status == StatusCode::OK).then_some(body)
        };
        tokio::time::timeout(TIMEOUT, ask).await.ok().flatten()
    }

    /// The same, as JSON.
    pub(super) async fn get_json(&self, path: &str) -> Option<Value> {
        serde_json::from_slice(&self.get(path).await?).ok()
    }

    /// Whether a connection can be made at all; why not, if not.
    pub(super) async fn try_connection(&self) -> io::Result<()> {
        tokio::time::timeout(TIMEOUT, self.connect()).await??;
        Ok(())
    }

    async fn connect(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await?;
        let _ = stream.set_nodelay(true); // only latency is lost without
        match &self.tls {
            None => speak(TokioIo::new(stream)).await,
            Some(Tls { connector, name }) => {
                let stream = connector.connect(name.clone(), stream).await?;
                speak(TokioIo::new(stream)).await
            }
        }
    }

    /// Sends `body`, and waits for the whole answer.
    pub(super) async fn post(&self, connection: &mut Connection, body: Bytes) -> Outcome {
        let Some(request) = self.request(Method::POST, &self.path, body) else {
            return Outcome::Lost; // not reached: a path that came out of a URL is one
        };
        match connection.send(self, request).await {
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
        target: &Target,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Outcome> {
        // Taken out: a request that is given up half-way leaves no connection behind.
        let kept = match self.0.take().filter(|sender| !sender.is_closed()) {
            Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
            None => None,
        };
        let mut sender = match kept {
            Some(sender) => sender,
            None => target.connect().await.map_err(|_| Outcome::NoConnection)?,
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

/// Begins HTTP/1.1 on a connection.
async fn speak(
    stream: impl Read + Write + Unpin + Send + 'static,
) -> io::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = handshake(stream).await.map_err(io::Error::other)?;
    tokio::spawn(connection); // ends with the sender, or with the server
    Ok(sender)
}
