//! Reads the body of a request: checks its media type, size and time, and parses its JSON.

use std::error::Error;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Map, Value};

use super::problem::Problem;
use super::{App, Bounds};
use crate::json;
use crate::preprocess::FieldErrors;

/// Bodies up to this length are parsed where they are read, in less than 0.1 ms; longer ones would
/// hold up the other connections of that thread.
const PARSED_AT_ONCE: usize = 16 << 10;

/// Reads the body as a JSON object. Fails with the problem to answer.
pub(super) async fn read_object(
    request: Request,
    app: &App,
) -> Result<Map<String, Value>, Problem> {
    check_media_type(request.headers(), &[])?;
    let body = read_body(request.into_body(), app.bounds).await?;
    object(body, app).await
}

/// Reads the body whole, where JSON may come without a media type, as Triton's client sends it, or
/// as one of `others`. Fails with the problem to answer.
pub(super) async fn read_bytes(
    request: Request,
    app: &App,
    others: &[&str],
) -> Result<Bytes, Problem> {
    check_media_type(request.headers(), others)?;
    read_body(request.into_body(), app.bounds).await
}

/// Parses a body that is a JSON object. Fails with the problem to answer.
pub(super) async fn object(body: Bytes, app: &App) -> Result<Map<String, Value>, Problem> {
    if body.len() <= PARSED_AT_ONCE {
        parse(&body)
    } else {
        app.compute.run(move || parse(&body)).await?
    }
}

fn parse(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    let mut duplicates = FieldErrors::default();
    match json::parse(body, &mut duplicates) {
        Ok(_) if duplicates.total > 0 => Err(Problem::invalid(duplicates)),
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::invalid(FieldErrors::one("", "an object"))),
        // What the parser says of wrong syntax is from a fixed list, with line and column; it never
        // repeats what was sent.
        Err(error) => {
            let what = if error.is_eof() {
                "ends too early"
            } else {
                "is not JSON"
            };
            Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "malformed-json",
                format!("The body {what}: {error}"),
            ))
        }
    }
}

async fn read_body(body: Body, bounds: Bounds) -> Result<Bytes, Problem> {
    // A length that is announced is refused before a byte is read, and before `100 Continue` asks
    // for it.
    if body.size_hint().lower() > bounds.body as u64 {
        return Err(too_large(bounds));
    }
    let read = Limited::new(body, bounds.body).collect();
    let collected = tokio::time::timeout(bounds.body_time, read)
        .await
        .map_err(|_| {
            let seconds = bounds.body_time.as_secs_f64();
            let detail = format!("The body did not arrive within {seconds} s");
            Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", detail)
        })?;
    collected
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| {
            if is_too_long(&*error) {
                too_large(bounds)
            } else {
                Problem::new(
                    StatusCode::BAD_REQUEST,
                    "incomplete-body",
                    "The body ended before its announced length",
                )
            }
        })
}

fn too_large(bounds: Bounds) -> Problem {
    let detail = format!("The body may have {} bytes at most", bounds.body);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
}

/// Whether the limit is what ended the body, at any depth of the error.
fn is_too_long(error: &(dyn Error + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(is_too_long)
}

/// Only plain JSON in UTF-8, or a type of `others`, of which `""` is none at all. Compressed bodies
/// are refused: some bytes of them can stand for gigabytes.
fn check_media_type(headers: &HeaderMap, others: &[&str]) -> Result<(), Problem> {
    let refuse = |kind, detail| {
        Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            kind,
            detail,
        ))
    };
    let codings = headers.get_all(header::CONTENT_ENCODING).iter();
    if codings
        .into_iter()
        .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return refuse("unsupported-encoding", "The body must not be compressed");
    }
    let given = headers.get_all(header::CONTENT_TYPE).iter().count();
    let only = headers.get(header::CONTENT_TYPE);
    let only = only.map_or("", |only| only.to_str().unwrap_or("unreadable"));
    let is_other = given <= 1 && others.contains(&only);
    if !is_other && !is_json(headers) {
        return refuse(
            "unsupported-media-type",
            "The body must be application/json, in UTF-8",
        );
    }
    Ok(())
}

/// `application/json` or a `+json` type; a `charset`, if there is one, must be UTF-8.
fn is_json(headers: &HeaderMap) -> bool {
    let mut given = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(only), None) = (given.next(), given.next()) else {
        return false;
    };
    if only == "application/json" {
        return true; // nearly always: without a copy
    }
    let given = only.to_str().unwrap_or_default().to_ascii_lowercase();
    let mut parts = given.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let is_json = essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    is_json
        && parts
            .filter_map(|part| part.strip_prefix("charset="))
            .all(|set| set.trim_matches('"') == "utf-8")
}

/// An error for each field that is left over when all `known` ones are taken out.
pub(super) fn refuse_unknown(rest: &Map<String, Value>, known: &str, errors: &mut FieldErrors) {
    for name in rest.keys() {
        let field = || crate::preprocess::pointer("", name);
        errors.push(field, format!("no such field; the fields are {known}"));
    }
}
