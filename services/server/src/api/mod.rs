//! The interfaces for programs: both documents, made once from the types of the code, and a page to browse them.

mod asyncapi;
pub mod core_subjects;
mod openapi;
mod page;

use std::sync::LazyLock;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use platform::api::{JSON, Schemas};
use platform::routes::{Route, Routes};
use serde_json::Value;

use crate::http;

static OPENAPI: LazyLock<String> = LazyLock::new(|| text(&openapi()));
static ASYNCAPI: LazyLock<String> = LazyLock::new(|| text(&asyncapi()));

/// The documents as they are served.
pub fn openapi_text() -> &'static str {
    &OPENAPI
}

pub fn asyncapi_text() -> &'static str {
    &ASYNCAPI
}

/// The OpenAPI document of the whole platform, whichever services a process runs.
pub fn openapi() -> Value {
    openapi::document(&operations())
}

/// The AsyncAPI document of the whole platform.
pub fn asyncapi() -> Value {
    asyncapi::document()
}

/// Every route of the platform with its operation.
pub fn operations() -> Vec<Route> {
    let services = [users::operations(), rides::operations(), location::operations()];
    services.into_iter().flatten().chain(http::operations()).chain(routes().into_list()).collect()
}

fn text(document: &Value) -> String {
    serde_json::to_string_pretty(document).expect("a document has string keys") + "\n"
}

pub(crate) fn routes() -> Routes {
    let described = |summary: &'static str| {
        move |operation: &mut platform::api::Operation| {
            operation.summary = summary;
            operation.add_answer(200, Some((JSON, Schemas::written::<serde_json::Map<String, Value>>)));
        }
    };
    Routes::default()
        .get("/openapi.json", async || document(&OPENAPI))
        .with(described("This document: the HTTP interface, as OpenAPI 3.1."))
        .get("/asyncapi.json", async || document(&ASYNCAPI))
        .with(described("The frames of the WebSocket and the messages on NATS, as AsyncAPI 3.1."))
        .get("/docs", page::page)
        .described("Both documents as a page for a browser.", &[])
        .with(page::describe)
        .get("/docs/page.js", page::script)
        .described("The script of the page.", &[])
        .with(page::describe_script)
        .get("/docs/page.css", page::style)
        .described("The style of the page.", &[])
        .with(page::describe_style)
}

fn document(text: &'static str) -> Response {
    ([(CONTENT_TYPE, JSON), (CACHE_CONTROL, page::CACHED)], text).into_response()
}
