//! Recent messages, published again: late, out of order, and after the duplicate window. It knows the subjects' names and
//! nothing of their bodies.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use streams::topology::TABLE;
use streams::{Bus, Headers, Message};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::nemesis::EVERY_STREAM;

/// Every stream of events.
const STREAMS: [&str; 5] = ["USER_STREAM", "MATCH_STREAM", "RIDE_STREAM", "LOCATION_STREAM", "PAYMENT_STREAM"];
/// Messages of a subject that are retained, the newest.
const STORED_MAX: usize = 200;
/// A duplicate window after which a stream has dropped the ids of everything stored before.
const SHORT_WINDOW: Duration = Duration::from_millis(100);
/// Subjects of which a copy without a message id, as from a foreign producer, must be harmless: their bodies carry ids of their
/// own.
const WITHOUT_ID: [&str; 3] = ["user.finder", "match.accepted", "payment.capture"];

type Received = Arc<Mutex<Vec<(&'static str, VecDeque<Message>)>>>;

/// Records everything that is published, to publish it again.
#[derive(Debug)]
pub(crate) struct Duplicates {
    received: Received,
    _subscriptions: JoinSet<()>,
}

impl Duplicates {
    pub(crate) async fn listen(bus: &Bus) -> Self {
        let received: Received = Arc::default();
        let mut subscriptions = JoinSet::new();
        for (n, row) in TABLE.iter().enumerate() {
            let subject = row.subject.as_str();
            received.lock().unwrap().push((subject, VecDeque::new()));
            let mut messages = bus.subscribe(subject, None).await.unwrap();
            let received = received.clone();
            subscriptions.spawn(async move {
                while let Some(message) = messages.next().await {
                    let (_, recent) = &mut received.lock().unwrap()[n];
                    if recent.len() >= STORED_MAX {
                        recent.pop_front();
                    }
                    let (subject, headers, payload) = (message.subject, message.headers, message.payload);
                    recent.push_back(Message { subject, headers, payload });
                }
            });
        }
        Self { received, _subscriptions: subscriptions }
    }

    /// `count` old messages of every subject, in random order.
    fn choose(&self, count: usize, rng: &mut StdRng) -> Vec<Message> {
        let received = self.received.lock().unwrap();
        let mut chosen = Vec::new();
        for (subject, recent) in received.iter() {
            let recent: Vec<&Message> = recent.iter().collect();
            for _ in 0..count {
                let Some(message) = recent.choose(rng) else { break };
                let mut message = (*message).clone();
                if WITHOUT_ID.contains(subject) && rng.random_bool(0.3) {
                    message.headers = Headers::default();
                }
                let place = rng.random_range(0..=chosen.len());
                chosen.insert(place, message);
            }
        }
        chosen
    }

    /// Publishes some again, and returns how many the streams have stored a second time.
    pub(crate) async fn publish(&self, bus: &Bus, rng: &mut StdRng) -> usize {
        let results = bus.publish_all(self.choose(4, rng)).await;
        results.into_iter().filter(|result| result.as_ref().is_ok_and(|published| !published.duplicate)).count()
    }
}

/// Changes a stream's configuration without the services; false if the server does not allow it.
pub(crate) async fn change(
    urls: &[String],
    stream: &str,
    change: impl FnOnce(&mut jetstream::stream::Config) + Send,
) -> bool {
    let work = async {
        let client = async_nats::connect(urls).await.ok()?;
        let jetstream = jetstream::new(client);
        let mut found = jetstream.get_stream(stream).await.ok()?;
        let mut config = found.info().await.ok()?.config.clone();
        change(&mut config);
        jetstream.update_stream(config).await.ok()
    };
    matches!(tokio::time::timeout(Duration::from_secs(5), work).await, Ok(Some(_)))
}

/// Lowers the bound of a stream, or of every one, to what it holds: until the topology is applied again it refuses publishes.
pub(crate) async fn fill(urls: &[String], bus: &Bus, stream: &str) -> bool {
    // LOCATION_STREAM never refuses: it would drop its oldest messages.
    let refusing = STREAMS.into_iter().filter(|name| *name != "LOCATION_STREAM");
    let mut all = true;
    for stream in refusing.filter(|name| stream == EVERY_STREAM || stream == *name) {
        let Ok(info) = bus.stream_info(stream).await else { return false };
        let bytes = i64::try_from(info.bytes).unwrap_or(i64::MAX).max(1);
        all &= change(urls, stream, |config| config.max_bytes = bytes).await;
    }
    all
}

/// Waits out a short duplicate window, so that every stream accepts an id that it has stored.
pub(crate) async fn expire_duplicate_windows(urls: &[String]) {
    for stream in STREAMS {
        change(urls, stream, |config| config.duplicate_window = SHORT_WINDOW).await;
    }
    sleep(SHORT_WINDOW * 4).await;
}

/// The name of the node that leads a stream.
pub(crate) async fn leader(urls: &[String], stream: &str) -> Option<String> {
    let work = async {
        let client = async_nats::connect(urls).await.ok()?;
        let mut found = jetstream::new(client).get_stream(stream).await.ok()?;
        found.info().await.ok()?.cluster.clone()?.leader
    };
    tokio::time::timeout(Duration::from_secs(5), work).await.ok()?
}
