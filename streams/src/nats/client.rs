//! The connection to a NATS server: publish, core messages, requests, and JetStream's API for streams and consumers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::connection::State;
use async_nats::jetstream::{self, response::Response};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, HeaderMap, ServerInfo};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::login::{Credential, Login};
use super::server_limits::ServerLimits;
use crate::bus::message::{BusError, ConsumerInfo, CoreMessage, Headers, Message, Published, REPLIES_MAX, StreamInfo};
use crate::bus::open::{OpenSubscription, OpenSubscriptions};
use crate::topology::{Consumer, MESSAGE_MAX, MINIMUM_SERVER};

/// Publishes of this process without an acknowledgement yet. 1,000 keep a server busy; with 25,000 its consumers starve.
const PUBLISHES_IN_FLIGHT: usize = 1_000;
/// Wait for one reply of the server, and for the client to take one command.
pub(super) const REPLY_WAIT: Duration = Duration::from_secs(5);
/// Wait for a server that is not up yet.
const CONNECT_WAIT: Duration = Duration::from_secs(60);
/// The pause between two tries meanwhile.
const CONNECT_PAUSE: Duration = Duration::from_millis(200);
/// The pause before the echo of a subscription is asked for again.
const ECHO_PAUSE: Duration = Duration::from_millis(500);
/// How often a consumer is deleted and created again to begin elsewhere.
const RECREATE_MAX: u32 = 20;
/// In the answer of a server that is to change where an existing consumer begins.
const BEGINNING_IS_FIXED: &str = "deliver policy can not be updated";

/// The prefix of inboxes without a setting.
pub const INBOX_PREFIX: &str = "_INBOX";

/// How to reach the server.
#[derive(Clone)]
pub struct NatsSettings {
    /// One or more `nats://` or `tls://` addresses of servers of one cluster; a user, password or token may stand in them.
    pub urls: Vec<String>,
    /// How this process shows who it is.
    pub login: Login,
    /// Subjects of replies and pulls begin with it. With one for each service, permissions keep others from reading them.
    pub inbox_prefix: String,
    /// Copies of each stream, 1 to 5; more than one needs a cluster.
    pub replicas: usize,
    /// The name that the server shows for this connection.
    pub name: String,
}

impl Default for NatsSettings {
    fn default() -> Self {
        Self {
            urls: vec!["nats://127.0.0.1:4222".to_owned()],
            login: Login::default(),
            inbox_prefix: INBOX_PREFIX.to_owned(),
            replicas: 1,
            name: "rideshare".to_owned(),
        }
    }
}

impl fmt::Debug for NatsSettings {
    // Not the addresses: a password may stand in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsSettings").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A connection to a NATS server; clones share it.
#[derive(Debug, Clone)]
pub struct NatsBus {
    pub(super) client: Client,
    pub(super) jetstream: jetstream::Context,
    pub(super) replicas: usize,
    in_flight: Arc<Semaphore>,
    pub(super) reconnects: Arc<AtomicU64>,
    pub(crate) subscriptions: OpenSubscriptions,
    pub(super) closed: Arc<AtomicBool>,
    /// Set once the server does not list consumers, but answers about each.
    pub(super) lists_nothing: Arc<AtomicBool>,
    pub(super) limits: Arc<ServerLimits>,
}

/// Bounds the wait for the client itself: while it reconnects and its queue of commands is full, it takes no more.
pub(super) async fn send_in_time<T, E: fmt::Display>(
    what: &str,
    command: impl Future<Output = Result<T, E>>,
) -> Result<T, BusError> {
    match timeout(REPLY_WAIT, command).await {
        Ok(Ok(sent)) => Ok(sent),
        Ok(Err(e)) => Err(BusError::Unavailable(format!("{what}: {e}"))),
        Err(_) => Err(BusError::Unavailable(format!("{what}: not sent in {REPLY_WAIT:?}"))),
    }
}

/// A subscription to core messages.
#[derive(Debug)]
pub struct Subscription {
    messages: async_nats::Subscriber,
    _open: OpenSubscription,
}

impl Subscription {
    pub(crate) async fn next(&mut self) -> Option<CoreMessage> {
        let message = self.messages.next().await?;
        Some(CoreMessage {
            subject: message.subject.into_string(),
            headers: from_nats(message.headers),
            payload: message.payload,
            reply: message.reply.map(async_nats::Subject::into_string),
        })
    }
}

pub(super) fn from_nats(headers: Option<HeaderMap>) -> Headers {
    headers.map_or_else(Headers::default, Headers::from_nats)
}

/// A stream's reply to a publish: an error, or where the message is.
#[derive(Deserialize)]
struct PublishReply {
    error: Option<jetstream::Error>,
    stream: Option<String>,
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
}

/// The client's options; it counts connections.
fn connect_options(
    settings: &NatsSettings,
    credential: &Credential,
    reconnects: Arc<AtomicU64>,
) -> Result<ConnectOptions, BusError> {
    let options = ConnectOptions::new()
        .name(&settings.name)
        .custom_inbox_prefix(&settings.inbox_prefix)
        .ping_interval(Duration::from_secs(5))
        .connection_timeout(REPLY_WAIT)
        .request_timeout(Some(REPLY_WAIT))
        .max_reconnects(None)
        .event_callback(move |event| {
            match &event {
                async_nats::Event::Connected => {
                    reconnects.fetch_add(1, Ordering::Relaxed);
                    tracing::info!("connected to NATS");
                }
                // The client counts the messages; of these events it drops most.
                async_nats::Event::SlowConsumer(_) => {}
                other => tracing::warn!("NATS connection: {other}"),
            }
            std::future::ready(())
        });
    settings.login.options(options, credential).map_err(BusError::Refused)
}

/// An inbox prefix must be a subject without wildcards: the library panics over another.
fn check_inbox_prefix(prefix: &str) -> Result<(), BusError> {
    let token = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic() && b != b'*' && b != b'>');
    if prefix.split('.').all(token) {
        return Ok(());
    }
    Err(BusError::Refused("NATS_INBOX_PREFIX must be a subject without wildcards, as in _INBOX_users".to_owned()))
}

/// Connects, again until there is a server. Credentials that the server refuses are an error at once: it will refuse them again.
async fn connect(settings: &NatsSettings, reconnects: &Arc<AtomicU64>) -> Result<Client, BusError> {
    check_inbox_prefix(&settings.inbox_prefix)?;
    let resolved = settings.login.resolve(&settings.urls).map_err(BusError::Refused)?;
    let servers = resolved.servers.join(",");
    let until = Instant::now() + CONNECT_WAIT;
    let mut is_first = true;
    loop {
        let options = connect_options(settings, &resolved.credential, reconnects.clone())?;
        let error = match options.connect(resolved.servers.clone()).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                let how = match resolved.credential {
                    Credential::None => {
                        "it wants credentials, and none are set: set NATS_USER and NATS_PASSWORD, NATS_TOKEN, \
                                         NATS_NKEY, NATS_CREDS, or NATS_CERT and NATS_KEY"
                    }
                    Credential::User { .. } => "check the user and the password",
                    Credential::Token(_) => "check the token",
                    Credential::Nkey(_) => "check NATS_NKEY, and that the server knows its public key",
                    Credential::Creds(_) => "check NATS_CREDS, and that it has not expired",
                };
                return Err(BusError::Refused(format!("the NATS server at {servers} refuses the credentials: {how}")));
            }
            // What was set cannot be used, today or in a minute.
            ConnectErrorKind::Tls | ConnectErrorKind::ServerParse => {
                return Err(BusError::Refused(format!("{servers}: {error}: check NATS_CA, NATS_CERT and NATS_KEY")));
            }
            _ if Instant::now() >= until => {
                return Err(BusError::Unavailable(format!("no NATS server at {servers} in {CONNECT_WAIT:?}: {error}")));
            }
            _ if std::mem::take(&mut is_first) => tracing::warn!(%error, "no NATS server at {servers} yet"),
            _ => {}
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}

/// Waits until the client has the server's description.
async fn server_info(client: &Client) -> Result<ServerInfo, BusError> {
    let until = Instant::now() + REPLY_WAIT;
    loop {
        if let Some(info) = client.try_server_info().filter(|i| !i.version.is_empty()) {
            return Ok(info);
        }
        if Instant::now() >= until {
            return Err(BusError::Unavailable("the NATS server does not say what it is".to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a task of the client has reported the first connection. Counted later it would look like another connection than the one by
/// which a message came that was pulled at once, and the message would not be acknowledged.
async fn first_connection_counted(reconnects: &AtomicU64) {
    let until = Instant::now() + REPLY_WAIT;
    while reconnects.load(Ordering::Relaxed) == 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(super) fn api_error(what: &str, error: &jetstream::Error) -> BusError {
    use jetstream::ErrorCode;
    let text = format!("{what}: {error}");
    match error.error_code() {
        ErrorCode::STREAM_NOT_FOUND | ErrorCode::CONSUMER_NOT_FOUND | ErrorCode::NO_MESSAGE_FOUND => {
            BusError::NotFound(text)
        }
        ErrorCode::STREAM_STORE_FAILED
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED => BusError::Full(text),
        // The cluster is still forming.
        ErrorCode::CLUSTER_NO_PEERS | ErrorCode::INSUFFICIENT_RESOURCES => BusError::Unavailable(text),
        _ if error.code() == 503 => BusError::Unavailable(text),
        _ if error.code() == 404 => BusError::NotFound(text),
        _ => BusError::Refused(text),
    }
}

impl NatsBus {
    /// Connects, waiting up to a minute for a server that is not up yet. From then on the client reconnects by itself, without
    /// a limit of attempts.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] without a server in a minute; [`BusError::Refused`] for a server older than 2.10 or without
    /// JetStream, or for credentials that cannot be used or that the server refuses.
    pub async fn connect(settings: &NatsSettings) -> Result<Self, BusError> {
        let reconnects = Arc::new(AtomicU64::new(0));
        let client = connect(settings, &reconnects).await?;
        let info = server_info(&client).await?;
        first_connection_counted(&reconnects).await;
        let mut parts = info.version.split(['.', '-']).map(|p| p.parse::<u64>().unwrap_or(0));
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if version < MINIMUM_SERVER {
            let (major, minor) = MINIMUM_SERVER;
            let text = format!("nats-server {} is too old: {major}.{minor} or newer is needed", info.version);
            return Err(BusError::Refused(text));
        }
        if !info.jetstream {
            return Err(BusError::Refused("the NATS server runs without JetStream: start it with -js".to_owned()));
        }
        let jetstream = jetstream::new(client.clone());
        let in_flight = Arc::new(Semaphore::new(PUBLISHES_IN_FLIGHT));
        let closed = Arc::new(AtomicBool::new(false));
        Ok(Self {
            client,
            jetstream,
            replicas: settings.replicas,
            in_flight,
            reconnects,
            subscriptions: OpenSubscriptions::default(),
            closed,
            lists_nothing: Arc::default(),
            limits: Arc::default(),
        })
    }

    /// Sends a request to JetStream's API.
    pub(super) async fn api<T: serde::de::DeserializeOwned>(&self, subject: &str, body: &Value) -> Result<T, BusError> {
        self.api_reply(subject, body).await?.map_err(|error| api_error(subject, &error))
    }

    /// The reply of JetStream's API, or the error that it replies with.
    pub(super) async fn api_reply<T: serde::de::DeserializeOwned>(
        &self,
        subject: &str,
        body: &Value,
    ) -> Result<Result<T, jetstream::Error>, BusError> {
        match timeout(2 * REPLY_WAIT, self.jetstream.request::<_, _, Response<T>>(subject.to_owned(), body)).await {
            Ok(Ok(Response::Ok(reply))) => Ok(Ok(reply)),
            Ok(Ok(Response::Err { error })) => Ok(Err(error)),
            Ok(Err(e)) => Err(BusError::Unavailable(format!("{subject}: {e}"))),
            Err(_) => Err(BusError::Unavailable(format!("{subject}: not sent"))),
        }
    }

    pub(crate) async fn publish(&self, message: Message) -> Result<Published, BusError> {
        let _permit = send_in_time("a publish", self.in_flight.acquire()).await?;
        let subject = message.subject;
        let bytes = message.headers.wire_bytes() + message.payload.len();
        let request = async_nats::Request::new().headers(message.headers.into_nats()).payload(message.payload);
        // One limit for the client, which has to take it, and the reply: each costs a timer.
        let request = self.client.send_request(subject.clone(), request.timeout(None));
        let reply = timeout(REPLY_WAIT, request)
            .await
            .map_err(|_| BusError::Unavailable(format!("publish to {subject}: no acknowledgement in {REPLY_WAIT:?}")))?
            .map_err(|e| match e.kind() {
                RequestErrorKind::NoResponders => BusError::NotFound(format!("no stream captures {subject}")),
                RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
                    BusError::Refused(format!("{subject}: {e}"))
                }
                RequestErrorKind::TimedOut | RequestErrorKind::Other => {
                    BusError::Unavailable(format!("publish to {subject}: {e}"))
                }
            })?;
        match serde_json::from_slice(&reply.payload) {
            Ok(PublishReply { error: None, stream: Some(stream), seq: Some(sequence), duplicate }) => {
                Ok(Published { stream, sequence, duplicate })
            }
            Ok(PublishReply { error: Some(error), .. })
                if error.error_code() == jetstream::ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM
                    && bytes <= MESSAGE_MAX.unsigned_abs() as usize =>
            {
                Err(BusError::Unavailable(format!("{subject}: its stream is not open yet")))
            }
            Ok(PublishReply { error: Some(error), .. }) => Err(api_error(&subject, &error)),
            Ok(_) => Err(BusError::Unavailable(format!("publish to {subject}: the reply is no acknowledgement"))),
            Err(e) => Err(BusError::Unavailable(format!("publish to {subject}: the reply is no acknowledgement: {e}"))),
        }
    }

    pub(crate) async fn publish_all(&self, mut messages: Vec<Message>) -> Vec<Result<Published, BusError>> {
        if messages.len() <= 1 {
            return match messages.pop() {
                Some(message) => vec![self.publish(message).await],
                None => Vec::new(),
            };
        }
        let all =
            stream::iter(messages.into_iter().map(|m| self.publish(m))).buffered(PUBLISHES_IN_FLIGHT / 2).collect();
        // Without tokio's cooperative budget: when it runs out, later publishes are polled first and overtake earlier ones.
        tokio::task::unconstrained(all).await
    }

    pub(crate) async fn stream_info(&self, stream: &str) -> Result<StreamInfo, BusError> {
        Ok(stream_info(&self.api(&format!("STREAM.INFO.{stream}"), &json!({})).await?))
    }

    pub(crate) async fn consumer_info(&self, stream: &str, durable: &str) -> Result<ConsumerInfo, BusError> {
        Ok(consumer_info(&self.api(&format!("CONSUMER.INFO.{stream}.{durable}"), &json!({})).await?))
    }

    pub(crate) async fn created_at(&self, stream: &str, durables: &[&str]) -> Result<DateTime<Utc>, BusError> {
        let info: jetstream::stream::Info = self.api(&format!("STREAM.INFO.{stream}"), &json!({})).await?;
        let mut created_at = info.created;
        for durable in durables {
            let subject = format!("CONSUMER.INFO.{stream}.{durable}");
            let info: jetstream::consumer::Info = self.api(&subject, &json!({})).await?;
            created_at = created_at.max(info.created);
        }
        Ok(created_at)
    }

    pub(crate) async fn delete_stream(&self, stream: &str) -> Result<(), BusError> {
        self.api::<Value>(&format!("STREAM.DELETE.{stream}"), &json!({})).await.map(|_| ())
    }

    pub(crate) async fn delete_consumer(&self, stream: &str, durable: &str) -> Result<(), BusError> {
        self.api::<Value>(&format!("CONSUMER.DELETE.{stream}.{durable}"), &json!({})).await.map(|_| ())
    }

    pub(crate) async fn recreate_consumer(&self, consumer: &Consumer, from: DateTime<Utc>) -> Result<(), BusError> {
        let Consumer { stream, durable, .. } = consumer;
        let mut tries = 0;
        loop {
            match self.delete_consumer(stream, durable).await {
                Ok(()) | Err(BusError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
            tries += 1;
            match self.put_consumer(consumer, consumer.to_json_from(from)).await {
                // A process that waits for its messages has put it back as it was before.
                Err(BusError::Refused(text)) if text.contains(BEGINNING_IS_FIXED) && tries < RECREATE_MAX => {}
                done => return done,
            }
        }
    }

    pub(crate) async fn publish_core(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        send_in_time(subject, self.client.publish(subject.to_owned(), payload)).await
    }

    pub(crate) async fn reply(&self, to: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        send_in_time(to, self.client.publish_with_headers(to.to_owned(), headers.into_nats(), payload)).await
    }

    pub(crate) async fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<Subscription, BusError> {
        let unavailable = |e: &dyn std::fmt::Display| BusError::Unavailable(format!("subscribe to {subject}: {e}"));
        let subscriber = match queue {
            None => send_in_time(subject, self.client.subscribe(subject.to_owned())).await?,
            Some(queue) => {
                send_in_time(subject, self.client.queue_subscribe(subject.to_owned(), queue.to_owned())).await?
            }
        };
        // A round trip, so that the server has the subscription before this returns: it handles what one connection sends in
        // order, so the echo of a message comes after it has made the subscription. (The client's `flush` only empties its own
        // buffer.) Nothing here waits for "no responders": whoever watches `>` is a responder to everything.
        match timeout(REPLY_WAIT, self.echo()).await {
            Ok(Ok(())) => Ok(Subscription { messages: subscriber, _open: self.subscriptions.open() }),
            Ok(Err(e)) => Err(unavailable(&e)),
            Err(_) => Err(unavailable(&format!("no echo in {REPLY_WAIT:?}"))),
        }
    }

    /// Returns once a message of this process has come back from the server.
    async fn echo(&self) -> Result<(), BusError> {
        let inbox = self.client.new_inbox();
        let mut echoes = send_in_time("subscribe", self.client.subscribe(inbox.clone())).await?;
        loop {
            send_in_time("an echo", self.client.publish(inbox.clone(), Bytes::new())).await?;
            match timeout(ECHO_PAUSE, echoes.next()).await {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => return Err(BusError::Unavailable("the connection is closed for good".to_owned())),
                // Lost with a connection; the subscriptions are made again by the next one, in any order, before new messages.
                Err(_) => {}
            }
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

    pub(crate) async fn request_all(
        &self,
        subject: &str,
        payload: Bytes,
        (wait, quiet): (Duration, Duration),
    ) -> Result<Vec<Bytes>, BusError> {
        let until = Instant::now() + wait;
        let inbox = self.client.new_inbox();
        // The server handles what one connection sends in order: it has the subscription before the request.
        let mut incoming = send_in_time(subject, self.client.subscribe(inbox.clone())).await?;
        let sent = self.client.publish_with_reply(subject.to_owned(), inbox, payload);
        send_in_time(subject, sent).await?;
        let mut replies = Vec::new();
        let mut next_by = until;
        while replies.len() < REPLIES_MAX
            && let Ok(Some(message)) = timeout_at(next_by, incoming.next()).await
        {
            if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
                return Err(BusError::NoResponders(subject.to_owned()));
            }
            replies.push(message.payload);
            next_by = until.min(Instant::now() + quiet);
        }
        Ok(replies)
    }

    pub(crate) fn check_connection(&self) -> Result<(), BusError> {
        if self.client.connection_state() != State::Connected {
            return Err(BusError::Unavailable("not connected to NATS".to_owned()));
        }
        Ok(())
    }

    pub(crate) async fn check(&self) -> Result<(), BusError> {
        self.check_connection()?;
        timeout(REPLY_WAIT, self.api::<Value>("INFO", &json!({})))
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
        self.client.statistics().slow_consumer_drops.load(Ordering::Relaxed)
    }
}

pub(super) fn stream_info(info: &jetstream::stream::Info) -> StreamInfo {
    StreamInfo {
        messages: info.state.messages,
        bytes: info.state.bytes,
        // 0 for a stream that never held a message.
        first_sequence: info.state.first_sequence.max(1),
        last_sequence: info.state.last_sequence,
        consumers: info.state.consumer_count as u64,
        max_bytes: info.config.max_bytes,
    }
}

pub(super) fn consumer_info(info: &jetstream::consumer::Info) -> ConsumerInfo {
    ConsumerInfo {
        pending: info.num_pending,
        ack_pending: info.num_ack_pending as u64,
        redelivered: info.num_redelivered as u64,
        ack_floor: info.ack_floor.stream_sequence,
        delivered: info.delivered.stream_sequence,
    }
}
