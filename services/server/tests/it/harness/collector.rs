//! A collector of OpenTelemetry: it takes spans by OTLP over HTTP or over gRPC, decodes them with the published types, and shows a trace
//! as a tree.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// `service.name` of the resource, and its other attributes.
    pub(crate) service: String,
    pub(crate) resource: BTreeMap<String, String>,
    /// The part of the program.
    pub(crate) scope: String,
    pub(crate) span: Span,
}

impl Received {
    pub(crate) fn trace_id(&self) -> String {
        hex::encode(&self.span.trace_id)
    }

    pub(crate) fn attributes(&self) -> BTreeMap<String, String> {
        texts(&self.span.attributes)
    }
}

#[derive(Default)]
struct Taken {
    spans: Vec<Received>,
    requests: Vec<(String, HeaderMap)>,
    /// Requests that it is too busy for, from now on.
    busy: u32,
}

/// Runs until it is dropped.
pub(crate) struct Collector {
    pub(crate) addr: SocketAddr,
    taken: Arc<Mutex<Taken>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    pub(crate) async fn http() -> Self {
        Self::start(false).await
    }

    pub(crate) async fn grpc() -> Self {
        Self::start(true).await
    }

    async fn start(is_grpc: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let taken = Arc::<Mutex<Taken>>::default();
        let all = taken.clone();
        let task = tokio::spawn(async move {
            // Aborted with this task.
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let taken = all.clone();
                let service = service_fn(move |request| answer(taken.clone(), request, is_grpc));
                connections.spawn(async move {
                    let io = TokioIo::new(socket);
                    let _ = if is_grpc {
                        http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
                    } else {
                        http1::Builder::new().serve_connection(io, service).await
                    };
                });
            }
        });
        Self { addr, taken, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// It has too much to do for the next `requests`.
    pub(crate) fn be_busy(&self, requests: u32) {
        self.taken.lock().unwrap().busy = requests;
    }

    pub(crate) fn spans(&self) -> Vec<Received> {
        self.taken.lock().unwrap().spans.clone()
    }

    /// Path and headers of each request.
    pub(crate) fn requests(&self) -> Vec<(String, HeaderMap)> {
        self.taken.lock().unwrap().requests.clone()
    }

    /// The spans of a trace below `root`, the parent of the first, one a line and indented, those with the same parent by name. Links
    /// to spans that `names` has are shown. Panics if a span of the trace is not below `root`.
    pub(crate) fn tree(&self, trace_id: &str, root: &str, names: &[(&str, &str)]) -> String {
        let spans: Vec<Received> =
            self.spans().into_iter().filter(|received| received.trace_id() == trace_id).collect();
        let mut by_parent: BTreeMap<String, Vec<&Received>> = BTreeMap::new();
        for received in &spans {
            by_parent.entry(hex::encode(&received.span.parent_span_id)).or_default().push(received);
        }
        let mut lines = Vec::new();
        write(&by_parent, root, 0, names, &mut lines);
        let names: Vec<_> =
            spans.iter().map(|s| format!("{} of {}", s.span.name, hex::encode(&s.span.parent_span_id))).collect();
        assert_eq!(lines.len(), spans.len(), "all spans are below the root: {names:#?}\n{}", lines.join("\n"));
        lines.join("\n")
    }
}

fn write(
    by_parent: &BTreeMap<String, Vec<&Received>>,
    parent: &str,
    depth: usize,
    names: &[(&str, &str)],
    lines: &mut Vec<String>,
) {
    let mut children = by_parent.get(parent).cloned().unwrap_or_default();
    children.sort_by_key(|child| (child.span.name.clone(), child.span.start_time_unix_nano));
    for child in children {
        let kind = ["", "internal", "server", "client", "producer", "consumer"][child.span.kind as usize];
        let linked: Vec<String> = child.span.links.iter().map(|link| hex::encode(&link.trace_id)).collect();
        let links = names.iter().filter(|(id, _)| linked.iter().any(|to| to == id));
        let links: String = links.map(|(_, name)| format!(" → {name}")).collect();
        let error = child.span.status.as_ref().map(|status| format!(" !{}", status.message)).unwrap_or_default();
        lines.push(format!("{}{}: {} ({kind}){links}{error}", "  ".repeat(depth), child.service, child.span.name));
        write(by_parent, &hex::encode(&child.span.span_id), depth + 1, names, lines);
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().filter_map(|a| Some((a.key.clone(), text(a.value.as_ref()?.value.as_ref()?)))).collect()
}

async fn answer(
    taken: Arc<Mutex<Taken>>,
    request: Request<Incoming>,
    is_grpc: bool,
) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut body = body.collect().await.unwrap().to_bytes();
    let mut taken = taken.lock().unwrap();
    taken.requests.push((head.uri.path().to_owned(), head.headers));
    let is_busy = taken.busy > 0;
    taken.busy = taken.busy.saturating_sub(1);
    if !is_busy {
        if is_grpc {
            assert_eq!(body.get_u8(), 0, "not compressed");
            assert_eq!(body.get_u32() as usize, body.len());
        }
        let export = ExportTraceServiceRequest::decode(body).unwrap();
        for resource_spans in export.resource_spans {
            let resource = texts(&resource_spans.resource.unwrap().attributes);
            for scope_spans in resource_spans.scope_spans {
                let scope = scope_spans.scope.unwrap().name;
                taken.spans.extend(scope_spans.spans.into_iter().map(|span| Received {
                    service: resource["service.name"].clone(),
                    resource: resource.clone(),
                    scope: scope.clone(),
                    span,
                }));
            }
        }
    }
    let mut response = Response::new(Full::new(Bytes::new()).boxed());
    if is_grpc {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", if is_busy { "14" } else { "0" }.parse().unwrap());
        let message = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async move { Some(Ok(trailers)) });
        response = Response::new(message.boxed());
        response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    } else if is_busy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}
