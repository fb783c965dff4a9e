//! A tiny HTTP/1.1 client over hyper: one connection a call, bounded in time and size. It owns no token and never
//! follows redirects; `https` is refused.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use crate::transport::{Connection, Transport};

/// The longest wait for the answer to one call.
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// The largest answer that is read.
const BODY_LIMIT: usize = 1 << 20;

/// One base URL.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    transport: Transport,
    authority: String,
    prefix: String,
}

/// The answer to a call; `body` is null if it was not JSON.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Reply {
    /// What the answer says went wrong, for error texts.
    pub(crate) fn problem(&self) -> String {
        let code = crate::frame::text(&self.body, "code");
        let detail = crate::frame::text(&self.body, "detail");
        format!("{} {code} {detail}", self.status).trim_end().to_owned()
    }
}

impl Http {
    /// Over TCP.
    ///
    /// # Errors
    /// See [`Self::over`].
    pub(crate) fn new(url: &str) -> Result<Self> {
        Self::over(&Transport::Tcp, url)
    }

    /// # Errors
    /// A URL that is not `http://host:port`, with an optional path.
    pub(crate) fn over(transport: &Transport, url: &str) -> Result<Self> {
        if url.starts_with("https://") {
            bail!("`{url}`: the simulated city speaks plain http only; put its URL behind the TLS ingress");
        }
        let rest =
            url.strip_prefix("http://").with_context(|| format!("`{url}` is not of the form http://host:port"))?;
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        ensure!(!authority.is_empty(), "`{url}` names no host");
        let port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if port { authority.to_owned() } else { format!("{authority}:80") };
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Ok(Self { transport: transport.clone(), authority, prefix })
    }

    /// `host:port`, for sockets.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// A path under this base URL.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// A new connection there.
    ///
    /// # Errors
    /// Nobody listens.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let connected = self.transport.connect(&self.authority).await;
        connected.with_context(|| format!("cannot connect to {}", self.authority))
    }

    /// One call; any status is an answer.
    ///
    /// # Errors
    /// No connection, no answer in time, or one too large.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Reply> {
        let whole = self.exchange(method, path, token, body);
        match timeout(CALL_LIMIT, whole).await {
            Ok(answer) => answer,
            Err(_) => bail!("{}{path}: no answer within {CALL_LIMIT:?}", self.authority),
        }
    }

    async fn exchange(&self, method: Method, path: &str, token: Option<&str>, body: Option<&Value>) -> Result<Reply> {
        let io = TokioIo::new(self.connect().await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let mut request = Request::builder()
            .method(method)
            .uri(self.path(path))
            .header(header::HOST, &self.authority)
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
        let answer = async {
            let reply = sender.send_request(request).await.with_context(|| format!("{}{path}", self.authority))?;
            let status = reply.status().as_u16();
            let body = Limited::new(reply.into_body(), BODY_LIMIT).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("{}{path}: {error}", self.authority))?.to_bytes();
            Ok(Reply { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
        };
        // The connection must be driven while the answer is awaited; it ends with it.
        tokio::pin!(connection);
        tokio::pin!(answer);
        tokio::select! {
            biased;
            reply = &mut answer => reply,
            end = &mut connection => match end {
                Ok(()) => answer.await,
                Err(error) => Err(error).with_context(|| format!("{}{path}", self.authority)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let http = Http::new("http://127.0.0.1:8080/").unwrap();
        assert_eq!((http.authority(), http.path("/v1/me").as_str()), ("127.0.0.1:8080", "/v1/me"));
        let http = Http::new("http://city.test/api/").unwrap();
        assert_eq!((http.authority(), http.path("/v1/me").as_str()), ("city.test:80", "/api/v1/me"));
        assert!(Http::new("https://city.test").unwrap_err().to_string().contains("plain http only"));
        assert!(Http::new("city.test:80").is_err());
        assert!(Http::new("http:///x").is_err());
    }
}
