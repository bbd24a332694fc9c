//! All errors of a request's fields, without the values.

use serde::Serialize;

/// Errors listed in one answer; more are only counted. Bounds the answer to a body of many wrong
/// fields.
const MAX_LISTED: usize = 1_000;

/// Longest name of an unknown field that an answer repeats, in characters.
const MAX_ECHOED_NAME: usize = 64;

/// One field that is not as the manifest wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the request's body.
    pub field: String,
    /// What should be there.
    pub expected: String,
}

/// The errors of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldErrors {
    /// The first 1,000 of them.
    pub listed: Vec<FieldError>,
    /// How many there are in all.
    pub total: usize,
}

impl FieldErrors {
    /// Adds an error.
    pub fn push(&mut self, field: impl FnOnce() -> String, expected: impl Into<String>) {
        self.total += 1;
        if self.listed.len() < MAX_LISTED {
            self.listed.push(FieldError {
                field: field(),
                expected: expected.into(),
            });
        }
    }

    /// Adds the errors of another part of the request.
    pub fn append(&mut self, other: Self) {
        self.total += other.total;
        let room = MAX_LISTED - self.listed.len();
        self.listed.extend(other.listed.into_iter().take(room));
    }

    /// Exactly one error.
    pub fn one(field: &str, expected: impl Into<String>) -> Self {
        let mut errors = Self::default();
        errors.push(|| field.to_owned(), expected);
        errors
    }
}

/// Where a request keeps its instances, for the pointers in errors.
#[derive(Debug, Clone, Copy)]
pub enum Location {
    /// Elements of the array at this pointer.
    List(&'static str),
    /// The only instance is the value at this pointer.
    Single(&'static str),
}

impl Location {
    /// The pointer of one instance.
    pub fn pointer(self, index: usize) -> String {
        match self {
            Self::List(array) => format!("{array}/{index}"),
            Self::Single(value) => value.to_owned(),
        }
    }
}

/// The pointer of a field that a client named, at a length that an answer bears.
pub fn pointer(parent: &str, name: &str) -> String {
    format!("{parent}/{}", escape(&shorten(name)))
}

/// A name as a part of a JSON pointer.
pub fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn shorten(name: &str) -> String {
    match name.char_indices().nth(MAX_ECHOED_NAME) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}
