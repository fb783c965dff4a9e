//! The AsyncAPI document: the WebSocket with its frames, and every subject on NATS with its messages, who sends and who receives it. Pure.

use platform::api::Schemas;
use platform::dead_letters::worker_schemas;
use platform::pod::service_replies;
use serde_json::{Map, Value, json};
use streams::topology::{Stream, TABLE, Topology, durable};
use streams::{Service, Subject};

use super::core_subjects::{Body, CORE_SUBJECTS, CoreSubject};
use crate::admin;

const DESCRIPTION: &str = "Two halves: the WebSocket, for clients, and the subjects on NATS, for programs beside the platform. Unknown \
fields are to be ignored: a later version may send more. Events are at least once: `Nats-Msg-Id` and `event_id` are the same on every repeat. \
A message's name is its subject, a frame's name its `type`.";

/// A document under construction.
#[derive(Default)]
struct Document {
    schemas: Schemas,
    channels: Map<String, Value>,
    operations: Map<String, Value>,
    messages: Map<String, Value>,
}

pub(super) fn document() -> Value {
    let mut document = Document::default();
    document.socket();
    document.operators_stream();
    for row in TABLE {
        document.event(row.subject, row.stream, row.writers, row.readers);
    }
    document.dead_letters();
    CORE_SUBJECTS.iter().for_each(|subject| document.core_subject(subject));
    document.pods();
    document.finish()
}

fn reference(to: &str) -> Value {
    json!({"$ref": to})
}

/// A name as a key: `users.pod.*` becomes `users.pod.pod`, as its parameter is called.
fn key(pattern: &str) -> String {
    address(pattern).replace(['{', '}', '$'], "")
}

/// A pattern with a name for what `*` stands for.
fn address(pattern: &str) -> String {
    let parameter = match pattern {
        "location.live.*" => "{ride_id}",
        "users.session.*.notify" => "{user_id}",
        "users.pod.*" | "location.pod.*" | "location.pod.*.drivers" | "pods.*.health" => "{pod_id}",
        "dead_letter.*" | "dead_letters.*" => "{consumer}",
        _ => "",
    };
    pattern.replace('*', parameter)
}

fn parameters(pattern: &str) -> Value {
    let address = address(pattern);
    let name = address.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(name, _)| name);
    let meaning = |name| match name {
        "ride_id" => "The ride, a UUID.",
        "user_id" => "The user, a UUID.",
        "pod_id" => "One process: letters, digits, `-` and `_`.",
        _ => "The name of a durable consumer.",
    };
    name.map_or(json!({}), |name| json!({name: {"description": meaning(name)}}))
}

/// The headers of an event (CloudEvents 1.0 in binary mode, W3C trace context).
fn headers_of_event(subject: &str) -> Value {
    let text = json!({"type": "string"});
    json!({
        "type": "object",
        "properties": {
            "Nats-Msg-Id": {"type": "string", "description": "`<subject>-<entity id>-<microseconds>`: the same on every repeat."},
            "ce-specversion": {"type": "string", "const": "1.0"},
            "ce-id": {"type": "string", "description": "That of Nats-Msg-Id."},
            "ce-type": {"type": "string", "const": subject},
            "ce-source": {"type": "string", "enum": Service::ALL.map(|service| format!("/{}", service.name()))},
            "ce-time": {"type": "string", "format": "date-time"},
            "ce-subject": {"type": "string", "description": "The id of the entity."},
            "traceparent": text,
            "content-type": {"type": "string", "const": "application/json"},
        },
        "required": ["Nats-Msg-Id", "ce-specversion", "ce-id", "ce-type", "ce-source", "ce-time", "ce-subject", "content-type"],
    })
}

impl Document {
    fn message(&mut self, key: &str, name: &str, summary: &str, payload: Value) -> Value {
        let message = json!({"name": name, "title": name, "summary": summary, "payload": payload});
        self.messages.insert(key.to_owned(), message);
        reference(&format!("#/components/messages/{key}"))
    }

    fn channel(&mut self, key: &str, address: &str, server: &str, summary: &str, messages: Map<String, Value>) {
        let servers = [reference(&format!("#/servers/{server}"))];
        let channel = json!({"address": address, "summary": summary, "servers": servers, "messages": messages});
        self.channels.insert(key.to_owned(), channel);
    }

    /// What a service does with the messages of a channel.
    fn operation(&mut self, id: String, action: &str, channel: &str, messages: &[&str], service: &str) {
        let messages: Vec<Value> =
            messages.iter().map(|name| reference(&format!("#/channels/{channel}/messages/{name}"))).collect();
        let channel = reference(&format!("#/channels/{channel}"));
        let tags = [json!({"name": service})];
        self.operations.insert(id, json!({"action": action, "channel": channel, "messages": messages, "tags": tags}));
    }

    fn socket(&mut self) {
        let mut messages = Map::new();
        let (mut received, mut sent) = (Vec::new(), Vec::new());
        for (frame, ack) in users::client_frames(&mut self.schemas) {
            let message = self.message(&format!("command.{}", frame.name), frame.name, frame.summary, frame.payload);
            self.messages[&format!("command.{}", frame.name)]["x-ack-data"] = ack;
            messages.insert(frame.name.to_owned(), message);
            received.push(frame.name);
        }
        for frame in users::server_frames(&mut self.schemas) {
            // A frame of the mailbox is named for the event that it shows.
            let summary = frame.name.parse().map_or(frame.summary, summary_of);
            let message = self.message(&format!("frame.{}", frame.name), frame.name, summary, frame.payload);
            messages.insert(frame.name.to_owned(), message);
            sent.push(frame.name);
        }
        let summary = "Commands of a client, answers, and events of the user.";
        self.channel("socket", "/v1/ws", "http", summary, messages);
        let closes: Vec<Value> =
            users::closes().iter().map(|(code, reason)| json!({"code": code, "reason": reason})).collect();
        let socket = &mut self.channels["socket"];
        socket["description"] = "Text frames of JSON, at most 64 KiB. The first frame of the server is `welcome`; each command with an \
                                 `id` is answered by an `ack` or an `error` with that `id`; events are numbered by `seq` without gaps."
            .into();
        socket["x-close-codes"] = closes.into();
        socket["bindings"] = json!({"ws": {"method": "GET", "query": {
            "type": "object",
            "properties": {
                "last_seq": {"type": "integer", "minimum": 0, "description": "The newest event that the client has."},
                "device": {"type": "string", "maxLength": 64, "description": "The installation of the app."},
            },
        }}});
        self.operation("users_receive_commands".to_owned(), "receive", "socket", &received, "users");
        let [ack, error] = ["ack", "error"].map(|name| reference(&format!("#/channels/socket/messages/{name}")));
        self.operations["users_receive_commands"]["reply"] =
            json!({"channel": reference("#/channels/socket"), "messages": [ack, error]});
        let frames: Vec<&str> = sent.into_iter().filter(|name| !["ack", "error"].contains(name)).collect();
        self.operation("users_send_frames".to_owned(), "send", "socket", &frames, "users");
    }

    fn operators_stream(&mut self) {
        let key = "operators_stream";
        let mut messages = Map::new();
        for (name, summary, data) in admin::stream::events() {
            let payload = data(&mut self.schemas);
            let message = self.message(&format!("operators.{name}"), name, summary, payload);
            messages.insert(name.to_owned(), message);
        }
        let names: Vec<String> = messages.keys().cloned().collect();
        let summary = "Server-sent events for operators.";
        self.channel(key, "/admin/v1/stream", "admin", summary, messages);
        self.channels[key]["description"] = "The name of a message is the `event`, its payload the `data`. The stream is made by asking, so \
                                             that a client that loses it misses nothing. It ends after an hour, or with its token."
            .into();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.operation("send_operators_stream".to_owned(), "send", key, &names, "operators");
    }

    fn event(&mut self, subject: Subject, stream: &str, writers: &[Service], readers: &[Service]) {
        let name = subject.as_str();
        let payload = self.schemas.event(subject);
        let message = self.message(name, name, summary_of(subject), payload);
        self.messages[name]["headers"] = headers_of_event(name);
        self.messages[name]["contentType"] = "application/json".into();
        self.channel(name, name, "nats", summary_of(subject), [(name.to_owned(), message)].into_iter().collect());
        let consumers: Vec<String> = readers.iter().map(|reader| durable(subject, *reader)).collect();
        self.channels[name]["x-jetstream"] = json!({"stream": stream, "consumers": consumers});
        for service in writers {
            self.operation(format!("{service}_send_{}", id(name)), "send", name, &[name], service.name());
        }
        for service in readers {
            self.operation(format!("{service}_receive_{}", id(name)), "receive", name, &[name], service.name());
        }
    }

    fn dead_letters(&mut self) {
        let (key, name) = ("dead_letter.consumer", "dead_letter");
        let summary = "A message that a consumer gave up, as it was.";
        let message =
            self.message(key, name, summary, json!({"description": "The body of the message, byte for byte."}));
        let text = json!({"type": "string"});
        let names = ["Stream", "Subject", "Sequence", "Consumer", "Deliveries", "Reason", "Time", "Message-Id"];
        let names = names.map(|name| format!("Dead-Letter-{name}"));
        let properties: Map<String, Value> = names.iter().map(|name| (name.clone(), text.clone())).collect();
        self.messages[key]["headers"] = json!({
            "type": "object", "properties": properties, "required": names, "additionalProperties": text,
            "description": "And those of the message.",
        });
        self.channel(
            key,
            "dead_letter.{consumer}",
            "nats",
            summary,
            [(name.to_owned(), message)].into_iter().collect(),
        );
        self.channels[key]["parameters"] = parameters("dead_letter.*");
        self.channels[key]["x-jetstream"] = json!({"stream": streams::topology::DEAD_LETTER_STREAM, "consumers": []});
        for service in Service::ALL {
            self.operation(format!("{service}_send_dead_letter"), "send", key, &[name], service.name());
        }
        let (request, reply) = worker_schemas();
        let (request, reply) = (request(&mut self.schemas), reply(&mut self.schemas));
        let summary = "To the workers of a consumer: handle a dead letter again.";
        self.request("dead_letters.*", summary, request, Some(reply), &Service::ALL, &Service::ALL);
    }

    fn core_subject(&mut self, subject: &CoreSubject) {
        let CoreSubject { pattern, publishers, subscribers, summary, .. } = *subject;
        let own = users::core_bodies().into_iter().chain(location::core_bodies()).find(|(of, ..)| *of == pattern);
        let body = match (subject.body, own) {
            (Body::Json(schema), _) | (Body::Own, Some((_, schema, _))) => schema(&mut self.schemas),
            (Body::Own, None) => json!({"type": "object"}),
            (Body::Sealed, _) => sealed(),
        };
        let reply = subject.reply.map(|reply| match (reply, own) {
            (Body::Json(schema), _) | (Body::Own, Some((_, _, Some(schema)))) => schema(&mut self.schemas),
            (Body::Own, _) => json!({"type": "object"}),
            (Body::Sealed, _) => sealed(),
        });
        // Each process answers for its health: the permissions have it elsewhere.
        let subscribers = if pattern == "pods.*.health" { &Service::ALL } else { subscribers };
        self.request(pattern, summary, body, reply, publishers, subscribers);
        if let Some(group) = subject.queue_group {
            self.channels[&key(pattern)]["bindings"] = json!({"nats": {}});
            self.channels[&key(pattern)]["x-queue-group"] = group.into();
        }
    }

    /// A core subject, with a reply if it is a request.
    fn request(
        &mut self,
        pattern: &str,
        summary: &str,
        body: Value,
        reply: Option<Value>,
        publishers: &[Service],
        subscribers: &[Service],
    ) {
        let (key, address) = (key(pattern), address(pattern));
        let message = self.message(&key, &key, summary, body);
        let mut messages: Map<String, Value> = [(key.clone(), message)].into_iter().collect();
        let reply_name = format!("{key}.reply");
        if let Some(reply) = &reply {
            let message = self.message(&reply_name, &reply_name, "The reply.", reply.clone());
            messages.insert(reply_name.clone(), message);
        }
        self.channel(&key, &address, "nats", summary, messages);
        if pattern.contains('*') {
            self.channels[&key]["parameters"] = parameters(pattern);
        }
        for (action, services) in [("send", publishers), ("receive", subscribers)] {
            for service in services {
                let operation = format!("{service}_{action}_{}", id(&key));
                self.operation(operation.clone(), action, &key, &[&key], service.name());
                if reply.is_some() {
                    let messages = [reference(&format!("#/channels/{key}/messages/{reply_name}"))];
                    let channel = reference(&format!("#/channels/{key}"));
                    self.operations[&operation]["reply"] = json!({"channel": channel, "messages": messages});
                }
            }
        }
    }

    /// What every process answers, whichever services it runs.
    fn pods(&mut self) {
        for (subject, reply) in service_replies() {
            let reply = reply(&mut self.schemas);
            let summary = "The NATS service API, also with the name of a service, and its instance, behind it.";
            self.request(subject, summary, json!({}), Some(reply), &[], &Service::ALL);
        }
    }

    fn finish(self) -> Value {
        let Self { schemas, channels, operations, messages } = self;
        let mut document = json!({
            "asyncapi": "3.1.0",
            "info": {
                "title": "rideshare",
                "version": env!("CARGO_PKG_VERSION"),
                "description": DESCRIPTION,
                "license": {"name": "Apache-2.0"},
                "tags": Service::ALL.map(|service| json!({"name": service.name()})),
            },
            "defaultContentType": "application/json",
            "servers": {
                "http": {
                    "host": "127.0.0.1:8080", "protocol": "ws", "description": "HTTP_ADDR, or an ingress before it (`wss`).",
                    "security": [{
                        "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                        "description": "`Authorization: Bearer <access token>`, or from a browser `Sec-WebSocket-Protocol: bearer, <access token>`.",
                    }],
                },
                "admin": {
                    "host": "127.0.0.1:8080", "protocol": "http", "description": "ADMIN_ADDR, or HTTP_ADDR without one.",
                    "security": [{"type": "http", "scheme": "bearer", "description": "A token of ADMIN_TOKENS_FILE."}],
                },
                "nats": {
                    "host": "127.0.0.1:4222", "protocol": "nats", "description": "NATS_URL.",
                    "security": [{"type": "userPassword", "description": "NATS_USER and NATS_PASSWORD, or what else NATS knows."}],
                },
            },
            "channels": channels,
            "operations": operations,
            "components": {"messages": messages},
        });
        // The default of the topology: a deployment may have other sizes.
        let streams = Topology::rideshare().streams;
        let stream = |stream: &Stream| {
            json!({
                "name": stream.name, "subjects": stream.subjects, "max_age_s": stream.max_age.as_secs(),
                "max_bytes": stream.max_bytes, "duplicate_window_s": stream.duplicate_window.as_secs(),
            })
        };
        document["x-streams"] = streams.iter().map(stream).collect();
        schemas.add_to(&mut document);
        document
    }
}

/// The id of an operation has no dots.
fn id(name: &str) -> String {
    name.replace('.', "_")
}

fn sealed() -> Value {
    json!({"type": "string", "contentMediaType": "application/octet-stream",
           "description": "JSON, sealed by a key that only processes of the platform have."})
}

fn summary_of(subject: Subject) -> &'static str {
    match subject {
        Subject::UserBeacon => "A driver went on or off duty, or moved while waiting.",
        Subject::UserFinder => "A passenger began or ended a search.",
        Subject::MatchFound => "A driver is proposed to a passenger.",
        Subject::MatchRejected => "An offer ended without a ride.",
        Subject::MatchAccepted => "The driver accepted the offer.",
        Subject::RidePickup => "The ride exists; the driver is on the way.",
        Subject::RideWaiting => "The driver waits at the pickup.",
        Subject::RideStarted => "The passenger is in the vehicle.",
        Subject::RideArrived => "The vehicle is at the dropoff.",
        Subject::RideCompleted => "The fare is known; final.",
        Subject::RideCancelled => "Driver, passenger or platform ended the ride early; final.",
        Subject::LocationUpdate => "One position of a driver.",
        Subject::LocationAggregate => "The distance of a ride so far.",
        Subject::AdminRideEnded
        | Subject::AdminRideRefunded
        | Subject::AdminRideNoteAdded
        | Subject::AdminUserLookedUp
        | Subject::AdminUserSignedOut
        | Subject::AdminDriverApproved
        | Subject::AdminDriverSuspended
        | Subject::AdminDriverDocumentsSet
        | Subject::AdminDeadLetterRequeued
        | Subject::AdminDeadLetterRemoved => "An act of an operator.",
        Subject::PaymentCapture => "Money to be captured from a passenger.",
    }
}
