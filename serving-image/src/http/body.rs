//! A request's body: its media type, its size and time, its JSON.

use std::error::Error;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Map, Value};

use super::Bounds;
use super::problem::Problem;
use crate::preprocess::FieldErrors;

/// The body as a JSON object, or what is wrong with it.
pub(super) async fn read_object(
    request: Request,
    bounds: Bounds,
) -> Result<Map<String, Value>, Problem> {
    if !is_json(request.headers()) {
        let detail = "The body must be application/json, in UTF-8";
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            detail,
        ));
    }
    let body = read_body(request.into_body(), bounds).await?;
    match serde_json::from_slice(&body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::invalid(FieldErrors::one("", "an object"))),
        // The parser's own message is not passed on: it may repeat what was sent.
        Err(error) => {
            let what = if error.is_eof() {
                "ends too early"
            } else {
                "is not JSON"
            };
            let detail = format!(
                "The body {what}, at line {} column {}",
                error.line(),
                error.column()
            );
            Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "malformed-json",
                detail,
            ))
        }
    }
}

async fn read_body(body: Body, bounds: Bounds) -> Result<Bytes, Problem> {
    let read = Limited::new(body, bounds.body).collect();
    let collected = tokio::time::timeout(bounds.body_time, read)
        .await
        .map_err(|_| {
            let detail = format!(
                "The body did not arrive within {} s",
                bounds.body_time.as_secs_f64()
            );
            Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", detail)
        })?;
    collected
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| {
            if is_too_long(&*error) {
                let detail = format!("The body may have {} bytes at most", bounds.body);
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
            } else {
                Problem::new(
                    StatusCode::BAD_REQUEST,
                    "incomplete-body",
                    "The body ended before its announced length",
                )
            }
        })
}

/// Whether the limit is what ended the body, at any depth of the error.
fn is_too_long(error: &(dyn Error + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(is_too_long)
}

/// `application/json` or a `+json` type; a `charset`, if there is one, must be UTF-8.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(given) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let given = given.to_ascii_lowercase();
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
