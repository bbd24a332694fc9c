//! The connection between an operator and the API server: a `tower::Service` under `kube::Client`,
//! with all faults of a network.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde::Serialize;
use serde_json::{Value, json};
use serin::runtime::operator::READ_TIMEOUT;
use tokio_util::sync::CancellationToken;

use crate::{
    kinds::Kind,
    objects::ApiError,
    request::{Request, Verb},
    watches,
    world::World,
};

/// An error of the transport.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of an answer; a watch's comes in pieces.
pub type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;

/// One run of an operator's process, as the API server sees it.
pub struct Process {
    pub name: String,
    /// Cancelled when the process is gone: its requests get no answer.
    pub killed: CancellationToken,
    /// Lists asked so far.
    pub lists: AtomicU64,
    /// Whether it is one that [`Fault::CutOff`](crate::faults::Fault::CutOff) or its like is about.
    pub cut_off: AtomicBool,
    /// By how much its own clock is off, in seconds.
    pub clock_off: AtomicI64,
}

impl Process {
    pub fn new(name: String) -> Arc<Self> {
        Arc::new(Self {
            name,
            killed: CancellationToken::new(),
            lists: AtomicU64::new(0),
            cut_off: AtomicBool::new(false),
            clock_off: AtomicI64::new(0),
        })
    }

    pub fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed)
    }
}

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives, and so does the answer.
    Delivered,
    /// The API server refuses.
    Refused {
        code: u16,
        reason: &'static str,
        message: &'static str,
        retry_after: Option<u64>,
    },
    /// It never arrives, and the client gets an error.
    Unreachable,
    /// It never arrives, and the client gets no answer.
    Lost,
    /// It is done, but the connection breaks before the answer.
    AnswerBroken,
    /// It is done, but no answer ever comes.
    AnswerLost,
    /// It arrives after this many seconds, even if its sender has given it up.
    Late(u64),
    /// The process is killed before it is sent.
    KilledBefore,
    /// It is done, and the process is killed before the answer.
    KilledAfter,
}

/// The most tries of one request: those of kube's default client, which repeats on 429, 503 and
/// 504.
const TRIES: u32 = 15;

/// One process's connection to the API server.
#[derive(Clone)]
pub struct Wire {
    world: Arc<World>,
    process: Arc<Process>,
}

impl Wire {
    pub fn new(world: Arc<World>, process: Arc<Process>) -> Self {
        Self { world, process }
    }

    async fn serve(
        self,
        request: http::Request<Body>,
    ) -> Result<http::Response<AnswerBody>, BoxError> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let content_type = head.headers.get(http::header::CONTENT_TYPE);
        let content_type = content_type.map_or("", |value| value.to_str().unwrap());
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
        let mut request = Request::read(&head.method, path, query, &body, content_type);
        request.sent = self
            .world
            .with(|state| state.postmark(&self.process.name, &request));
        let mut pause = Duration::from_millis(5);
        for _ in 1..TRIES {
            let answer = self.attempt(&request).await?;
            if ![429, 503, 504].contains(&answer.status().as_u16()) {
                return Ok(answer);
            }
            let asked = answer.headers().get(http::header::RETRY_AFTER);
            let asked = asked.and_then(|value| value.to_str().ok()?.parse().ok());
            tokio::time::sleep(asked.map_or(pause, Duration::from_secs)).await;
            pause *= 2;
        }
        self.attempt(&request).await
    }

    async fn attempt(&self, request: &Request) -> Result<http::Response<AnswerBody>, BoxError> {
        let Self { world, process } = self;
        if process.killed.is_cancelled() {
            return never().await;
        }
        if request.verb == Verb::List {
            process.lists.fetch_add(1, Ordering::Relaxed);
        }
        let (fate, latency) = world.with(|state| {
            let latency = state.faults.latency();
            if request.acts() {
                state.counts.writes += 1;
                state.acts(&process.name, request);
            }
            (state.faults.fate(process, request), latency)
        });
        if fate != Fate::Delivered {
            world.with(|state| state.note(&process.name, &format!("{request}: {fate:?}")));
        }
        tokio::time::sleep(latency).await;
        match fate {
            Fate::Delivered => {}
            Fate::Refused {
                code,
                reason,
                message,
                retry_after,
            } => {
                let mut answer = error_response(&ApiError::new(code, reason, message));
                if let Some(seconds) = retry_after {
                    answer
                        .headers_mut()
                        .insert(http::header::RETRY_AFTER, seconds.into());
                }
                return Ok(answer);
            }
            Fate::Unreachable => return Err(broken()),
            Fate::Lost => return silence().await,
            Fate::AnswerBroken => {
                self.execute(request);
                return Err(broken());
            }
            Fate::AnswerLost => {
                self.execute(request);
                return silence().await;
            }
            Fate::Late(seconds) => {
                let (wire, request) = (self.clone(), request.clone());
                let late = tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    wire.execute(&request)
                });
                return Ok(late.await?);
            }
            Fate::KilledBefore => {
                process.killed.cancel();
                return never().await;
            }
            Fate::KilledAfter => {
                self.execute(request);
                process.killed.cancel();
                return never().await;
            }
        }
        if process.killed.is_cancelled() {
            return never().await;
        }
        let answer = self.execute(request);
        tokio::time::sleep(latency).await;
        Ok(answer)
    }

    /// What the API server does with a request that has arrived.
    fn execute(&self, request: &Request) -> http::Response<AnswerBody> {
        let Self { world, process } = self;
        if request.verb == Verb::Watch {
            let from = request.number("resourceVersion").unwrap_or(0);
            let lines = watches::lines(world.clone(), process.clone(), request.clone(), from);
            let frames = lines.map(|line| Ok(http_body::Frame::data(line)));
            return http::Response::new(StreamBody::new(frames).boxed_unsync());
        }
        let done = world.with(|state| {
            state.objects.actor.clone_from(&process.name);
            let done = answer(state, process, request);
            if request.acts() {
                state.wrote(&process.name, request, &done);
            } else if request.kind == Kind::Model && request.verb == Verb::Get {
                state.read(request);
            }
            done
        });
        match done {
            Ok(value) => {
                let code = if request.verb == Verb::Create {
                    201
                } else {
                    200
                };
                json_answer(code, value)
            }
            Err(refused) => error_response(&refused),
        }
    }
}

impl tower::Service<http::Request<Body>> for Wire {
    type Response = http::Response<AnswerBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.clone().serve(request))
    }
}

/// The answer to everything but a watch.
fn answer(
    state: &mut crate::world::State,
    process: &Process,
    request: &Request,
) -> Result<Bytes, ApiError> {
    let key = request.key();
    state.admission.review(&state.objects, request)?;
    let admission = &mut state.admission;
    let objects = &mut state.objects;
    let behind = state.faults.behind(process);
    let done = match request.verb {
        Verb::Get | Verb::List => {
            let version = objects.version().saturating_sub(behind);
            let view = (behind > 0).then(|| objects.as_of(version));
            if request.verb == Verb::Get {
                let found = match &view {
                    Some(view) => view.get(&key),
                    None => objects.get(&key),
                };
                let found = found.ok_or_else(|| ApiError::not_found(&key))?.clone();
                return Ok(objects.text(&found));
            }
            state.lists_of_models += u64::from(request.kind == Kind::Model);
            let selected = |(key, object): (&crate::kinds::Key, &'_ Arc<Value>)| {
                request.selects(key, object).then(|| object.clone())
            };
            let items: Vec<Arc<Value>> = match &view {
                Some(view) => view.iter().filter_map(selected).collect(),
                None => objects.all().filter_map(selected).collect(),
            };
            let list = List {
                kind: format!("{}List", request.kind),
                api_version: request.kind.api_version(),
                metadata: json!({"resourceVersion": version.to_string()}),
                items: items.iter().map(|item| &**item).collect(),
            };
            return Ok(serde_json::to_vec(&list).unwrap().into());
        }
        Verb::Create => objects.create(&key, request.body.clone()),
        Verb::Apply => {
            let manager = request.query.get("fieldManager").unwrap();
            let dry_run = request.is_dry_run();
            objects.apply(&key, manager, &request.body, dry_run, |object| {
                admission.mutate(key.kind, object);
            })
        }
        Verb::Merge => objects
            .edit(&key, |object| {
                crate::apply::merge_patch(object, &request.body);
            })
            .ok_or_else(|| ApiError::not_found(&key)),
        Verb::Replace => objects.replace(&key, &request.body),
        Verb::ReplaceStatus => objects.replace_status(&key, &request.body),
        Verb::Delete => objects.delete_as_seen(&key, &request.body),
        Verb::Watch => unreachable!("a watch is answered in pieces"),
    };
    done.map(|object| objects.text(&object))
}

/// The answer to a list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    kind: String,
    api_version: &'static str,
    metadata: Value,
    items: Vec<&'a Value>,
}

fn json_answer(code: u16, json: impl Into<Bytes>) -> http::Response<AnswerBody> {
    let body = Full::new(json.into());
    let mut answer = http::Response::new(body.boxed_unsync());
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap();
    answer
}

fn error_response(error: &ApiError) -> http::Response<AnswerBody> {
    let body = serde_json::to_vec(&error.status());
    json_answer(error.code, body.unwrap())
}

fn broken() -> BoxError {
    Box::new(io::Error::new(
        io::ErrorKind::ConnectionReset,
        "connection reset by peer",
    ))
}

/// No answer comes; the connection is given up after `kube::Config::read_timeout`.
async fn silence<T>() -> Result<T, BoxError> {
    tokio::time::sleep(READ_TIMEOUT).await;
    Err(Box::new(io::Error::from(io::ErrorKind::TimedOut)))
}

async fn never<T>() -> T {
    std::future::pending().await
}
