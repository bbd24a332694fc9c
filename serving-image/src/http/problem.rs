//! Errors as RFC 9457 `application/problem+json`, or in the shape of the protocol of their path.

use std::fmt::Write as _;

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use tracing::error;

use super::{App, rerank};
use crate::compute::ComputeError;
use crate::preprocess::{FieldError, FieldErrors};

/// In whose words a path's errors are told.
enum Protocol {
    /// RFC 9457.
    Own,
    /// The Open Inference Protocol V2, and KServe's V1.
    Inference,
    /// OpenAI's API.
    OpenAi,
    /// Cohere's, and that of text-embeddings-inference.
    Rerank,
}

impl Protocol {
    fn of(path: &str) -> Self {
        if rerank::PATHS.contains(&path) || path == "/embed" {
            Self::Rerank
        } else if path == "/v2" || path.starts_with("/v2/") || path.ends_with(":predict") {
            Self::Inference
        } else if path.starts_with("/v1/") {
            Self::OpenAi
        } else {
            Self::Own
        }
    }
}

/// A JSON pointer as OpenAI writes it: `messages[0].role` for `/messages/0/role`.
fn parameter(pointer: &str) -> String {
    let mut name = String::new();
    for step in pointer.split('/').skip(1) {
        if !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit()) {
            let _ = write!(name, "[{step}]"); // a String takes everything
        } else {
            let dot = if name.is_empty() { "" } else { "." };
            name += dot;
            name += &step.replace("~1", "/").replace("~0", "~");
        }
    }
    name
}

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

    /// 404 of OpenAI's paths for another model than the one that is served.
    pub(super) fn unknown_model(name: &str) -> Self {
        let detail = format!("Served here is the model {name}");
        Self::new(StatusCode::NOT_FOUND, "model-not-found", detail)
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

    /// The answer's status and body, in the words of the path's protocol.
    pub(super) fn render_for(&self, path: &str, app: &App, request_id: &str) -> Response {
        match Protocol::of(path) {
            Protocol::Own => self.render(app, request_id),
            Protocol::Inference => self.render_text(),
            Protocol::OpenAi => self.render_openai(request_id),
            Protocol::Rerank => self.render_rerank(),
        }
    }

    /// As the Open Inference Protocol and KServe's V1 have it: one text, which lists all wrong
    /// fields, and 400 for them.
    fn render_text(&self) -> Response {
        let body = Json(json!({"error": self.in_one_text()}));
        let mut response = (self.status_400(), body).into_response();
        self.add_headers(response.headers_mut());
        response
    }

    /// As OpenAI's API has it. Beside its error object, which clients read, all wrong fields and
    /// the request's id.
    fn render_openai(&self, request_id: &str) -> Response {
        let status = self.status_400();
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let first = self.errors.listed.first();
        let mut body = json!({
            "error": {
                "message": self.in_one_text(),
                "type": kind,
                "param": first.map(|error| parameter(&error.field)),
                "code": self.kind.replace('-', "_"),
            },
            "request_id": request_id,
        });
        if first.is_some() {
            body["errors"] = json!(self.errors.listed);
        }
        let mut response = (status, Json(body)).into_response();
        self.add_headers(response.headers_mut());
        response
    }

    /// One text by the keys of either: Cohere's clients read `message`, those of
    /// text-embeddings-inference the others.
    fn render_rerank(&self) -> Response {
        let text = self.in_one_text();
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "Overloaded",
            status if status.is_server_error() => "Backend",
            _ => "Validation",
        };
        let body = json!({"message": text, "error": text, "error_type": kind});
        let mut response = (self.status, Json(body)).into_response();
        self.add_headers(response.headers_mut());
        response
    }

    /// The detail and all wrong fields.
    fn in_one_text(&self) -> String {
        let mut error = self.detail.clone();
        for FieldError { field, expected } in &self.errors.listed {
            let field = if field.is_empty() { "the body" } else { field };
            let _ = write!(error, "; {field}: expected {expected}"); // a String takes everything
        }
        error
    }

    /// The status, with 400 for wrong fields.
    fn status_400(&self) -> StatusCode {
        match self.status {
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            status => status,
        }
    }

    fn render(&self, app: &App, request_id: &str) -> Response {
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

#[cfg(test)]
mod tests {
    use super::parameter;

    #[test]
    fn a_parameter_is_worded_as_openai_does() {
        for (pointer, expected) in [
            ("/temperature", "temperature"),
            ("/messages/0/role", "messages[0].role"),
            ("/input/12", "input[12]"),
            ("/a~1b/c~0d", "a/b.c~d"),
            ("", ""),
        ] {
            assert_eq!(parameter(pointer), expected);
        }
    }
}
