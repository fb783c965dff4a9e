//! The frames of the socket as schemas: what a client may send, and everything that the server sends. Each is the envelope that `frame` reads
//! or writes, around the type of its `data`.

use platform::api::codes::CODES;
use platform::api::{SchemaOf, Schemas};
use serde_json::{Value, json};
use streams::Subject;
use streams::event::{LocationAggregate, MatchRejected, UserBeacon};

use super::client_limits::ClientLimits;
use super::frame::{AUTH_REFRESH, FrameType, TYPES, Welcome};
use super::live::LiveView;
use super::pod_message::{PodMessage, SilentSocket};
use super::transport::{ENDS, SessionEnd};
use crate::commands::ack::{Ack, RefreshAck};
use crate::commands::command::Refusal;
use crate::live_ride::position::LivePosition;
use crate::mailbox::MissedRange;
use crate::shown::{AcceptedFrame, FinderFrame, FoundFrame, RideJoined};
use crate::state::StateView;

/// A frame, by its `type`.
#[derive(Debug)]
pub struct FrameDescription {
    pub name: &'static str,
    pub summary: &'static str,
    pub payload: Value,
}

/// Frames that a client may send, with the schema of the `data` of the ack.
pub fn client_frames(schemas: &mut Schemas) -> Vec<(FrameDescription, Value)> {
    let describe = |kind: &FrameType| {
        let payload = envelope(
            kind.name,
            [("id", id()), ("traceparent", traceparent()), ("data", (kind.data)(schemas))],
            &["type", "data"],
        );
        let summary = summary_of_command(kind.name);
        (FrameDescription { name: kind.name, summary, payload }, (kind.ack)(schemas))
    };
    TYPES.iter().map(describe).collect()
}

/// Frames that the server sends.
pub fn server_frames(schemas: &mut Schemas) -> Vec<FrameDescription> {
    let mut frames: Vec<FrameDescription> = Vec::new();
    let mut add = |name, summary, payload| frames.push(FrameDescription { name, summary, payload });
    let data = |name, schema| envelope(name, [("data", schema)], &["type", "data"]);
    add(
        "welcome",
        "The first frame of a socket.",
        data("welcome", schemas.written::<Welcome<'_, ClientLimits, StateView>>()),
    );
    let answer = |name, field, schema| envelope(name, [("id", id()), (field, schema)], &["type", "id", field]);
    let acked = json!({"anyOf": [schemas.written::<Ack>(), schemas.written::<RefreshAck>()]});
    add("ack", "The command is done, for good.", answer("ack", "data", acked));
    let codes: Vec<&str> = CODES.iter().map(|code| code.name).collect();
    let refusal = json!({"allOf": [schemas.written::<Refusal>(), {"properties": {"code": {"enum": codes}}}]});
    add("error", "A command, or a frame, is refused, and nothing was changed.", answer("error", "error", refusal));
    let live = data("location.live", schemas.written::<LiveView>());
    add("location.live", "To the passenger of a live ride: where the driver is. The next one takes its place.", live);
    let missed = data("missed", schemas.written::<MissedRange>());
    add("missed", "Events of this range are no longer there.", missed);
    for subject in Subject::ALL {
        if let Some(shown) = event_data(*subject, schemas) {
            let fields = [
                ("seq", json!({"type": "integer", "minimum": 1})),
                ("event_id", json!({"type": "string"})),
                ("time", json!({"type": "string", "format": "date-time"})),
                ("data", shown),
            ];
            let required = ["type", "seq", "event_id", "time", "data"];
            add(subject.as_str(), "An event of the user's mailbox.", envelope(subject.as_str(), fields, &required));
        }
    }
    frames
}

/// The codes with which the server closes a socket, each with a reason.
pub fn closes() -> Vec<(u16, &'static str)> {
    let close = |end: &SessionEnd| match end {
        SessionEnd::Close(code, reason) => Some((*code, *reason)),
        SessionEnd::Disconnected => None,
    };
    ENDS.iter().filter_map(close).collect()
}

/// The body of `POST /v1/commands`: a frame, and the device that the socket would have named in its query.
pub(crate) fn command_body(schemas: &mut Schemas) -> Value {
    let device = json!({"type": ["string", "null"], "description": "1 to 64 visible characters; the `device` of the query goes before it."});
    let commands = TYPES.iter().filter(|kind| kind.name != AUTH_REFRESH);
    let body = |kind: &FrameType| {
        let fields =
            [("id", id()), ("traceparent", traceparent()), ("data", (kind.data)(schemas)), ("device", device.clone())];
        envelope(kind.name, fields, &["type", "data"])
    };
    json!({"oneOf": commands.map(body).collect::<Vec<_>>()})
}

/// The bodies of the core subjects that only users writes and reads; each is signed.
pub fn core_bodies() -> [(&'static str, SchemaOf, Option<SchemaOf>); 3] {
    fn signed(schema: Value) -> Value {
        json!({"allOf": [schema, {
            "type": "object", "properties": {"mac": {"type": "string", "pattern": "^[0-9a-f]{64}$"}}, "required": ["mac"],
        }]})
    }
    fn sockets(schemas: &mut Schemas) -> Value {
        let sockets = schemas.written::<Vec<SilentSocket>>();
        signed(json!({"type": "object", "properties": {"sockets": sockets}, "required": ["sockets"]}))
    }
    [
        ("location.live.*", |schemas| signed(schemas.written::<LivePosition>()), None),
        ("users.pod.*", |schemas| signed(schemas.written::<PodMessage>()), Some(sockets)),
        ("users.broadcast", |schemas| signed(schemas.written::<PodMessage>()), None),
    ]
}

/// The data of an event as a user is shown it; `None` if no user is.
fn event_data(subject: Subject, schemas: &mut Schemas) -> Option<Value> {
    Some(match subject {
        Subject::UserBeacon => schemas.written::<UserBeacon>(),
        Subject::UserFinder => schemas.written::<FinderFrame>(),
        Subject::MatchFound => schemas.written::<FoundFrame>(),
        Subject::MatchAccepted => schemas.written::<AcceptedFrame>(),
        Subject::MatchRejected => schemas.written::<MatchRejected>(),
        Subject::RidePickup
        | Subject::RideWaiting
        | Subject::RideStarted
        | Subject::RideArrived
        | Subject::RideCompleted
        | Subject::RideCancelled => {
            json!({"allOf": [schemas.event(subject), schemas.written::<RideJoined>()]})
        }
        Subject::LocationAggregate => schemas.written::<LocationAggregate>(),
        _ => return None,
    })
}

/// The `id` of a command, which its answer repeats.
fn id() -> Value {
    json!({"description": "Any JSON of at most 128 bytes as a string, 1024 as anything else; the answer repeats it."})
}

fn traceparent() -> Value {
    json!({"description": "The W3C trace context of the client, a text; anything else counts as none."})
}

fn envelope<const N: usize>(name: &str, fields: [(&'static str, Value); N], required: &[&str]) -> Value {
    let mut properties: serde_json::Map<String, Value> =
        fields.into_iter().map(|(field, schema)| (field.to_owned(), schema)).collect();
    properties.insert("type".to_owned(), json!({"type": "string", "const": name}));
    json!({"type": "object", "properties": properties, "required": required})
}

fn summary_of_command(name: &str) -> &'static str {
    match name {
        "location.update" => "A driver's position, or several.",
        "beacon.update" => "A driver goes on or off duty.",
        "finder.update" => "A passenger begins or ends a search.",
        "match.accept" => "The driver accepts an offer.",
        "match.reject" => "The driver declines an offer.",
        "ride.wait" => "The driver waits at the pickup.",
        "ride.start" => "The passenger is in the vehicle.",
        "ride.arrive" => "The vehicle is at the dropoff.",
        "ride.cancel" => "Driver or passenger ends the ride.",
        "mailbox.ack" => "This device has all events up to a `seq`.",
        AUTH_REFRESH => "The socket goes by another access token from now on.",
        _ => "",
    }
}
