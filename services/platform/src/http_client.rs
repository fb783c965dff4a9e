//! The HTTP client of everything that the platform sends out: pooled connections, HTTP/2 where the server speaks it, TLS with the
//! certificates that this machine trusts, a limit on the wait, on the tries and on the response, and a circuit breaker for each
//! host, with its state in health and metrics. It follows no redirects.

mod circuits;
mod reach;

use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::uri::Scheme;
use axum::http::{Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, sleep, timeout_at};

use crate::Platform;
use crate::breaker::Rules;
use circuits::Circuits;
pub use reach::Reach;
use reach::{NotPublic, Resolver};

/// An unused connection is closed after this time.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// What is read of a response's body. The rest is dropped, and with it the connection.
pub const RESPONSE_MAX: usize = 64 * 1_024;
/// The pause before the second try; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What a client is for.
#[derive(Debug, Clone, Copy)]
pub struct Purpose {
    /// Its name in health and metrics.
    pub name: &'static str,
    /// The wait for a response, from the connection to the end of its body, with all tries.
    pub wait: Duration,
    /// At most so many tries, while there is no answer, or one of 502, 503 and 504. More than one only for requests that may
    /// arrive twice.
    pub tries: u32,
    /// When nothing is sent to a host any more.
    pub circuit: Rules,
    pub reach: Reach,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// By https what the server speaks, HTTP/2 first; by http HTTP/1.1.
    Any,
    /// HTTP/2 alone, by http with prior knowledge.
    Http2,
}

/// How much of a response there must be, for it to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needed {
    /// What comes late, breaks off or has no end is cut.
    Head,
    /// With the end of the body and the trailers.
    Whole,
}

type HttpClientOf<C> = Client<C, Body>;
type HttpsClient = HttpClientOf<HttpsConnector<HttpConnector<Resolver>>>;

/// Clones share their connections and circuit breakers.
#[derive(Debug, Clone)]
pub struct HttpClient {
    purpose: Purpose,
    http: HttpClientOf<HttpConnector<Resolver>>,
    /// Built on the first request by https: a machine without certificates can still send by http.
    https: Arc<OnceLock<Result<HttpsClient, String>>>,
    circuits: Arc<Circuits>,
}

/// Why there is no response. The texts contain no header, no body and no address of the request.
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
    /// The server answered, and not what it is there for. Only of [`HttpClient::send_and_read`].
    #[error("{0}")]
    Unusable(String),
    /// Nothing was sent.
    #[error("has not answered for a while: nothing is sent to it")]
    CircuitOpen,
    /// Nothing was sent: [`Purpose::reach`] does not allow the address, whatever name it has.
    #[error("{NotPublic}")]
    NotPublic,
    /// Nothing was sent.
    #[error("the address is none of http or https with a host")]
    NoHost,
}

impl HttpClientError {
    /// Its label in metrics.
    fn outcome(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::NoCertificates(_) | Self::Connection(_) => "connection",
            Self::Unusable(_) => "unusable",
            Self::CircuitOpen => "circuit_open",
            Self::NotPublic | Self::NoHost => "refused",
        }
    }
}

impl HttpClient {
    pub fn new(platform: &Platform, purpose: Purpose) -> Self {
        Self {
            purpose,
            http: build(&purpose, connector(&purpose)),
            https: Arc::default(),
            circuits: Arc::new(Circuits::new(platform, purpose.name, purpose.circuit)),
        }
    }

    /// A client that trusts other certificates than this machine's.
    #[cfg(test)]
    fn trusting(platform: &Platform, purpose: Purpose, config: tokio_rustls::rustls::ClientConfig) -> Self {
        let builder = HttpsConnectorBuilder::new().with_tls_config(config);
        let https = build(&purpose, wrapped(&purpose, builder));
        Self { https: Arc::new(OnceLock::from(Ok(https))), ..Self::new(platform, purpose) }
    }

    /// Posts JSON.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn post_json(&self, url: &Uri, body: impl Into<Bytes>) -> Result<Response<Bytes>, HttpClientError> {
        let request = Request::post(url.clone()).header(header::CONTENT_TYPE, "application/json").body(body.into());
        self.send(request.map_err(|error| HttpClientError::Connection(error.to_string()))?).await
    }

    /// Sends a request to an absolute URI and returns the response, whatever its status. Of a body that is longer than
    /// [`RESPONSE_MAX`], that breaks off, or that does not end within the wait, there is only the beginning: this is for those to whom
    /// the head says all. Trailers are among the headers.
    ///
    /// # Errors
    /// [`HttpClientError`] if the head of the response has not come within the purpose's wait, connecting and all tries included.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpClientError> {
        self.send_as(&request, Needed::Head, &|_| Ok(())).await.map(|(response, ())| response)
    }

    /// The same for those to whom the body or the trailers say what came of it: without its end there is no answer.
    ///
    /// # Errors
    /// [`HttpClientError`] if the whole response has not come within the purpose's wait, or is longer than [`RESPONSE_MAX`].
    pub async fn send_for_whole(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpClientError> {
        self.send_as(&request, Needed::Whole, &|_| Ok(())).await.map(|(response, ())| response)
    }

    /// Returns what `read` makes of the whole response. What it refuses counts against the server as an error of its own (5xx) does,
    /// which `read` does not see.
    ///
    /// # Errors
    /// As [`send_for_whole`](Self::send_for_whole), and [`HttpClientError::Unusable`].
    pub async fn send_and_read<T>(
        &self,
        request: Request<Bytes>,
        read: impl Fn(&Response<Bytes>) -> Result<T, String>,
    ) -> Result<T, HttpClientError> {
        let usable = |response: &Response<Bytes>| match response.status() {
            status if status.is_server_error() => Err(format!("answered {status}")),
            _ => read(response),
        };
        self.send_as(&request, Needed::Whole, &usable).await.map(|(_, answer)| answer)
    }

    async fn send_as<T>(
        &self,
        request: &Request<Bytes>,
        needed: Needed,
        read: &impl Fn(&Response<Bytes>) -> Result<T, String>,
    ) -> Result<(Response<Bytes>, T), HttpClientError> {
        let sent = self.send_with_retries(request, needed, read).await;
        if let Err(error @ (HttpClientError::NotPublic | HttpClientError::NoHost | HttpClientError::CircuitOpen)) =
            &sent
        {
            self.circuits.count(error.outcome());
        }
        sent
    }

    async fn send_with_retries<T>(
        &self,
        request: &Request<Bytes>,
        needed: Needed,
        read: &impl Fn(&Response<Bytes>) -> Result<T, String>,
    ) -> Result<(Response<Bytes>, T), HttpClientError> {
        let uri = request.uri();
        let known = uri.scheme() == Some(&Scheme::HTTP) || uri.scheme() == Some(&Scheme::HTTPS);
        let host = uri.authority().filter(|authority| known && !authority.host().is_empty());
        let host = host.ok_or(HttpClientError::NoHost)?.as_str();
        if !self.purpose.reach.admits_host(uri.host().unwrap_or_default()) {
            return Err(HttpClientError::NotPublic);
        }
        let until = Instant::now() + self.purpose.wait;
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            if !self.circuits.admits(host) {
                return Err(HttpClientError::CircuitOpen);
            }
            let answered = self.try_once(request, until, needed).await;
            let again = match &answered {
                Ok(response) => is_overloaded(response.status()),
                Err(error) => matches!(error, HttpClientError::Connection(_)),
            };
            let status = answered.as_ref().ok().map(Response::status);
            let tried = answered.and_then(|response| match read(&response) {
                Ok(answer) => Ok((response, answer)),
                Err(why) => Err(HttpClientError::Unusable(why)),
            });
            match (&tried, status) {
                (Err(HttpClientError::NotPublic), _) => {}
                (Ok(_), Some(status)) if !status.is_server_error() => self.circuits.succeeded(host),
                _ => self.circuits.failed(host),
            }
            match (&tried, status) {
                (Err(HttpClientError::NotPublic), _) => {}
                // An error of the server itself is counted as what it is.
                (Err(error), status) if status.is_none_or(|status| !status.is_server_error()) => {
                    self.circuits.count(error.outcome());
                }
                (_, status) => status.into_iter().for_each(|status| self.circuits.count(class(status))),
            }
            if !again || tries >= self.purpose.tries || Instant::now() + pause >= until {
                return tried;
            }
            sleep(pause).await;
            pause *= 2;
            tries += 1;
        }
    }

    async fn try_once(
        &self,
        request: &Request<Bytes>,
        until: Instant,
        needed: Needed,
    ) -> Result<Response<Bytes>, HttpClientError> {
        let timeout = || HttpClientError::Timeout(self.purpose.wait);
        let (mut head, mut body) =
            timeout_at(until, self.request(request)?).await.map_err(|_| timeout())?.map_err(from_client)?.into_parts();
        let mut read = Vec::new();
        loop {
            let frame = match (timeout_at(until, body.frame()).await, needed) {
                (Ok(None), _) | (Err(_) | Ok(Some(Err(_))), Needed::Head) => break,
                (Ok(Some(Ok(frame))), _) => frame,
                (Err(_), Needed::Whole) => return Err(timeout()),
                (Ok(Some(Err(error))), Needed::Whole) => {
                    return Err(HttpClientError::Connection(format!("the response broke off: {error}")));
                }
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                // Of gRPC the outcome is in the trailers.
                Err(frame) => {
                    head.headers.extend(frame.into_trailers().unwrap_or_default());
                    continue;
                }
            };
            let room = RESPONSE_MAX - read.len();
            if needed == Needed::Whole && data.len() > room {
                return Err(HttpClientError::Unusable(format!("the response is longer than {RESPONSE_MAX} bytes")));
            }
            read.extend_from_slice(&data[..data.len().min(room)]);
            if needed == Needed::Head && read.len() == RESPONSE_MAX {
                break;
            }
        }
        Ok(Response::from_parts(head, Bytes::from(read)))
    }

    fn request(&self, request: &Request<Bytes>) -> Result<ResponseFuture, HttpClientError> {
        let request = request.clone().map(Body::from);
        if request.uri().scheme() == Some(&Scheme::HTTPS) {
            Ok(self.https()?.request(request))
        } else {
            Ok(self.http.request(request))
        }
    }

    fn https(&self) -> Result<&HttpsClient, HttpClientError> {
        let client = self.https.get_or_init(|| {
            let builder = HttpsConnectorBuilder::new().with_native_roots().map_err(|error| error.to_string())?;
            Ok(build(&self.purpose, wrapped(&self.purpose, builder)))
        });
        client.as_ref().map_err(|error| HttpClientError::NoCertificates(error.clone()))
    }
}

fn connector(purpose: &Purpose) -> HttpConnector<Resolver> {
    let mut connector = HttpConnector::new_with_resolver(Resolver::new(purpose.reach));
    connector.set_nodelay(true);
    connector
}

fn wrapped(
    purpose: &Purpose,
    builder: HttpsConnectorBuilder<hyper_rustls::builderstates::WantsSchemes>,
) -> HttpsConnector<HttpConnector<Resolver>> {
    let mut connector = connector(purpose);
    connector.enforce_http(false);
    match purpose.protocol {
        Protocol::Any => builder.https_only().enable_all_versions().wrap_connector(connector),
        Protocol::Http2 => builder.https_only().enable_http2().wrap_connector(connector),
    }
}

fn build<C: Connect + Clone>(purpose: &Purpose, connector: C) -> HttpClientOf<C> {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .http2_only(purpose.protocol == Protocol::Http2)
        .build(connector)
}

fn is_overloaded(status: StatusCode) -> bool {
    [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT].contains(&status)
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}

fn from_client(error: hyper_util::client::legacy::Error) -> HttpClientError {
    // hyper's own text says only in which step it failed.
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        if error.is::<NotPublic>() {
            return HttpClientError::NotPublic;
        }
        text = format!("{text}: {error}");
        source = error.source();
    }
    HttpClientError::Connection(text)
}

#[cfg(test)]
mod tests;
