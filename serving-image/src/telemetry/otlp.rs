//! Traces as OTLP has them: the part of `opentelemetry/proto/trace/v1` and `collector/trace/v1`
//! that is used here, which is stable since OTLP 1.0.

use prost::Message;

use super::SAMPLED;
use super::timeline::{Done, Served, Trace};

/// What a collector is sent.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
#[allow(clippy::struct_field_names)] // they are the protocol's
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// What a collector answers.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Answer {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
}

impl Answer {
    /// Spans that the collector took, but does not want.
    pub(super) fn rejected(&self) -> u64 {
        let rejected = self.partial_success.as_ref();
        rejected.map_or(0, |partial| {
            u64::try_from(partial.rejected_spans).unwrap_or_default()
        })
    }
}

const SERVER: i32 = 2;
const INTERNAL: i32 = 1;
const ERROR: i32 = 2;

/// The span's flags say whether its parent is in another process…
const KNOWS_IF_REMOTE: u32 = 1 << 8;
/// … and that it is.
const REMOTE: u32 = 1 << 9;

/// What is the same in all that one process sends.
#[derive(Debug)]
pub(super) struct Process {
    resource: Resource,
    model: [KeyValue; 2],
}

impl Process {
    /// A process that serves that model; `resource` overrides what it says of itself.
    pub(super) fn new(model: &str, version: &str, resource: &[(String, String)]) -> Self {
        let mut attributes: Vec<(String, String)> = [
            ("service.name", model),
            ("service.version", version),
            ("telemetry.sdk.name", env!("CARGO_PKG_NAME")),
            ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
            ("telemetry.sdk.language", "rust"),
        ]
        .into_iter()
        .filter(|(name, _)| resource.iter().all(|(given, _)| given != name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        attributes.extend_from_slice(resource);
        Self {
            resource: Resource {
                attributes: attributes
                    .into_iter()
                    .map(|(key, value)| text(&key, value))
                    .collect(),
            },
            model: [
                text("model.name", model.to_owned()),
                text("model.version", version.to_owned()),
            ],
        }
    }

    /// The message that holds these traces.
    pub(super) fn encode(&self, traces: &[Trace]) -> Vec<u8> {
        let spans = traces.iter().flat_map(|trace| {
            let served = trace.served.as_ref();
            let whole = served.map(|(served, ended)| Span {
                end_time_unix_nano: trace.context.unix(*ended),
                ..self.server(trace, served)
            });
            let parts = trace.parts.iter().map(|part| internal(trace, part));
            whole.into_iter().chain(parts)
        });
        let export = Export {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(Scope {
                        name: env!("CARGO_PKG_NAME").to_owned(),
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                    }),
                    spans: spans.collect(),
                }],
            }],
        };
        export.encode_to_vec()
    }

    /// The request as a whole, by the conventions for HTTP servers.
    fn server(&self, trace: &Trace, served: &Served) -> Span {
        let Served {
            method,
            path,
            route,
            status,
            numbers,
        } = served;
        let verb = method.unwrap_or("HTTP");
        let mut attributes = vec![
            text("http.request.method", method.unwrap_or("_OTHER").to_owned()),
            text("url.path", path.clone()),
            text("url.scheme", "http".to_owned()),
        ];
        attributes.extend_from_slice(&self.model);
        if let Some(route) = route {
            attributes.push(text("http.route", route.clone()));
        }
        // The client that went away was sent no status.
        if *status == 499 {
            attributes.push(text("error.type", "client_closed".to_owned()));
        } else {
            attributes.push(number("http.response.status_code", u64::from(*status)));
            if *status >= 500 {
                attributes.push(text("error.type", status.to_string()));
            }
        }
        attributes.extend(numbers.iter().map(|(name, count)| number(name, *count)));
        let origin = trace.context.origin;
        let remote = if origin.parent.is_some() { REMOTE } else { 0 };
        Span {
            trace_id: origin.trace.to_vec(),
            span_id: origin.span.to_vec(),
            parent_span_id: origin.parent.map(Vec::from).unwrap_or_default(),
            name: match route {
                Some(route) => format!("{verb} {route}"),
                None => verb.to_owned(),
            },
            kind: SERVER,
            start_time_unix_nano: trace.context.started_unix,
            attributes,
            status: (*status >= 500).then_some(Status { code: ERROR }),
            flags: u32::from(origin.flags) | KNOWS_IF_REMOTE | remote,
            ..Span::default()
        }
    }
}

/// A part of it.
fn internal(trace: &Trace, part: &Done) -> Span {
    let context = &trace.context;
    let numbers = part.numbers.iter();
    Span {
        trace_id: context.origin.trace.to_vec(),
        span_id: part.span.to_vec(),
        parent_span_id: context.origin.span.to_vec(),
        name: part.name.to_owned(),
        kind: INTERNAL,
        start_time_unix_nano: context.unix(part.started),
        end_time_unix_nano: context.unix(part.ended),
        attributes: numbers.map(|(name, count)| number(name, *count)).collect(),
        status: part.panicked.then_some(Status { code: ERROR }),
        flags: u32::from(SAMPLED) | KNOWS_IF_REMOTE,
    }
}

fn text(key: &str, value: String) -> KeyValue {
    attribute(key, Value::Text(value))
}

fn number(key: &str, value: u64) -> KeyValue {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    attribute(key, Value::Number(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}
