//! Errors as RFC 9457 `application/problem+json`.

use std::fmt::Write as _;

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::error;

use super::App;
use crate::compute::ComputeError;
use crate::preprocess::{FieldError, FieldErrors};

/// An error answer. Rendered by the middleware, which knows the model and the request's id.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    errors: FieldErrors,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    /// The number of errors, if not all are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors_total: Option<usize>,
    model: &'a str,
    model_version: &'a str,
    request_id: &'a str,
}

impl Problem {
    /// A problem of type `urn:serin:problem:<kind>`. The detail never repeats what the client sent.
    pub(super) fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            detail: detail.into(),
            errors: FieldErrors::default(),
        }
    }

    /// 422 with all wrong fields.
    pub(super) fn invalid(errors: FieldErrors) -> Self {
        let plural = if errors.total == 1 {
            "field is"
        } else {
            "fields are"
        };
        let detail = format!("{} {plural} not as expected", errors.total);
        Self {
            errors,
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-input", detail)
        }
    }

    /// 503 before the first prediction can be made.
    pub(super) fn loading() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "loading",
            "The model is being verified and loaded",
        )
    }

    /// 503 of `/readyz` after SIGTERM.
    pub(super) fn draining() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "draining",
            "The process is about to end; use another one",
        )
    }

    /// 429 where the queue is full.
    pub(super) fn overloaded() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "overloaded",
            "Every worker is busy and the queue is full",
        )
    }

    /// 500 for a fault of ours. The reason goes to the log, not to the client.
    pub(super) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The prediction failed; the log has the reason",
        )
    }

    /// 500 that was asked for.
    pub(super) fn test_fault() -> Self {
        let detail = "This error was asked for: the test facility is on (--test-faults)";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "test-fault", detail)
    }

    /// The answer's status and body, in the words of the Open Inference Protocol for its paths: one
    /// text, which lists all wrong fields, and 400 for them.
    pub(super) fn render_v2(&self) -> Response {
        let mut error = self.detail.clone();
        for FieldError { field, expected } in &self.errors.listed {
            let field = if field.is_empty() { "the body" } else { field };
            let _ = write!(error, "; {field}: expected {expected}"); // a String takes everything
        }
        let status = match self.status {
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            status => status,
        };
        let mut response = (status, Json(serde_json::json!({"error": error}))).into_response();
        self.add_headers(response.headers_mut());
        response
    }

    /// The answer's status and body.
    pub(super) fn render(&self, app: &App, request_id: &str) -> Response {
        let listed = self.errors.listed.len();
        let body = Body {
            r#type: format!("urn:serin:problem:{}", self.kind),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: &self.errors.listed,
            errors_total: (self.errors.total > listed).then_some(self.errors.total),
            model: &app.name,
            model_version: &app.version,
            request_id,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        self.add_headers(headers);
        response
    }

    fn add_headers(&self, headers: &mut HeaderMap) {
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                headers.insert(
                    header::ACCEPT_ENCODING,
                    HeaderValue::from_static("identity"),
                );
            }
            _ => {}
        }
    }
}

impl From<ComputeError> for Problem {
    fn from(error: ComputeError) -> Self {
        match error {
            ComputeError::Overloaded => Self::overloaded(),
            ComputeError::Panicked(reason) => {
                error!(%reason, "a computation panicked");
                Self::internal()
            }
        }
    }
}

impl IntoResponse for Problem {
    /// Only carries the problem to the middleware, which renders it.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
