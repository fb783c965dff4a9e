//! HTTP calls to one base URL: JSON in and out, one connection a call, bounded in time and size. Redirects are not
//! followed, and `https` is refused. Tokens belong to the caller.

use std::io;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Uri, header};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::time::timeout;
use tower::service_fn;

use crate::frame::text;
use crate::transport::{Connection, Transport};

/// The wait for the whole response, from the connection on.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest body that is read, bytes.
const BODY_MAX: usize = 1 << 20;

/// A client of one base URL.
#[derive(Debug, Clone)]
pub(crate) struct HttpClient {
    transport: Transport,
    authority: String,
    path_prefix: String,
}

/// The response to a call; `body` is null if it is not JSON.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Response {
    /// Status, `code` and `detail` of a problem, for error texts.
    pub(crate) fn problem(&self) -> String {
        let (code, detail) = (text(&self.body, "code"), text(&self.body, "detail"));
        format!("{} {code} {detail}", self.status).trim_end().to_owned()
    }
}

impl HttpClient {
    /// # Errors
    /// The URL is not of the form `http://host:port`, with an optional path.
    pub(crate) fn new(transport: &Transport, url: &str) -> Result<Self> {
        if url.starts_with("https://") {
            bail!("`{url}`: the simulated city speaks plain http only; put its URL behind the TLS ingress");
        }
        let rest =
            url.strip_prefix("http://").with_context(|| format!("`{url}` is not of the form http://host:port"))?;
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        ensure!(!authority.is_empty(), "`{url}` names no host");
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let prefix = prefix.trim_end_matches('/');
        let path_prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Ok(Self { transport: transport.clone(), authority, path_prefix })
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// `path` below the path of the base URL.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.path_prefix)
    }

    /// Opens a connection, for HTTP or for a WebSocket.
    ///
    /// # Errors
    /// Nobody listens at the address.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let connected = self.transport.connect(&self.authority).await;
        connected.with_context(|| format!("cannot connect to {}", self.authority))
    }

    /// Makes one call. A response with any status is `Ok`.
    ///
    /// # Errors
    /// No connection, no response in time, or a body that is too large.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Response> {
        match timeout(CALL_TIMEOUT, self.send(method, path, token, body)).await {
            Ok(response) => response.with_context(|| format!("{}{path}", self.authority)),
            Err(_) => bail!("{}{path}: no answer within {CALL_TIMEOUT:?}", self.authority),
        }
    }

    async fn send(&self, method: Method, path: &str, token: Option<&str>, body: Option<&Value>) -> Result<Response> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{}", self.authority, self.path(path)))
            .header(header::CONNECTION, "close")
            .header(header::ACCEPT, "application/json");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = request.body(Full::new(bytes)).context("cannot form the request")?;
        // No pool: a process that was killed leaves no dead connection for the next call.
        let to = self.clone();
        let connector = service_fn(move |_: Uri| {
            let to = to.clone();
            Box::pin(async move {
                to.connect().await.map(TokioIo::new).map_err(|error| io::Error::other(format!("{error:#}")))
            })
        });
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        let response = client.request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        Ok(Response { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_has_a_host_a_port_and_an_optional_path() {
        let client = |url| HttpClient::new(&Transport::Tcp, url);
        let plain = client("http://127.0.0.1:8080/").unwrap();
        assert_eq!((plain.authority(), plain.path("/v1/me").as_str()), ("127.0.0.1:8080", "/v1/me"));
        let prefixed = client("http://city.test/api/").unwrap();
        assert_eq!((prefixed.authority(), prefixed.path("/v1/me").as_str()), ("city.test:80", "/api/v1/me"));
        assert!(client("https://city.test").unwrap_err().to_string().contains("plain http only"));
        assert!(client("city.test:80").is_err());
        assert!(client("http:///x").is_err());
    }
}
