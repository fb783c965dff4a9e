//! The HTTP client of everything that the platform sends out: HTTP/1.1 with pooled connections, TLS with the certificates
//! that this machine trusts, and a limit on the wait for each response.

use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::uri::Scheme;
use axum::http::{Request, StatusCode, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

/// An unused connection is closed after this time.
const IDLE_MAX: Duration = Duration::from_secs(60);

type HttpsClient = Client<HttpsConnector<HttpConnector>, Body>;

/// Clones share their connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    http: Client<HttpConnector, Body>,
    /// Built on the first request by https: a machine without certificates can still send by http.
    https: Arc<OnceLock<Result<HttpsClient, String>>>,
}

/// Why there is no response. The texts contain no header and no body of the request.
#[derive(Debug, thiserror::Error)]
pub enum HttpClientError {
    /// The server may have received the request.
    #[error("did not answer in {0:?}")]
    Timeout(Duration),
    #[error("https cannot be used: {0}")]
    NoCertificates(String),
    /// The request could not be sent, or the connection ended before the response.
    #[error("{0}")]
    Connection(String),
}

impl Default for HttpClient {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { http: build(connector), https: Arc::default() }
    }
}

impl HttpClient {
    /// A client that trusts other certificates than this machine's.
    #[cfg(test)]
    fn with_https(connector: HttpsConnector<HttpConnector>) -> Self {
        Self { https: Arc::new(OnceLock::from(Ok(build(connector)))), ..Self::default() }
    }

    /// Posts JSON and returns the status of the response, whose body is discarded.
    ///
    /// # Errors
    /// [`HttpClientError`] if the head of the response has not come within `limit`, connecting included.
    pub async fn post_json(
        &self,
        url: &Uri,
        body: impl Into<Bytes>,
        limit: Duration,
    ) -> Result<StatusCode, HttpClientError> {
        let request = Request::post(url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.into()))
            .map_err(|error| HttpClientError::Connection(error.to_string()))?;
        let response = if url.scheme() == Some(&Scheme::HTTPS) {
            self.https()?.request(request)
        } else {
            self.http.request(request)
        };
        match timeout(limit, response).await {
            Ok(response) => Ok(response.map_err(|e| HttpClientError::Connection(with_sources(&e)))?.status()),
            Err(_) => Err(HttpClientError::Timeout(limit)),
        }
    }

    fn https(&self) -> Result<&HttpsClient, HttpClientError> {
        let client = self.https.get_or_init(|| {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            connector.enforce_http(false);
            let builder = HttpsConnectorBuilder::new().with_native_roots().map_err(|error| error.to_string())?;
            Ok(build(builder.https_only().enable_http1().wrap_connector(connector)))
        });
        client.as_ref().map_err(|error| HttpClientError::NoCertificates(error.clone()))
    }
}

fn build<C>(connector: C) -> Client<C, Body>
where
    C: hyper_util::client::legacy::connect::Connect + Clone,
{
    Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_MAX).build(connector)
}

/// The text of an error and of its causes: hyper's own text says only in which step it failed.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
