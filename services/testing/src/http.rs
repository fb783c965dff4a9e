//! One HTTP request of a test, JSON in and JSON out.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// The wait for an answer.
const WAIT: Duration = Duration::from_secs(30);

/// The status and the body of the answer; a body that is not JSON comes as a string.
///
/// # Errors
/// If nobody answers within 30 s.
pub async fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<Value>,
) -> anyhow::Result<(u16, Value)> {
    request_with(addr, (method, path), token, &[], body).await
}

/// The same with more headers.
///
/// # Errors
/// If nobody answers within 30 s.
pub async fn request_with(
    addr: SocketAddr,
    (method, path): (&str, &str),
    token: Option<&str>,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> anyhow::Result<(u16, Value)> {
    let answer = answer(addr, (method, path), token, headers, body).await?;
    Ok((answer.status, answer.body))
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Empty if it has none.
    pub content_type: String,
    /// A body that is not JSON comes as a string; none as an empty one.
    pub body: Value,
}

/// The answer to a request.
///
/// # Errors
/// If nobody answers within 30 s.
pub async fn answer(
    addr: SocketAddr,
    (method, path): (&str, &str),
    token: Option<&str>,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> anyhow::Result<Answer> {
    let mut request = Request::builder().method(method).uri(format!("http://{addr}{path}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let request = request.header("content-type", "application/json").body(Full::new(Bytes::from(body)))?;
    // A client for each request: a pooled connection must not outlive the runtime of its test.
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let answer = async {
        let response = client.request(request).await?;
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.to_owned();
        anyhow::Ok((status, kind, response.into_body().collect().await?.to_bytes()))
    };
    let (status, content_type, bytes) = tokio::time::timeout(WAIT, answer).await??;
    let text = || String::from_utf8_lossy(&bytes).into_owned().into();
    Ok(Answer { status, content_type, body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()) })
}
