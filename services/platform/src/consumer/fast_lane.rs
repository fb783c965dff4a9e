//! The fast lane: a core subscription brings an event when it is published, before its stream has stored it and the durable
//! consumer delivers it. Whichever comes first has the effect, and the inbox makes the other harmless.
//!
//! Nothing depends on it. What fails here is dropped without an attempt counted, because the stream brings it again. In the queue
//! group of a service, one process gets each event; a process that takes no work, such as match's standby, does not subscribe.

use std::collections::{HashSet, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use streams::bus::{CoreMessage, MESSAGE_ID};
use streams::topology::{Consumer, MESSAGE_MAX};
use streams::{Event, EventError};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Received, occurred_at};
use crate::world::{Trace, World};
use crate::{Platform, retry};

/// Messages that wait for a worker; more wait in the subscription's buffer, and beyond that they are dropped and counted.
pub(super) const WAITING_MAX: usize = 256;
/// An older event comes by its stream alone: a relay may publish it again, and it may have become a dead letter since.
const FRESH: TimeDelta = TimeDelta::seconds(10);
/// Events of which a worker remembers that they have had their effect.
const REMEMBERED_MAX: usize = 4_096;

/// A message of the fast lane.
#[derive(Debug, Clone)]
pub(super) struct FastMessage {
    /// The durable consumer whose effect it has.
    pub(super) consumer: String,
    pub(super) message: CoreMessage,
    pub(super) received_at: DateTime<Utc>,
}

/// Hands what is published on the subject of `consumer` to its worker.
pub(super) async fn listen(platform: Platform, consumer: Consumer, group: String, to: mpsc::Sender<FastMessage>) {
    let Consumer { durable, filter, .. } = consumer;
    let mut delays = retry::dependency();
    loop {
        match platform.bus.subscribe(&filter, Some(&group)).await {
            Ok(mut messages) => {
                delays.reset();
                while let Some(message) = messages.next().await {
                    let received_at = platform.world.now();
                    if to.send(FastMessage { consumer: durable.clone(), message, received_at }).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => tracing::warn!(%error, consumer = durable, "events come by the stream alone"),
        }
        sleep(delays.next_delay()).await;
    }
}

/// The event of a message of the fast lane; `None` if it is left to the stream: without a message id, by which the second copy is
/// recognised, too large, or not fresh.
pub(super) fn received(fast: FastMessage, world: &World) -> Result<Option<Received>, EventError> {
    let FastMessage { consumer, message, received_at } = fast;
    let CoreMessage { subject, headers, payload, .. } = message;
    let Some(id) = headers.find(MESSAGE_ID).filter(|id| !id.is_empty()) else { return Ok(None) };
    let now = world.now();
    let occurred_at = occurred_at(&headers, now);
    // No stream would store it, or the stream may have brought it long ago.
    if payload.len() > MESSAGE_MAX.unsigned_abs() as usize || now - occurred_at > FRESH {
        return Ok(None);
    }
    if let Some(why) = headers.malformed() {
        return Err(EventError::Headers(why.to_owned()));
    }
    let event = Event::parse(&subject, &payload)?;
    event.check_times(now)?;
    Ok(Some(Received {
        event,
        body: payload,
        inbox_key: None,
        id: id.to_owned(),
        trace: Trace::follow(headers.find("traceparent"), world),
        consumer,
        // Unknown yet, and of no use: what comes by the fast lane does not wait.
        sequence: 0,
        occurred_at,
        stored_at: received_at,
        deliveries: 1,
    }))
}

/// The events of the fast lane's consumers that a worker has handled lately, by either path: their second copy needs no transaction.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    keys: HashSet<(String, String)>,
    order: VecDeque<(String, String)>,
}

impl Remembered {
    pub(super) fn contains(&self, received: &Received) -> bool {
        // A set of pairs of strings cannot be asked with borrowed ones.
        !self.keys.is_empty() && self.keys.contains(&key(received))
    }

    pub(super) fn insert(&mut self, received: &Received) {
        if !self.keys.insert(key(received)) {
            return;
        }
        self.order.push_back(key(received));
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }
}

fn key(received: &Received) -> (String, String) {
    (received.consumer.clone(), received.inbox_key().to_owned())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use streams::event::rfc3339;
    use streams::{Headers, UserId};
    use uuid::Uuid;

    use super::*;

    fn started_at() -> DateTime<Utc> {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    fn message(id: Option<&str>, age: TimeDelta) -> FastMessage {
        let user = UserId(Uuid::from_u128(7));
        let body = serde_json::json!({
            "user_id": user, "active": false, "location": {"lat": 40.0, "lng": -74.0}, "vehicle_type": "car",
            "recorded_at": "2026-01-01T00:00:00Z",
        });
        let mut headers = Headers::default();
        if let Some(id) = id {
            headers.set(MESSAGE_ID, id);
        }
        headers.set("ce-time", rfc3339::text(&(started_at() - age)));
        let payload = Bytes::from(body.to_string());
        let subject = "user.beacon".to_owned();
        let consumer = "user_beacon_match".to_owned();
        let message = CoreMessage { subject, headers, payload, reply: None };
        FastMessage { consumer, message, received_at: started_at() }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_fresh_event_with_an_id_is_taken() {
        let world = World::seeded(started_at(), 1);
        for (id, age_s, is_taken) in [
            (Some("a"), 0, true),
            (Some("a"), 10, true),
            (Some("a"), 11, false),
            (None, 0, false),
            (Some(""), 0, false),
        ] {
            let received = received(message(id, TimeDelta::seconds(age_s)), &world).expect("an event");
            assert_eq!(received.is_some(), is_taken, "{id:?}, {age_s} s old");
        }
        let mut unreadable = message(Some("a"), TimeDelta::zero());
        unreadable.message.payload = Bytes::from("{}");
        assert!(received(unreadable.clone(), &world).is_err());
        unreadable.message.payload = Bytes::from(vec![b' '; MESSAGE_MAX.unsigned_abs() as usize + 1]);
        assert!(received(unreadable, &world).expect("left to the stream").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_is_forgotten_first() {
        let world = World::seeded(started_at(), 1);
        let event = |n: usize| {
            let message = message(Some(&n.to_string()), TimeDelta::zero());
            received(message, &world).expect("an event").expect("fresh")
        };
        let mut remembered = Remembered::default();
        assert!(!remembered.contains(&event(0)));
        for n in 0..=REMEMBERED_MAX {
            remembered.insert(&event(n));
            remembered.insert(&event(n));
        }
        assert!(!remembered.contains(&event(0)) && remembered.contains(&event(1)));
        assert_eq!(remembered.keys.len(), REMEMBERED_MAX);
        let mut of_another = event(1);
        of_another.consumer = "user_beacon_users".to_owned();
        assert!(!remembered.contains(&of_another), "another consumer has effects of its own");
    }
}
