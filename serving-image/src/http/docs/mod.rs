//! `/docs`: the contract for people, with a form to try it. Three small files of our own, nothing
//! from elsewhere: it works where there is no internet.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::App;

/// Nothing but what this server sends may load, run, be asked or frame the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/docs", page("text/html", include_str!("page.html")))
        .route("/docs/page.css", page("text/css", include_str!("page.css")))
        .route(
            "/docs/page.js",
            page("text/javascript", include_str!("page.js")),
        )
}

fn page(kind: &'static str, content: &'static str) -> axum::routing::MethodRouter<Arc<App>> {
    get(async move || headers(kind, content).into_response())
}

fn headers(kind: &str, content: &'static str) -> impl IntoResponse {
    let kind = format!("{kind}; charset=utf-8");
    let nosniff = "nosniff".to_owned();
    let headers: [(HeaderName, String); 3] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, nosniff),
    ];
    (headers, content)
}
