//! The spans of a batch: one for each message, in that message's trace; and of several messages that one transaction handles, one of the
//! transaction, with a link to each of them.
//!
//! Positions have no spans: they are most of all messages, and a ride's distance comes of hundreds.

use chrono::{DateTime, Utc};
use streams::{Event, Service};

use super::{Failure, Received};
use crate::Platform;
use crate::spans::{LINKS_MAX, Span, SpanKind};
use crate::store::StoreError;

/// Whether a span is recorded for the event.
pub(super) fn is_traced(event: &Event) -> bool {
    match event {
        Event::LocationUpdate(_) => false,
        // What a ride has come to so far, every few seconds.
        Event::LocationAggregate(aggregate) => aggregate.is_final,
        _ => true,
    }
}

/// Records that the attempt that began at `began_at` handled `batch`.
pub(super) fn handled(platform: &Platform, service: Service, batch: &[&Received], began_at: DateTime<Utc>) {
    let batch: Vec<&Received> = batch.iter().copied().filter(|received| is_traced(&received.event)).collect();
    let transaction = (batch.len() > 1).then(|| {
        let is_sampled = batch.iter().any(|received| received.trace.is_sampled());
        platform.new_trace().with_sampled(is_sampled)
    });
    let times = (began_at, platform.world.now());
    for received in &batch {
        platform.spans.record(span(service, received, times).linked(transaction.clone()));
    }
    if let Some(trace) = transaction {
        let name = format!("process batch of {service}");
        let count = i64::try_from(batch.len()).unwrap_or(i64::MAX);
        let span = Span::new(service.name(), name, SpanKind::Consumer, &trace, times)
            .with("messaging.operation.type", "process")
            .with("messaging.operation.name", "process")
            .with("messaging.batch.message_count", count)
            .linked(batch.iter().take(LINKS_MAX).map(|received| received.trace.clone()));
        platform.spans.record(span);
    }
}

/// Records an attempt that failed, unless it is not the message's fault: in the metrics, and as a span if spans are recorded.
pub(super) fn failed(
    platform: &Platform,
    service: Service,
    received: &Received,
    began_at: DateTime<Utc>,
    failure: &Failure,
) {
    let error = match failure {
        Failure::Store(StoreError::Unavailable(_) | StoreError::Serialization(_))
        | Failure::Busy(_)
        | Failure::Fenced => return,
        Failure::Transient(_) => "transient",
        Failure::Permanent(_) => "permanent",
        Failure::Store(_) => "store",
    };
    let (now, is_on) = (platform.world.now(), platform.spans.is_on());
    let took = (now - began_at).to_std().unwrap_or_default();
    platform.metrics.events.attempt_failed(received, took, error, is_on.then_some(now));
    if is_on && is_traced(&received.event) {
        platform.spans.record(span(service, received, (began_at, now)).failed(Some(error.to_owned())));
    }
}

fn span(service: Service, received: &Received, times: (DateTime<Utc>, DateTime<Utc>)) -> Span {
    let name = format!("process {}", received.consumer);
    let ids = ids(&received.event);
    Span::new(service.name(), name, SpanKind::Consumer, &received.trace, times)
        .with("messaging.operation.type", "process")
        .with("messaging.operation.name", "process")
        .with("messaging.destination.name", received.event.subject().as_str())
        .with("messaging.message.id", received.id.as_str())
        .with("messaging.consumer.group.name", received.consumer.as_str())
        .with_some("request_id", ids.request)
        .with_some("match_id", ids.offer)
        .with_some("ride_id", ids.ride)
}

#[derive(Default)]
struct Ids {
    request: Option<String>,
    offer: Option<String>,
    ride: Option<String>,
}

fn ids(event: &Event) -> Ids {
    let text = |id: &dyn ToString| Some(id.to_string());
    match event {
        Event::UserFinder(e) => Ids { request: text(&e.request_id), ..Ids::default() },
        Event::MatchFound(e) => Ids { request: text(&e.request_id), offer: text(&e.match_id), ride: None },
        Event::MatchAccepted(e) => Ids { request: text(&e.request_id), offer: text(&e.match_id), ride: None },
        Event::MatchRejected(e) => Ids { request: text(&e.request_id), offer: text(&e.match_id), ride: None },
        Event::Ride(e) => Ids { offer: text(&e.match_id), ride: text(&e.ride_id), request: None },
        Event::LocationAggregate(e) => Ids { ride: text(&e.ride_id), ..Ids::default() },
        Event::PaymentCapture(e) => Ids { ride: text(&e.ride_id), ..Ids::default() },
        Event::UserBeacon(_) | Event::LocationUpdate(_) | Event::Act(_) => Ids::default(),
    }
}
