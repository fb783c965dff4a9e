//! Each request as a span and in a histogram, with the names of OpenTelemetry's conventions. A client's own `traceparent` is taken over.

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use platform::spans::{self, Span, SpanKind};
use platform::{Platform, Trace};

/// The part of the program in traces.
const PART: &str = "http";
/// What operators ask of a process every few seconds is in no trace.
const UNTRACED: [&str; 4] = ["/health/live", "/health/ready", "/metrics", "/stats"];

pub(super) async fn traced(State(platform): State<Platform>, request: Request, next: Next) -> Response {
    let Platform { world, spans, metrics, .. } = &platform;
    let began_at = world.now();
    let method = method(request.method());
    // A path that is no route may have anything in it, also an id or a token.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_default();
    let trace = (spans.is_on() && !UNTRACED.contains(&route.as_str())).then(|| {
        let sent = request.headers().get("traceparent").and_then(|header| header.to_str().ok());
        let caller = sent.and_then(|text| spans.of_client(text));
        caller.map_or_else(|| platform.new_trace(), |caller: Trace| caller.next(world))
    });
    let response = spans::within(trace.clone(), next.run(request)).await;
    let (status, ended_at) = (response.status(), world.now());
    let took_s = (ended_at - began_at).as_seconds_f64().max(0.0);
    let of = trace.as_ref().map(|trace| (trace, ended_at));
    metrics.http_server.observe(&[method, &route, status.as_str()], took_s, of);
    if let Some(trace) = trace {
        let name = format!("{method} {route}");
        let span = Span::new(PART, name, SpanKind::Server, &trace, (began_at, ended_at))
            .with("http.request.method", method)
            .with("http.route", route)
            .with("http.response.status_code", i64::from(status.as_u16()));
        spans.record(span.failed(status.is_server_error().then(|| status.as_str().to_owned())));
    }
    response
}

/// A method that is not of the list could be any text.
fn method(method: &Method) -> &'static str {
    let known = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    known.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}
