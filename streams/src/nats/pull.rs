//! Pull requests to a durable consumer, and the acknowledgement of what they deliver.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::connection::State;
use async_nats::{Client, StatusCode, jetstream};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::client::{NatsBus, REPLY_WAIT, from_nats, send_in_time};
use crate::bus::message::{BusError, Delivered, StoredMessage};
use crate::topology::Consumer;

/// The server refuses a pull request that expires sooner.
const SHORTEST_PULL: Duration = Duration::from_millis(50);
/// How long a pull request of a consumer to which nothing came stays open, if its caller waits for [`IDLE_AFTER`] at least: each request
/// costs a call of JetStream's API, in each process.
const IDLE_PULL: Duration = Duration::from_secs(60);
const IDLE_AFTER: Duration = Duration::from_secs(5);
/// How often the server says that such a request is still open.
const HEARTBEAT: Duration = Duration::from_millis(2_500);
/// A server that says nothing for so long has lost it: two heartbeats, and a second.
const HEARTBEAT_WAIT: Duration = Duration::from_secs(6);
/// How long after its expiry a pull request may still be answered.
const EXPIRY_GRACE: Duration = Duration::from_secs(1);

/// Acknowledges one delivery.
#[derive(Debug)]
pub struct AckHandle {
    client: Client,
    reply: async_nats::Subject,
    reconnects: Arc<AtomicU64>,
    /// The value of `reconnects` when the message was pulled.
    connection: u64,
}

impl AckHandle {
    /// Fails unless this is still the connection that delivered the message.
    ///
    /// An acknowledgement names only the stream, the consumer and the sequence. If the stream was lost with its server and
    /// recreated, the acknowledgement of an old message would release the new message with that sequence, which nobody has
    /// handled. An unacknowledged message is redelivered, so nothing is lost by not sending.
    fn check_connection(&self) -> Result<(), BusError> {
        let connected = self.client.connection_state() == State::Connected;
        if connected && self.reconnects.load(Ordering::Relaxed) == self.connection {
            return Ok(());
        }
        Err(BusError::Unavailable("the connection by which the message came is gone; it comes again".to_owned()))
    }

    async fn send(&self, payload: Bytes) -> Result<(), BusError> {
        self.check_connection()?;
        send_in_time("an acknowledgement", self.client.publish(self.reply.clone(), payload)).await
    }

    async fn send_confirmed(&self, payload: &'static str) -> Result<(), BusError> {
        self.check_connection()?;
        let request = self.client.request(self.reply.clone(), payload.into());
        match timeout(REPLY_WAIT, request).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) if e.kind() == RequestErrorKind::NoResponders => {
                Err(BusError::NotFound(format!("the consumer of {}", self.reply)))
            }
            Ok(Err(e)) => Err(BusError::Unavailable(e.to_string())),
            Err(_) => Err(BusError::Unavailable(format!("no confirmation of {payload} in {REPLY_WAIT:?}"))),
        }
    }

    pub(crate) async fn ack(&self) -> Result<(), BusError> {
        self.send(Bytes::from_static(b"+ACK")).await
    }

    pub(crate) async fn ack_confirmed(&self) -> Result<(), BusError> {
        self.send_confirmed("+ACK").await
    }

    pub(crate) async fn retry(&self, delay: Duration) -> Result<(), BusError> {
        if delay.is_zero() {
            return self.send(Bytes::from_static(b"-NAK")).await;
        }
        self.send(format!("-NAK {{\"delay\": {}}}", delay.as_nanos()).into()).await
    }

    pub(crate) async fn terminate(&self) -> Result<(), BusError> {
        self.send_confirmed("+TERM").await
    }

    pub(crate) async fn in_progress(&self) -> Result<(), BusError> {
        self.send(Bytes::from_static(b"+WPI")).await
    }
}

/// Sends pull requests to one durable consumer. A pull request outlives the fetch that sent it, so an idle consumer costs one
/// request in [`IDLE_PULL`], and a busy one a request for each batch.
#[derive(Debug)]
pub struct Puller {
    client: Client,
    jetstream: jetstream::Context,
    stream: String,
    durable: String,
    inbox: String,
    messages: async_nats::Subscriber,
    /// Messages that the open pull request may still deliver.
    requested: usize,
    /// When the open pull request has certainly expired, or is lost.
    request_deadline: Instant,
    /// The server says of the open pull request that it is.
    has_heartbeat: bool,
    /// To the last pull request nothing came.
    is_idle: bool,
    reconnects: Arc<AtomicU64>,
    /// The value of `reconnects` at the last pull request.
    connection: u64,
    ready: VecDeque<async_nats::Message>,
    closed: Arc<AtomicBool>,
}

impl Puller {
    pub(crate) async fn open(bus: &NatsBus, consumer: &Consumer) -> Result<Self, BusError> {
        let inbox = bus.client.new_inbox();
        let messages = send_in_time("subscribe", bus.client.subscribe(inbox.clone())).await?;
        Ok(Self {
            client: bus.client.clone(),
            jetstream: bus.jetstream.clone(),
            stream: consumer.stream.clone(),
            durable: consumer.durable.clone(),
            inbox,
            messages,
            requested: 0,
            request_deadline: Instant::now(),
            has_heartbeat: false,
            is_idle: false,
            reconnects: bus.reconnects.clone(),
            connection: 0,
            ready: VecDeque::new(),
            closed: bus.closed.clone(),
        })
    }

    async fn send_request(&mut self, batch: usize, wait: Duration) -> Result<(), BusError> {
        self.has_heartbeat = std::mem::replace(&mut self.is_idle, true) && wait >= IDLE_AFTER;
        let expires = if self.has_heartbeat { IDLE_PULL } else { wait.max(SHORTEST_PULL) };
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.durable);
        let mut body = json!({"batch": batch, "expires": expires.as_nanos() as u64});
        if self.has_heartbeat {
            body["idle_heartbeat"] = json!(HEARTBEAT.as_nanos() as u64);
        }
        let body = body.to_string();
        self.connection = self.reconnects.load(Ordering::Relaxed);
        send_in_time("a pull", self.client.publish_with_reply(subject, self.inbox.clone(), body.into())).await?;
        self.requested = batch;
        self.request_deadline =
            Instant::now() + if self.has_heartbeat { HEARTBEAT_WAIT } else { expires + EXPIRY_GRACE };
        Ok(())
    }

    /// Ends a request that was sent by another connection: its server may have lost it, or still delivers to it, by which the next one would
    /// be miscounted. What is on its way to the old inbox is redelivered after the ack wait.
    async fn renew_after_reconnect(&mut self) -> Result<(), BusError> {
        if self.requested == 0 || self.connection == self.reconnects.load(Ordering::Relaxed) {
            return Ok(());
        }
        let inbox = self.client.new_inbox();
        self.messages = send_in_time("subscribe", self.client.subscribe(inbox.clone())).await?;
        (self.inbox, self.requested) = (inbox, 0);
        Ok(())
    }

    /// Handles a status message of the server about the open pull request; an error ends the fetch.
    fn on_status(&mut self, code: StatusCode, message: &async_nats::Message) -> Result<(), BusError> {
        let unfulfilled = message
            .headers
            .as_ref()
            .and_then(|h| h.get("Nats-Pending-Messages"))
            .and_then(|v| v.as_str().parse::<usize>().ok());
        match code {
            StatusCode::IDLE_HEARTBEAT => Ok(()),
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => {
                self.requested = self.requested.saturating_sub(unfulfilled.unwrap_or(self.requested));
                Ok(())
            }
            StatusCode::NO_RESPONDERS => {
                self.requested = 0;
                Err(BusError::NotFound(format!("consumer {} on {}, or its server", self.durable, self.stream)))
            }
            StatusCode::REQUEST_TERMINATED => {
                self.requested = 0;
                let why = message.description.as_deref().unwrap_or("the pull request was ended");
                if why.eq_ignore_ascii_case("consumer deleted") {
                    Err(BusError::NotFound(format!("consumer {} on {}: {why}", self.durable, self.stream)))
                } else {
                    Err(BusError::Unavailable(format!("consumer {}: {why}", self.durable)))
                }
            }
            other => {
                self.requested = 0;
                Err(BusError::Unavailable(format!("consumer {}: status {other}", self.durable)))
            }
        }
    }

    fn delivery(&mut self, message: async_nats::Message) -> Result<Delivered<AckHandle>, BusError> {
        self.requested = self.requested.saturating_sub(1);
        self.is_idle = false;
        let message = jetstream::Message { message, context: self.jetstream.clone() };
        let info = message.info().map_err(|e| BusError::Refused(format!("a delivery without its data: {e}")))?;
        let (sequence, stored_at) = (info.stream_sequence, info.published);
        let (deliveries, pending) = (info.delivered.unsigned_abs(), info.pending);
        // Not by the library's `split`, which drops the reply subject.
        let message = message.message;
        let reply = message.reply.clone().ok_or_else(|| BusError::Refused("a delivery without a reply".to_owned()))?;
        Ok(Delivered {
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
            ack_handle: AckHandle {
                client: self.client.clone(),
                reply,
                reconnects: self.reconnects.clone(),
                connection: self.connection,
            },
        })
    }

    pub(crate) async fn fetch(&mut self, max: usize, wait: Duration) -> Result<Vec<Delivered<AckHandle>>, BusError> {
        let until = Instant::now() + wait;
        let mut batch = Vec::new();
        loop {
            while batch.len() < max {
                let Some(message) = self.ready.pop_front().or_else(|| self.messages.next().now_or_never().flatten())
                else {
                    break;
                };
                if self.has_heartbeat {
                    self.request_deadline = Instant::now() + HEARTBEAT_WAIT;
                }
                match message.status {
                    None | Some(StatusCode::OK) => match self.delivery(message) {
                        Ok(delivery) => batch.push(delivery),
                        Err(error) => tracing::warn!(%error, consumer = self.durable, "passed over"),
                    },
                    Some(code) => {
                        if let Err(error) = self.on_status(code, &message) {
                            // Messages that have arrived go first; the error comes again at the next fetch.
                            return if batch.is_empty() { Err(error) } else { Ok(batch) };
                        }
                    }
                }
            }
            let now = Instant::now();
            if !batch.is_empty() {
                return Ok(batch);
            }
            if self.requested > 0 && now >= self.request_deadline {
                // The server did not even report the expiry, or that the request is open: there is no leader, or no server.
                (self.requested, self.is_idle) = (0, false);
                return Err(BusError::Unavailable(format!("consumer {} does not answer", self.durable)));
            }
            if now >= until {
                return Ok(batch);
            }
            self.renew_after_reconnect().await?;
            // Only when the last request is used up, so that at most one batch is ever on its way.
            if self.requested == 0 {
                self.send_request(max, wait).await?;
            }
            let until = until.min(self.request_deadline);
            match timeout(until.saturating_duration_since(Instant::now()), self.messages.next()).await {
                Ok(Some(message)) => self.ready.push_back(message),
                Ok(None) => {
                    self.closed.store(true, Ordering::Relaxed);
                    return Err(BusError::Unavailable("the connection is closed for good".to_owned()));
                }
                Err(_) => {}
            }
        }
    }

    /// Ends the pull, and puts back what the server has already sent. Otherwise it would wait for the ack wait.
    ///
    /// The server drops an open pull request when nobody listens to its inbox any more. Somebody who watches all subjects does
    /// listen: then the request is read until it is used up or expires, for [`HEARTBEAT_WAIT`] at most. What comes to it later is redelivered
    /// after the ack wait.
    pub(crate) async fn close(mut self) {
        if self.requested > 0 && self.is_watched().await {
            // What is put back comes after the request has ended: the server would deliver it to the same request again.
            let until = self.request_deadline.min(Instant::now() + HEARTBEAT_WAIT);
            while self.requested > 0
                && let Some(message) = self.next_before(until).await
            {
                match message.status {
                    None | Some(StatusCode::OK) => {
                        self.put_back(message, until.saturating_duration_since(Instant::now())).await;
                    }
                    Some(code) => drop(self.on_status(code, &message)),
                }
            }
        }
        let _ = self.messages.unsubscribe().await;
        let _ = timeout(Duration::from_secs(1), self.client.flush()).await;
        let until = Instant::now() + Duration::from_secs(1);
        while let Some(message) = self.next_before(until).await {
            if matches!(message.status, None | Some(StatusCode::OK)) {
                self.put_back(message, Duration::ZERO).await;
            }
        }
    }

    /// Whether somebody else listens to inboxes: a request to one that does not exist is answered by the server only if nobody does.
    async fn is_watched(&mut self) -> bool {
        let nobody = self.client.new_inbox();
        let asked = self.client.publish_with_reply(nobody, self.inbox.clone(), Bytes::new());
        if send_in_time("a request", asked).await.is_err() {
            return false;
        }
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            match tokio::time::timeout_at(until, self.messages.next()).await {
                Ok(Some(message)) if message.status == Some(StatusCode::NO_RESPONDERS) => return false,
                Ok(Some(message)) => self.ready.push_back(message),
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    async fn next_before(&mut self, until: Instant) -> Option<async_nats::Message> {
        match self.ready.pop_front() {
            Some(message) => Some(message),
            None => tokio::time::timeout_at(until, self.messages.next()).await.ok().flatten(),
        }
    }

    async fn put_back(&mut self, message: async_nats::Message, delay: Duration) {
        if let Ok(delivery) = self.delivery(message) {
            let _ = delivery.ack_handle.retry(delay).await;
        }
    }
}
