//! The bus on a NATS server or cluster: async-nats' core client, and JetStream's own protocol over it where the client
//! library would prefetch too much, hide a deleted consumer, or keep an old configuration silently.

mod message_api;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::{self, response::Response};
use async_nats::{Client, HeaderMap, HeaderName, StatusCode};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{FutureExt, StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::bus::{
    self, BusError, ConsumerInfo, CoreMessage, Delivery, Headers, Message, Published, ReplayStart, StoredMessage,
    StreamInfo,
};
use crate::topology::{self, Consumer, Topology};

/// Publishes in flight in this process. 1,000 keep a server busy; 25,000 starve its consumers.
const PUBLISHES_IN_FLIGHT: usize = 1_000;
/// Wait for one answer of the server.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// How to reach the server.
#[derive(Debug, Clone)]
pub struct NatsSettings {
    /// One or more `nats://` or `tls://` addresses.
    pub urls: Vec<String>,
    /// A credentials file.
    pub creds: Option<PathBuf>,
    /// A file of root certificates.
    pub ca: Option<PathBuf>,
    /// Copies of each stream.
    pub replicas: usize,
    /// The name that the server shows for this connection.
    pub name: String,
}

/// A connection to a NATS server; clones share it.
#[derive(Debug, Clone)]
pub struct NatsBus {
    client: Client,
    jetstream: jetstream::Context,
    replicas: usize,
    in_flight: Arc<Semaphore>,
    reconnects: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
    closed: Arc<AtomicBool>,
}

/// Bounds the wait for the client itself, which takes no commands while it reconnects and its queue is full.
async fn sent<T, E: std::fmt::Display>(what: &str, sending: impl Future<Output = Result<T, E>>) -> Result<T, BusError> {
    match timeout(ANSWER_WAIT, sending).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(e)) => Err(BusError::Unavailable(format!("{what}: {e}"))),
        Err(_) => Err(BusError::Unavailable(format!("{what}: not sent in {ANSWER_WAIT:?}"))),
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    client: Client,
    to: async_nats::Subject,
    reconnects: Arc<AtomicU64>,
    /// How many there had been when it was asked for.
    connection: u64,
}

impl Answer {
    /// An answer goes over the connection by which the message came, or not at all. The server takes it by the stream's and
    /// the consumer's names and the sequence: on a stream that was lost with its server and made again, an answer to an
    /// old message would release a new one that nobody has handled. What is not answered comes again.
    fn still_counts(&self) -> Result<(), BusError> {
        let connected = self.client.connection_state() == async_nats::connection::State::Connected;
        if connected && self.reconnects.load(Ordering::Relaxed) == self.connection {
            return Ok(());
        }
        Err(BusError::Unavailable("the connection by which the message came is gone; it comes again".to_owned()))
    }

    async fn send(&self, what: Bytes) -> Result<(), BusError> {
        self.still_counts()?;
        sent("an acknowledgement", self.client.publish(self.to.clone(), what)).await
    }

    async fn confirmed(&self, what: &'static str) -> Result<(), BusError> {
        self.still_counts()?;
        let request = self.client.request(self.to.clone(), what.into());
        match timeout(ANSWER_WAIT, request).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) if e.kind() == RequestErrorKind::NoResponders => {
                Err(BusError::NotFound(format!("the consumer of {}", self.to)))
            }
            Ok(Err(e)) => Err(BusError::Unavailable(e.to_string())),
            Err(_) => Err(BusError::Unavailable(format!("no confirmation of {what} in {ANSWER_WAIT:?}"))),
        }
    }

    pub(crate) async fn ack(&self) -> Result<(), BusError> {
        self.send(Bytes::from_static(b"+ACK")).await
    }

    pub(crate) async fn ack_confirmed(&self) -> Result<(), BusError> {
        self.confirmed("+ACK").await
    }

    pub(crate) async fn retry(&self, delay: Duration) -> Result<(), BusError> {
        if delay.is_zero() {
            return self.send(Bytes::from_static(b"-NAK")).await;
        }
        self.send(format!("-NAK {{\"delay\": {}}}", delay.as_nanos()).into()).await
    }

    pub(crate) async fn terminate(&self) -> Result<(), BusError> {
        self.confirmed("+TERM").await
    }

    pub(crate) async fn in_progress(&self) -> Result<(), BusError> {
        self.send(Bytes::from_static(b"+WPI")).await
    }
}

/// Pull requests to one durable consumer. The inbox and the count of messages asked for stay between fetches, so that an
/// idle consumer costs one request in `wait`, and a busy one a request in half a batch.
#[derive(Debug)]
pub struct Puller {
    client: Client,
    jetstream: jetstream::Context,
    stream: String,
    durable: String,
    inbox: String,
    messages: async_nats::Subscriber,
    asked: usize,
    asked_until: Instant,
    reconnects: Arc<AtomicU64>,
    /// How many there had been at the last request.
    connection: u64,
    ready: VecDeque<async_nats::Message>,
    closed: Arc<AtomicBool>,
}

impl Puller {
    async fn ask(&mut self, batch: usize, wait: Duration) -> Result<(), BusError> {
        // The server refuses requests that expire at once.
        let expires = wait.max(Duration::from_millis(50));
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.durable);
        let body = json!({"batch": batch, "expires": expires.as_nanos() as u64}).to_string();
        self.connection = self.reconnects.load(Ordering::Relaxed);
        sent("a pull", self.client.publish_with_reply(subject, self.inbox.clone(), body.into())).await?;
        self.asked = batch;
        self.asked_until = Instant::now() + expires + Duration::from_secs(1);
        Ok(())
    }

    /// Takes note of a status message; an error ends the fetch.
    fn status(&mut self, code: StatusCode, message: &async_nats::Message) -> Result<(), BusError> {
        let unfulfilled = message
            .headers
            .as_ref()
            .and_then(|h| h.get("Nats-Pending-Messages"))
            .and_then(|v| v.as_str().parse::<usize>().ok());
        match code {
            StatusCode::IDLE_HEARTBEAT => Ok(()),
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => {
                self.asked = self.asked.saturating_sub(unfulfilled.unwrap_or(self.asked));
                Ok(())
            }
            StatusCode::NO_RESPONDERS => {
                self.asked = 0;
                Err(BusError::NotFound(format!("consumer {} on {}, or its server", self.durable, self.stream)))
            }
            StatusCode::REQUEST_TERMINATED => {
                self.asked = 0;
                let why = message.description.as_deref().unwrap_or("the pull request was ended");
                if why.eq_ignore_ascii_case("consumer deleted") {
                    Err(BusError::NotFound(format!("consumer {} on {}: {why}", self.durable, self.stream)))
                } else {
                    Err(BusError::Unavailable(format!("consumer {}: {why}", self.durable)))
                }
            }
            other => {
                self.asked = 0;
                Err(BusError::Unavailable(format!("consumer {}: status {other}", self.durable)))
            }
        }
    }

    fn delivery(&mut self, message: async_nats::Message) -> Result<Delivery, BusError> {
        self.asked = self.asked.saturating_sub(1);
        let message = jetstream::Message { message, context: self.jetstream.clone() };
        let info = message.info().map_err(|e| BusError::Refused(format!("a delivery without its data: {e}")))?;
        let (sequence, stored_at) = (info.stream_sequence, info.published);
        let (deliveries, pending) = (info.delivered.unsigned_abs(), info.pending);
        // (The library's `split` takes the reply out.)
        let message = message.message;
        let to = message.reply.clone().ok_or_else(|| BusError::Refused("a delivery without a reply".to_owned()))?;
        Ok(Delivery {
            message: StoredMessage {
                subject: message.subject.into_string(),
                headers: from_nats(message.headers),
                payload: message.payload,
                sequence,
                stored_at,
            },
            stream: self.stream.clone(),
            consumer: self.durable.clone(),
            deliveries,
            pending,
            answer: bus::Answer::Nats(Answer {
                client: self.client.clone(),
                to,
                reconnects: self.reconnects.clone(),
                connection: self.connection,
            }),
        })
    }

    pub(crate) async fn fetch(&mut self, max: usize, wait: Duration) -> Result<Vec<Delivery>, BusError> {
        let until = Instant::now() + wait;
        let mut batch = Vec::new();
        loop {
            while batch.len() < max {
                let Some(message) = self.ready.pop_front().or_else(|| self.messages.next().now_or_never().flatten())
                else {
                    break;
                };
                match message.status {
                    None | Some(StatusCode::OK) => match self.delivery(message) {
                        Ok(delivery) => batch.push(delivery),
                        Err(error) => tracing::warn!(%error, consumer = self.durable, "passed over"),
                    },
                    Some(code) => {
                        if let Err(error) = self.status(code, &message) {
                            // What has arrived is handed out first; the fault shows itself again at the next fetch.
                            return if batch.is_empty() { Err(error) } else { Ok(batch) };
                        }
                    }
                }
            }
            let now = Instant::now();
            if !batch.is_empty() {
                return Ok(batch);
            }
            if self.asked > 0 && now >= self.asked_until {
                // Not even the word that the request has expired: there is no leader, or no server.
                self.asked = 0;
                return Err(BusError::Unavailable(format!("consumer {} does not answer", self.durable)));
            }
            if now >= until {
                return Ok(batch);
            }
            // Asked only when the last request is used up: what is on its way is never more than one batch.
            if self.asked == 0 {
                self.ask(max, wait).await?;
            }
            match timeout(until - now, self.messages.next()).await {
                Ok(Some(message)) => self.ready.push_back(message),
                Ok(None) => {
                    self.closed.store(true, Ordering::Relaxed);
                    return Err(BusError::Unavailable("the connection is closed for good".to_owned()));
                }
                Err(_) => {}
            }
        }
    }

    pub(crate) async fn close(mut self) {
        // Drained, so that what the server has sent already is seen and put back rather than left to the ack wait.
        let _ = self.messages.unsubscribe().await;
        let _ = timeout(Duration::from_secs(1), self.client.flush()).await;
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            let message = match self.ready.pop_front() {
                Some(message) => message,
                None => match tokio::time::timeout_at(until, self.messages.next()).await {
                    Ok(Some(message)) => message,
                    Ok(None) | Err(_) => break,
                },
            };
            if message.status.is_none_or(|s| s == StatusCode::OK)
                && let Ok(delivery) = self.delivery(message)
            {
                let _ = delivery.retry(Duration::ZERO).await;
            }
        }
    }
}

/// An ordered, ephemeral reader of a stream.
pub struct Replay {
    messages: pull::Ordered,
    /// What is stored after the last message handed out, as the server said with it.
    pending: u64,
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").finish_non_exhaustive()
    }
}

impl Replay {
    pub(crate) async fn next(&mut self, wait: Duration) -> Result<Option<StoredMessage>, BusError> {
        match timeout(wait, self.messages.next()).await {
            Err(_) => Ok(None),
            Ok(next) => self.taken(next).map(Some),
        }
    }

    /// What has arrived already.
    pub(crate) fn ready(&mut self) -> Result<Option<StoredMessage>, BusError> {
        match self.messages.next().now_or_never() {
            None => Ok(None),
            Some(next) => self.taken(next).map(Some),
        }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.pending == 0
    }

    fn taken(
        &mut self,
        next: Option<Result<jetstream::Message, pull::OrderedError>>,
    ) -> Result<StoredMessage, BusError> {
        let next = next.ok_or_else(|| BusError::Unavailable("the replay ended".to_owned()))?;
        let message = next.map_err(|e| BusError::Unavailable(e.to_string()))?;
        let info = message.info().map_err(|e| BusError::Refused(e.to_string()))?;
        let (sequence, stored_at) = (info.stream_sequence, info.published);
        self.pending = info.pending;
        let message = message.message;
        Ok(StoredMessage {
            subject: message.subject.into_string(),
            headers: from_nats(message.headers),
            payload: message.payload,
            sequence,
            stored_at,
        })
    }
}

/// A core subscription.
#[derive(Debug)]
pub struct Subscription(async_nats::Subscriber);

impl Subscription {
    pub(crate) async fn next(&mut self) -> Option<CoreMessage> {
        let message = self.0.next().await?;
        Some(CoreMessage {
            subject: message.subject.into_string(),
            headers: from_nats(message.headers),
            payload: message.payload,
            reply: message.reply.map(async_nats::Subject::into_string),
        })
    }
}

fn from_nats(headers: Option<HeaderMap>) -> Headers {
    headers.map_or_else(Headers::default, Headers::of_nats)
}

fn to_nats(headers: Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers.into_list() {
        match name {
            Cow::Borrowed(name) => map.append(HeaderName::from_static(name), value),
            Cow::Owned(name) => map.append(name, value),
        }
    }
    map
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Acknowledged {
    Error {
        error: jetstream::Error,
    },
    StoredMessage {
        stream: String,
        seq: u64,
        #[serde(default)]
        duplicate: bool,
    },
}

fn api_error(what: &str, error: &jetstream::Error) -> BusError {
    use jetstream::ErrorCode;
    let text = format!("{what}: {error}");
    match error.error_code() {
        ErrorCode::STREAM_NOT_FOUND | ErrorCode::CONSUMER_NOT_FOUND | ErrorCode::NO_MESSAGE_FOUND => {
            BusError::NotFound(text)
        }
        ErrorCode::STREAM_STORE_FAILED | ErrorCode::STORAGE_RESOURCES_EXCEEDED => BusError::Full(text),
        // A cluster that is still forming.
        ErrorCode::CLUSTER_NO_PEERS | ErrorCode::INSUFFICIENT_RESOURCES => BusError::Unavailable(text),
        _ if error.code() == 503 => BusError::Unavailable(text),
        _ if error.code() == 404 => BusError::NotFound(text),
        _ => BusError::Refused(text),
    }
}

impl NatsBus {
    /// Connects, waiting up to a minute for a server that is not there yet, and keeps the connection for ever.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] without a server in a minute; [`BusError::Refused`] for one older than 2.10 or without
    /// JetStream, or for credentials that cannot be read.
    pub async fn connect(settings: &NatsSettings) -> Result<Self, BusError> {
        let reconnects = Arc::new(AtomicU64::new(0));
        let dropped = Arc::new(AtomicU64::new(0));
        let (counted, lost) = (reconnects.clone(), dropped.clone());
        let mut options = async_nats::ConnectOptions::new()
            .name(&settings.name)
            .ping_interval(Duration::from_secs(5))
            .connection_timeout(ANSWER_WAIT)
            .request_timeout(Some(ANSWER_WAIT))
            .retry_on_initial_connect()
            .max_reconnects(None)
            .event_callback(move |event| {
                match &event {
                    async_nats::Event::Connected => {
                        counted.fetch_add(1, Ordering::Relaxed);
                        tracing::info!("connected to NATS");
                    }
                    async_nats::Event::SlowConsumer(_) => {
                        lost.fetch_add(1, Ordering::Relaxed);
                    }
                    other => tracing::warn!("NATS connection: {other}"),
                }
                std::future::ready(())
            });
        if let Some(creds) = &settings.creds {
            let text = std::fs::read_to_string(creds)
                .map_err(|e| BusError::Refused(format!("NATS_CREDS {}: {e}", creds.display())))?;
            options = options
                .credentials(&text)
                .map_err(|e| BusError::Refused(format!("NATS_CREDS {}: {e}", creds.display())))?;
        }
        if let Some(ca) = &settings.ca {
            options = options.add_root_certificates(ca.clone());
        }
        let client = options
            .connect(settings.urls.clone())
            .await
            .map_err(|e| BusError::Unavailable(format!("{}: {e}", settings.urls.join(","))))?;
        let until = Instant::now() + Duration::from_secs(60);
        let info = loop {
            let connected = client.connection_state() == async_nats::connection::State::Connected;
            if let Some(info) = client.try_server_info().filter(|i| connected && !i.version.is_empty()) {
                break info;
            }
            if Instant::now() >= until {
                return Err(BusError::Unavailable(format!("no NATS server at {} in 60 s", settings.urls.join(","))));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let mut parts = info.version.split(['.', '-']).map(|p| p.parse::<u64>().unwrap_or(0));
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if version < topology::MINIMUM_SERVER {
            return Err(BusError::Refused(format!(
                "nats-server {} is too old: {}.{} or newer is needed",
                info.version,
                topology::MINIMUM_SERVER.0,
                topology::MINIMUM_SERVER.1
            )));
        }
        if !info.jetstream {
            return Err(BusError::Refused("the NATS server runs without JetStream: start it with -js".to_owned()));
        }
        let jetstream = jetstream::new(client.clone());
        let in_flight = Arc::new(Semaphore::new(PUBLISHES_IN_FLIGHT));
        let closed = Arc::new(AtomicBool::new(false));
        Ok(Self { client, jetstream, replicas: settings.replicas, in_flight, reconnects, dropped, closed })
    }

    /// Asks JetStream's API; its errors become ours.
    async fn api<T: serde::de::DeserializeOwned>(&self, subject: &str, body: &Value) -> Result<T, BusError> {
        match timeout(2 * ANSWER_WAIT, self.jetstream.request::<_, _, Response<T>>(subject.to_owned(), body)).await {
            Ok(Ok(Response::Ok(answer))) => Ok(answer),
            Ok(Ok(Response::Err { error })) => Err(api_error(subject, &error)),
            Ok(Err(e)) => Err(BusError::Unavailable(format!("{subject}: {e}"))),
            Err(_) => Err(BusError::Unavailable(format!("{subject}: not sent"))),
        }
    }

    pub(crate) async fn apply(&self, topology: &Topology) -> Result<Vec<String>, BusError> {
        self.reconcile(topology, Reconcile::Apply).await
    }

    pub(crate) async fn compare(&self, topology: &Topology) -> Result<Vec<String>, BusError> {
        self.reconcile(topology, Reconcile::Compare).await
    }

    async fn reconcile(&self, topology: &Topology, mode: Reconcile) -> Result<Vec<String>, BusError> {
        let mut changes = Vec::new();
        for stream in &topology.streams {
            let name = &stream.name;
            let wanted = stream.to_json(self.replicas);
            let what = format!("stream {name}");
            let found = self.config(&format!("STREAM.INFO.{name}")).await?;
            let change = if found.is_some() { "UPDATE" } else { "CREATE" };
            if let Some(config) = difference(&what, found, &wanted, &mut changes)
                && mode == Reconcile::Apply
            {
                self.api::<Value>(&format!("STREAM.{change}.{name}"), &config).await?;
            }
        }
        for consumer in &topology.consumers {
            let Consumer { stream, durable, filter, .. } = consumer;
            let what = format!("consumer {durable} on {stream}");
            let found = match self.config(&format!("CONSUMER.INFO.{stream}.{durable}")).await {
                // Without its stream, which a comparison does not create, it is missing too.
                Err(BusError::NotFound(_)) => None,
                found => found?,
            };
            if let Some(config) = difference(&what, found, &consumer.to_json(), &mut changes)
                && mode == Reconcile::Apply
            {
                let mut subject = format!("CONSUMER.CREATE.{stream}.{durable}");
                if !filter.is_empty() {
                    subject = format!("{subject}.{filter}");
                }
                self.api::<Value>(&subject, &json!({"stream_name": stream, "config": config})).await?;
            }
        }
        Ok(changes)
    }

    /// The configuration that the server has, or `None`.
    async fn config(&self, subject: &str) -> Result<Option<Value>, BusError> {
        match self.api::<Value>(subject, &json!({})).await {
            Ok(mut info) => Ok(Some(info["config"].take())),
            Err(BusError::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(crate) async fn publish(&self, message: Message) -> Result<Published, BusError> {
        let _permit = sent("a publish", self.in_flight.acquire()).await?;
        let subject = message.subject;
        let request = self.client.request_with_headers(subject.clone(), to_nats(message.headers), message.payload);
        let answer = timeout(2 * ANSWER_WAIT, request)
            .await
            .map_err(|_| BusError::Unavailable(format!("publish to {subject}: not sent")))?
            .map_err(|e| match e.kind() {
                RequestErrorKind::NoResponders => BusError::NotFound(format!("no stream captures {subject}")),
                RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
                    BusError::Refused(format!("{subject}: {e}"))
                }
                RequestErrorKind::TimedOut | RequestErrorKind::Other => {
                    BusError::Unavailable(format!("publish to {subject}: {e}"))
                }
            })?;
        match serde_json::from_slice(&answer.payload) {
            Ok(Acknowledged::StoredMessage { stream, seq, duplicate }) => {
                Ok(Published { stream, sequence: seq, duplicate })
            }
            Ok(Acknowledged::Error { error }) => Err(api_error(&subject, &error)),
            Err(e) => Err(BusError::Unavailable(format!("publish to {subject}: an answer that is none: {e}"))),
        }
    }

    pub(crate) async fn publish_all(&self, messages: Vec<Message>) -> Vec<Result<Published, BusError>> {
        let all =
            stream::iter(messages.into_iter().map(|m| self.publish(m))).buffered(PUBLISHES_IN_FLIGHT / 2).collect();
        // Without tokio's budget for one task, which would let the first ones through and shuffle the rest.
        tokio::task::unconstrained(all).await
    }

    pub(crate) async fn pull(&self, consumer: &Consumer) -> Result<Puller, BusError> {
        let inbox = self.client.new_inbox();
        let messages = sent("subscribe", self.client.subscribe(inbox.clone())).await?;
        Ok(Puller {
            client: self.client.clone(),
            jetstream: self.jetstream.clone(),
            stream: consumer.stream.clone(),
            durable: consumer.durable.clone(),
            inbox,
            messages,
            asked: 0,
            asked_until: Instant::now(),
            reconnects: self.reconnects.clone(),
            connection: 0,
            ready: VecDeque::new(),
            closed: self.closed.clone(),
        })
    }

    pub(crate) async fn replay(
        &self,
        stream: &str,
        filter: Option<&str>,
        start: ReplayStart,
    ) -> Result<Replay, BusError> {
        let unavailable = |e: &dyn std::fmt::Display| BusError::Unavailable(format!("replay of {stream}: {e}"));
        let end = self.stream_info(stream).await?.last_sequence + 1;
        let found = self.jetstream.get_stream_no_info(stream).await.map_err(|e| unavailable(&e))?;
        let deliver_policy = match start {
            ReplayStart::Sequence(sequence) => {
                DeliverPolicy::ByStartSequence { start_sequence: sequence.clamp(1, end) }
            }
            // The server counts nanoseconds in 64 bits, and takes what is beyond them, in the year 2262, for the beginning.
            ReplayStart::Time(time) => {
                DeliverPolicy::ByStartTime { start_time: time.min(DateTime::from_timestamp_nanos(i64::MAX)) }
            }
        };
        let config = pull::OrderedConfig {
            filter_subject: filter.unwrap_or_default().to_owned(),
            deliver_policy,
            ..Default::default()
        };
        let consumer = found.create_consumer(config).await.map_err(|e| unavailable(&e))?;
        let pending = consumer.cached_info().num_pending;
        let messages = consumer.messages().await.map_err(|e| unavailable(&e))?;
        Ok(Replay { messages, pending })
    }

    pub(crate) async fn stream_info(&self, stream: &str) -> Result<StreamInfo, BusError> {
        let info: jetstream::stream::Info = self.api(&format!("STREAM.INFO.{stream}"), &json!({})).await?;
        Ok(StreamInfo {
            messages: info.state.messages,
            bytes: info.state.bytes,
            // 0 for a stream that never held a message.
            first_sequence: info.state.first_sequence.max(1),
            last_sequence: info.state.last_sequence,
            consumers: info.state.consumer_count as u64,
        })
    }

    pub(crate) async fn consumer_info(&self, stream: &str, durable: &str) -> Result<ConsumerInfo, BusError> {
        let info: jetstream::consumer::Info =
            self.api(&format!("CONSUMER.INFO.{stream}.{durable}"), &json!({})).await?;
        Ok(ConsumerInfo {
            pending: info.num_pending,
            ack_pending: info.num_ack_pending as u64,
            redelivered: info.num_redelivered as u64,
            ack_floor: info.ack_floor.stream_sequence,
            delivered: info.delivered.stream_sequence,
        })
    }

    pub(crate) async fn created_at(&self, stream: &str, durables: &[&str]) -> Result<DateTime<Utc>, BusError> {
        let info: jetstream::stream::Info = self.api(&format!("STREAM.INFO.{stream}"), &json!({})).await?;
        let mut made = info.created;
        for durable in durables {
            let subject = format!("CONSUMER.INFO.{stream}.{durable}");
            let info: jetstream::consumer::Info = self.api(&subject, &json!({})).await?;
            made = made.max(info.created);
        }
        Ok(made)
    }

    pub(crate) async fn delete_stream(&self, stream: &str) -> Result<(), BusError> {
        self.api::<Value>(&format!("STREAM.DELETE.{stream}"), &json!({})).await.map(|_| ())
    }

    pub(crate) async fn delete_consumer(&self, stream: &str, durable: &str) -> Result<(), BusError> {
        self.api::<Value>(&format!("CONSUMER.DELETE.{stream}.{durable}"), &json!({})).await.map(|_| ())
    }

    pub(crate) async fn publish_core(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        sent(subject, self.client.publish(subject.to_owned(), payload)).await
    }

    pub(crate) async fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<Subscription, BusError> {
        let unavailable = |e: &dyn std::fmt::Display| BusError::Unavailable(format!("subscribe to {subject}: {e}"));
        let subscriber = match queue {
            None => sent(subject, self.client.subscribe(subject.to_owned())).await?,
            Some(queue) => sent(subject, self.client.queue_subscribe(subject.to_owned(), queue.to_owned())).await?,
        };
        // A round trip, so that the server knows it before anybody is told to send.
        // (The client's `flush` only empties its own buffer.) Nobody listens there, which the server says at once.
        match timeout(ANSWER_WAIT, self.client.request(self.client.new_inbox(), Bytes::new())).await {
            Ok(Err(e)) if e.kind() != RequestErrorKind::NoResponders => Err(unavailable(&e)),
            Err(e) => Err(unavailable(&e)),
            _ => Ok(Subscription(subscriber)),
        }
    }

    pub(crate) async fn request(&self, subject: &str, payload: Bytes, wait: Duration) -> Result<Bytes, BusError> {
        let request = async_nats::Request::new().payload(payload).timeout(Some(wait));
        match timeout(wait, self.client.send_request(subject.to_owned(), request)).await {
            Ok(Ok(message)) => Ok(message.payload),
            Ok(Err(e)) if e.kind() == RequestErrorKind::NoResponders => Err(BusError::NoResponders(subject.to_owned())),
            Ok(Err(e)) => Err(BusError::Unavailable(format!("request to {subject}: {e}"))),
            Err(_) => Err(BusError::Unavailable(format!("request to {subject}: no answer in {wait:?}"))),
        }
    }

    pub(crate) async fn check(&self) -> Result<(), BusError> {
        if self.client.connection_state() != async_nats::connection::State::Connected {
            return Err(BusError::Unavailable("not connected to NATS".to_owned()));
        }
        timeout(ANSWER_WAIT, self.api::<Value>("INFO", &json!({})))
            .await
            .map_err(|_| BusError::Unavailable("JetStream does not answer".to_owned()))?
            .map(|_| ())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Reconcile {
    Apply,
    Compare,
}

/// What to send so that `found` becomes as `wanted`; `None` if it is. Settings that we do not name stay as they are.
pub(crate) fn difference(what: &str, found: Option<Value>, wanted: &Value, changes: &mut Vec<String>) -> Option<Value> {
    let Some(mut config) = found else {
        changes.push(format!("{what}: missing, created"));
        return Some(wanted.clone());
    };
    let mut differs = false;
    for (key, want) in wanted.as_object().into_iter().flatten() {
        // The server leaves out what is empty.
        let have = match &config[key] {
            Value::Null if want.is_string() => &json!(""),
            have => have,
        };
        if have != want {
            changes.push(format!("{what}: {key} was {have}, becomes {want}"));
            config[key] = want.clone();
            differs = true;
        }
    }
    differs.then_some(config)
}
