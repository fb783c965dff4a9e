//! The page to browse the documents: one script and one style of its own, nothing from elsewhere.

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::response::{IntoResponse, Response};
use platform::api::{Operation, Schemas};

const PAGE: &str = include_str!("page/page.html");
const SCRIPT: &str = include_str!("page/page.js");
const STYLE: &str = include_str!("page/page.css");

/// The documents and the page change with the version of the program alone.
pub(super) const CACHED: &str = "public, max-age=300";

const HTML: &str = "text/html; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

pub(super) async fn page() -> Response {
    let headers = [
        (CONTENT_TYPE, HTML),
        (CACHE_CONTROL, CACHED),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, PAGE).into_response()
}

pub(super) async fn script() -> Response {
    ([(CONTENT_TYPE, JAVASCRIPT), (CACHE_CONTROL, CACHED)], SCRIPT).into_response()
}

pub(super) async fn style() -> Response {
    ([(CONTENT_TYPE, CSS), (CACHE_CONTROL, CACHED)], STYLE).into_response()
}

pub(super) fn describe(operation: &mut Operation) {
    operation.add_answer(200, Some((HTML, Schemas::written::<String>)));
}

pub(super) fn describe_script(operation: &mut Operation) {
    operation.add_answer(200, Some((JAVASCRIPT, Schemas::written::<String>)));
}

pub(super) fn describe_style(operation: &mut Operation) {
    operation.add_answer(200, Some((CSS, Schemas::written::<String>)));
}
