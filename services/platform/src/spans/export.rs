//! The exporter: takes spans from the queue and sends them to a collector in batches, by OTLP over HTTP or over gRPC.
//!
//! A collector that does not answer costs spans, which are counted, and nothing else.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use prometheus::{IntCounter, IntCounterVec};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::otlp::{self, Resource};
use super::recorder::Spans;
use super::sampling::{Sampler, Tail};
use super::span::Span;
use crate::breaker::Rules;
use crate::http_client::{self, HttpClient, Purpose, Reach};
use crate::{CancellationToken, Platform};

/// The most spans of one request, and the longest time that one waits for others.
const BATCH_MAX: usize = 512;
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// Limit of the last requests at shutdown.
const FLUSH_WAIT: Duration = Duration::from_secs(5);
/// The path of OTLP over HTTP, and the method of OTLP over gRPC.
const HTTP_PATH: &str = "/v1/traces";
const GRPC_METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// `OTEL_EXPORTER_OTLP_PROTOCOL`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    HttpProtobuf,
    Grpc,
}

#[derive(Debug, Clone)]
pub struct ExporterConfig {
    /// The collector, without the path of traces.
    pub endpoint: Uri,
    pub protocol: Protocol,
    /// Sent with every request. They may be secret.
    pub headers: HeaderMap,
    pub resource: Resource,
    pub sampler: Sampler,
    /// A span that takes at least so long is exported, whatever the sampler says.
    pub slow: chrono::Duration,
    /// So is the rest of a ride whose search took at least so long.
    pub slow_ride: chrono::Duration,
}

impl ExporterConfig {
    /// Where the requests go.
    fn uri(&self) -> Result<Uri, String> {
        let (path, method) = (self.endpoint.path().trim_end_matches('/'), self.protocol);
        let path = match method {
            Protocol::HttpProtobuf => format!("{path}{HTTP_PATH}"),
            Protocol::Grpc => GRPC_METHOD.to_owned(),
        };
        let mut parts = self.endpoint.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(path).map_err(|error| error.to_string())?);
        Uri::from_parts(parts).map_err(|error| error.to_string())
    }
}

/// Sends the spans of one process.
#[derive(Debug)]
pub struct Exporter {
    config: ExporterConfig,
    uri: Uri,
    spans: mpsc::Receiver<Span>,
    client: HttpClient,
    platform: Platform,
    exported: IntCounter,
    dropped: IntCounterVec,
}

impl Exporter {
    /// Switches the spans of `platform` on. Clones of it that were made before record none.
    ///
    /// # Errors
    /// A sentence about the endpoint.
    pub fn new(platform: &mut Platform, config: ExporterConfig) -> Result<Self, String> {
        let uri = config.uri()?;
        let purpose = Purpose {
            name: "traces",
            wait: Duration::from_secs(10),
            tries: 3,
            circuit: Rules { failures_max: 5, open_for: chrono::Duration::seconds(10) },
            reach: Reach::Anywhere,
            protocol: match config.protocol {
                Protocol::HttpProtobuf => http_client::Protocol::Any,
                Protocol::Grpc => http_client::Protocol::Http2,
            },
        };
        let (exported, dropped) = (platform.metrics.spans_exported.clone(), platform.metrics.spans_dropped.clone());
        let (on, spans) =
            Spans::new(config.sampler, config.slow_ride, platform.bus.messaging_system(), dropped.clone());
        platform.spans = on;
        let client = HttpClient::new(platform, purpose);
        Ok(Self { config, uri, spans, client, platform: platform.clone(), exported, dropped })
    }

    /// Exports until `stop`, and then what is in the queue.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tail = Tail::new(self.config.slow);
        let mut batch: Vec<Span> = Vec::new();
        let mut send_at = Instant::now() + BATCH_WAIT;
        loop {
            let now = self.platform.world.now();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                span = self.spans.recv() => match span {
                    Some(span) => batch.extend(tail.add(span, now)),
                    None => break,
                },
                () = sleep_until(send_at) => {}
            }
            if batch.len() < BATCH_MAX && Instant::now() < send_at {
                continue;
            }
            tail.expire(now);
            self.send_all(&mut batch).await;
            send_at = Instant::now() + BATCH_WAIT;
        }
        while let Ok(span) = self.spans.try_recv() {
            batch.extend(tail.add(span, self.platform.world.now()));
        }
        let left = batch.len();
        if tokio::time::timeout(FLUSH_WAIT, self.send_all(&mut batch)).await.is_err() {
            tracing::warn!(spans = left, "the collector did not take the last spans");
        }
    }

    async fn send_all(&self, batch: &mut Vec<Span>) {
        while !batch.is_empty() {
            let page: Vec<Span> = batch.drain(..batch.len().min(BATCH_MAX)).collect();
            let count = page.len() as u64;
            match self.send(&page).await {
                Ok(()) => self.exported.inc_by(count),
                Err(why) => {
                    self.dropped.with_label_values(&["collector"]).inc_by(count);
                    tracing::debug!(why, spans = count, "the collector did not take spans");
                }
            }
        }
    }

    async fn send(&self, spans: &[Span]) -> Result<(), String> {
        let body = otlp::request(&self.config.resource, spans);
        let mut request = Request::post(self.uri.clone());
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.config.headers.clone());
            let kind = match self.config.protocol {
                Protocol::HttpProtobuf => "application/x-protobuf",
                Protocol::Grpc => "application/grpc",
            };
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            if self.config.protocol == Protocol::Grpc {
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
            }
        }
        let body = match self.config.protocol {
            Protocol::HttpProtobuf => Bytes::from(body),
            Protocol::Grpc => grpc_message(&body),
        };
        let request = request.body(body).map_err(|error| error.to_string())?;
        let sent = match self.config.protocol {
            Protocol::HttpProtobuf => self.client.send(request).await,
            Protocol::Grpc => self.client.send_for_whole(request).await,
        };
        let response = sent.map_err(|error| error.to_string())?;
        accepted(self.config.protocol, &response)
    }
}

/// A message of gRPC: not compressed, its length, its bytes.
fn grpc_message(body: &[u8]) -> Bytes {
    let mut message = vec![0];
    message.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    message.extend_from_slice(body);
    message.into()
}

/// Whether the collector took the spans; of gRPC the status is in the trailers.
fn accepted(protocol: Protocol, response: &Response<Bytes>) -> Result<(), String> {
    if !response.status().is_success() {
        return Err(format!("status {}", response.status()));
    }
    if protocol == Protocol::Grpc {
        let status = response.headers().get("grpc-status").and_then(|status| status.to_str().ok());
        if status != Some("0") {
            return Err(format!("grpc-status {}", status.unwrap_or("is missing")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(endpoint: &str, protocol: Protocol) -> String {
        let config = ExporterConfig {
            endpoint: endpoint.parse().unwrap(),
            protocol,
            headers: HeaderMap::new(),
            resource: Resource::default(),
            sampler: Sampler::default(),
            slow: chrono::Duration::seconds(1),
            slow_ride: chrono::Duration::seconds(1),
        };
        config.uri().unwrap().to_string()
    }

    #[test]
    fn the_paths_are_those_of_otlp() {
        for (endpoint, protocol, expected) in [
            ("http://c:4318", Protocol::HttpProtobuf, "http://c:4318/v1/traces"),
            ("https://c/otlp/", Protocol::HttpProtobuf, "https://c/otlp/v1/traces"),
            ("http://c:4317", Protocol::Grpc, &format!("http://c:4317{GRPC_METHOD}")),
        ] {
            assert_eq!(uri(endpoint, protocol), expected);
        }
    }

    #[test]
    fn a_grpc_answer_counts_by_its_status() {
        let response = |status: Option<&'static str>| {
            let mut response = Response::new(Bytes::new());
            if let Some(status) = status {
                response.headers_mut().insert("grpc-status", HeaderValue::from_static(status));
            }
            response
        };
        assert_eq!(accepted(Protocol::Grpc, &response(Some("0"))), Ok(()));
        assert_eq!(accepted(Protocol::Grpc, &response(Some("14"))), Err("grpc-status 14".to_owned()));
        assert_eq!(accepted(Protocol::Grpc, &response(None)), Err("grpc-status is missing".to_owned()));
        assert_eq!(accepted(Protocol::HttpProtobuf, &response(None)), Ok(()));
    }
}
