//! What a client asks of the API server, read from its HTTP request.

use std::{collections::BTreeMap, fmt};

use http::Method;
use serde_json::Value;

use crate::kinds::{Key, Kind};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Apply,
    Merge,
    Replace,
    ReplaceStatus,
    Delete,
}

impl Verb {
    pub fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    pub verb: Verb,
    pub kind: Kind,
    /// All namespaces where empty.
    pub namespace: String,
    /// Empty for lists, watches and creations.
    pub name: String,
    pub query: BTreeMap<String, String>,
    pub body: Value,
    /// What its sender knew when it was sent; it may arrive much later.
    pub sent: Postmark,
}

/// The moment and the knowledge that a request comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Postmark {
    /// Milliseconds since the world began.
    pub at_ms: u64,
    /// Whether the metrics that its sender read last could be believed.
    pub believed: bool,
}

impl Request {
    /// Reads a request; one that this API server does not know is a mistake of the test.
    pub fn read(method: &Method, path: &str, query: &str, body: &[u8], content_type: &str) -> Self {
        let unknown = || -> ! { panic!("the API server does not know {method} {path}?{query}") };
        let query: BTreeMap<String, String> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (name.to_owned(), decode(value))
            })
            .collect();
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (api_version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ((*version).to_owned(), rest),
            ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
            _ => unknown(),
        };
        let (namespace, plural, name, subresource) = match rest {
            ["namespaces", namespace, plural] => (*namespace, *plural, "", ""),
            ["namespaces", namespace, plural, name] => (*namespace, *plural, *name, ""),
            ["namespaces", namespace, plural, name, sub] => (*namespace, *plural, *name, *sub),
            [plural] => ("", *plural, "", ""),
            _ => unknown(),
        };
        let Some(kind) = Kind::find(&api_version, plural) else {
            unknown()
        };
        let verb = match (method, subresource) {
            (&Method::GET, "") if query.get("watch").is_some_and(|watch| watch == "true") => {
                Verb::Watch
            }
            (&Method::GET, "") if name.is_empty() => Verb::List,
            (&Method::GET, "") => Verb::Get,
            (&Method::POST, "") => Verb::Create,
            (&Method::PATCH, "") if content_type.contains("apply-patch") => Verb::Apply,
            (&Method::PATCH, "") => Verb::Merge,
            (&Method::PUT, "") => Verb::Replace,
            (&Method::PUT, "status") => Verb::ReplaceStatus,
            (&Method::DELETE, "") if !name.is_empty() => Verb::Delete,
            _ => unknown(),
        };
        let body: Value = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(body).unwrap()
        };
        let name = if verb == Verb::Create {
            body["metadata"]["name"].as_str().unwrap_or_default()
        } else {
            name
        };
        Self {
            verb,
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            query,
            body,
            sent: Postmark::default(),
        }
    }

    /// Whether it writes, other than for the leader's lease.
    pub fn acts(&self) -> bool {
        self.verb.writes() && self.kind != Kind::Lease && !self.is_dry_run()
    }

    /// Whether nothing of it is to be kept.
    pub fn is_dry_run(&self) -> bool {
        self.query.get("dryRun").is_some_and(|value| value == "All")
    }

    pub fn key(&self) -> Key {
        Key::new(self.kind, &self.namespace, &self.name)
    }

    /// A number among the query's parameters.
    pub fn number(&self, parameter: &str) -> Option<u64> {
        self.query.get(parameter)?.parse().ok()
    }

    /// Whether an object is among those that a list or a watch asks for.
    pub fn selects(&self, key: &Key, object: &Value) -> bool {
        key.kind == self.kind
            && (self.namespace.is_empty() || key.namespace == self.namespace)
            && self
                .query
                .get("labelSelector")
                .is_none_or(|selector| matches(selector, &object["metadata"]["labels"]))
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An Event's name ends with the machine's own time, which no seed gives.
        let its_time = self.name.rsplit_once('.');
        let its_time = its_time.filter(|_| self.kind == Kind::Event);
        let name = its_time.map_or(&*self.name, |(of, _)| of);
        write!(f, "{:?} {} {name}", self.verb, self.kind)
    }
}

/// A label selector: `a=b` and `a`, separated by commas.
fn matches(selector: &str, labels: &Value) -> bool {
    selector
        .split(',')
        .filter(|part| !part.is_empty())
        .all(|part| match part.split_once('=') {
            Some((name, value)) => labels[name] == value,
            None => labels.get(part).is_some(),
        })
}

/// Undoes the escapes of a URL's query.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex: Vec<u8> = rest.by_ref().take(2).collect();
                let hex = String::from_utf8(hex).unwrap();
                bytes.push(u8::from_str_radix(&hex, 16).unwrap());
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).unwrap()
}
