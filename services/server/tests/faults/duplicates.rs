//! What passes over the bus, kept for a while, and published again: late, out of order, and past the streams' memory of
//! their ids. It knows the subjects' names and nothing of their bodies.

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

/// All that events go over.
const STREAMS: [&str; 5] = ["USER_STREAM", "MATCH_STREAM", "RIDE_STREAM", "LOCATION_STREAM", "PAYMENT_STREAM"];
/// Messages of a subject that are kept.
const KEPT: usize = 200;
/// The duplicate window that makes a stream forget ids.
const SHORT_WINDOW: Duration = Duration::from_millis(100);
/// Subjects of which a copy without an id, as of a foreign producer, is harmless: what it says is known by other ids.
const NAMELESS: [&str; 3] = ["user.finder", "match.accepted", "payment.capture"];

type Heard = Arc<Mutex<Vec<(&'static str, VecDeque<Message>)>>>;

/// Hears everything that is published.
#[derive(Debug)]
pub(crate) struct Copies {
    heard: Heard,
    _listening: JoinSet<()>,
}

impl Copies {
    pub(crate) async fn listen(bus: &Bus) -> Self {
        let heard: Heard = Arc::default();
        let mut listening = JoinSet::new();
        for (n, row) in TABLE.iter().enumerate() {
            let subject = row.subject.as_str();
            heard.lock().unwrap().push((subject, VecDeque::new()));
            let mut messages = bus.subscribe(subject, None).await.unwrap();
            let heard = heard.clone();
            listening.spawn(async move {
                while let Some(message) = messages.next().await {
                    let (_, kept) = &mut heard.lock().unwrap()[n];
                    if kept.len() >= KEPT {
                        kept.pop_front();
                    }
                    let (subject, headers, payload) = (message.subject, message.headers, message.payload);
                    kept.push_back(Message { subject, headers, payload });
                }
            });
        }
        Self { heard, _listening: listening }
    }

    /// Some old messages of every subject, in any order.
    fn choose(&self, count: usize, rng: &mut StdRng) -> Vec<Message> {
        let heard = self.heard.lock().unwrap();
        let mut chosen = Vec::new();
        for (subject, kept) in heard.iter() {
            let kept: Vec<&Message> = kept.iter().collect();
            for _ in 0..count {
                let Some(message) = kept.choose(rng) else { break };
                let mut message = (*message).clone();
                if NAMELESS.contains(subject) && rng.random_bool(0.3) {
                    message.headers = Headers::default();
                }
                let place = rng.random_range(0..=chosen.len());
                chosen.insert(place, message);
            }
        }
        chosen
    }

    /// Publishes copies; with `forget`, after the streams have forgotten their ids. Returns how many were stored.
    pub(crate) async fn publish(&self, urls: &[String], bus: &Bus, forget: bool, rng: &mut StdRng) -> usize {
        if forget {
            self::forget(urls).await;
        }
        let results = bus.publish_all(self.choose(4, rng)).await;
        results.into_iter().filter(|result| result.as_ref().is_ok_and(|published| !published.duplicate)).count()
    }
}

/// Changes a stream's configuration behind the services' back; false if the server does not let us.
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

/// Makes a stream, or every one, take nothing more than it has: until its bound is put right, it is full.
pub(crate) async fn fill(urls: &[String], bus: &Bus, stream: &str) -> bool {
    // LOCATION_STREAM never refuses: it drops what is old, and that is not what is asked for.
    let refusing = STREAMS.into_iter().filter(|name| *name != "LOCATION_STREAM");
    let mut all = true;
    for stream in refusing.filter(|name| stream == EVERY_STREAM || stream == *name) {
        let Ok(info) = bus.stream_info(stream).await else { return false };
        let bytes = i64::try_from(info.bytes).unwrap_or(i64::MAX).max(1);
        all &= change(urls, stream, |config| config.max_bytes = bytes).await;
    }
    all
}

/// Makes the streams forget the ids that they know.
pub(crate) async fn forget(urls: &[String]) {
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
