//! The frames of the WebSocket protocol: text in, a checked command out; and the server's own frames as text.
//!
//! Pure: it takes `now`, and touches neither sockets nor rows. Whatever a client sends ends as a [`Command`] or as a
//! [`Refused`] that names the field at fault; every frame that leaves is written by `serde_json`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use chrono::{DateTime, Duration, Utc};
use platform::Problem;
use platform::problem::read_json;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use streams::event::rfc3339;
use streams::ride_command::RideAction;
use streams::{MatchId, Position, RideId, UserId, VehicleType};
use uuid::Uuid;

/// The most bytes of a frame.
pub(crate) const FRAME_MAX: usize = 64 * 1024;
/// The most bytes of an `id` that is a string, and of any other.
const ID_STRING_MAX: usize = 128;
const ID_MAX: usize = 1_024;
/// The most bytes of a reason.
const REASON_MAX: usize = 500;
/// The most bytes of a PIN; a right one has four digits.
const PIN_MAX: usize = 16;
/// The most points of one `location.update`.
const POINTS_MAX: usize = 100;
/// How far a `recorded_at` may be ahead of the server, and behind.
const AHEAD_MAX: Duration = Duration::seconds(60);
const BEHIND_MAX: Duration = Duration::hours(24);

/// An `id` as the client wrote it, whatever JSON it is.
pub(crate) type Id = Box<RawValue>;

/// Why a frame or a command is refused: the `error` of an error frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Refusal {
    /// Stable, for programs.
    pub(crate) code: Cow<'static, str>,
    /// For people.
    pub(crate) message: String,
    /// The field at fault, with dots and indexes, inside `data`; or `id`, `type`, `data`.
    pub(crate) field: Option<String>,
}

impl Refusal {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: Cow::Borrowed(code), message: message.into(), field: None }
    }

    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: Cow::Borrowed("invalid_field"), message: message.into(), field: Some(field.into()) }
    }

    pub(crate) fn unavailable() -> Self {
        Problem::unavailable().into()
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { code: Cow::Borrowed(problem.code), message: problem.message, field: problem.field }
    }
}

/// What a client wants, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Command {
    /// `beacon.update`; going offline needs no location.
    Beacon { active: bool, location: Option<Position> },
    /// `finder.update` with `active` true.
    Search(Trip),
    /// `finder.update` with `active` false.
    EndSearch,
    /// `location.update`: one point or many.
    Location(Vec<Point>),
    /// `match.accept`
    Accept(MatchId),
    /// `match.reject`
    Reject(MatchId),
    /// `ride.start`, `ride.arrive`, `ride.cancel`
    Ride(RideId, RideAction),
    /// `mailbox.ack`
    MailboxAck(u64),
}

/// From where to where, in what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Trip {
    pub(crate) pickup: Position,
    pub(crate) dropoff: Position,
    pub(crate) vehicle_type: VehicleType,
}

/// One measured position.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub(crate) location: Position,
    pub(crate) accuracy_m: Option<f64>,
    pub(crate) speed_mps: Option<f64>,
    pub(crate) heading_deg: Option<f64>,
    pub(crate) recorded_at: DateTime<Utc>,
}

/// A frame that can be obeyed.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) id: Option<Id>,
    pub(crate) command: Command,
}

/// A frame that cannot.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) id: Option<Id>,
    pub(crate) refusal: Refusal,
}

#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

/// Reads a client's frame.
///
/// # Errors
/// [`Refused`] says what is wrong, with the frame's `id` where it could be read.
pub(crate) fn parse(text: &str, now: DateTime<Utc>) -> Result<Frame, Box<Refused>> {
    let refused = |id: Option<Id>, refusal| Box::new(Refused { id, refusal });
    if text.len() > FRAME_MAX {
        let message = format!("the frame has {} bytes: at most {FRAME_MAX} are allowed", text.len());
        return Err(refused(None, Refusal::new("frame_too_large", message)));
    }
    let outer: Outer<'_> = match serde_json::from_str(text) {
        Ok(outer) if text.trim_start().starts_with('{') => outer,
        Err(error) if !error.is_data() => {
            return Err(refused(None, Refusal::new("invalid_json", format!("the frame is not JSON: {error}"))));
        }
        _ => {
            let message = "a frame is an object with `id`, `type` and `data`, each once";
            return Err(refused(None, Refusal::new("invalid_frame", message)));
        }
    };
    let id = match outer.id.map(checked_id).transpose() {
        Ok(id) => id,
        Err(refusal) => return Err(refused(None, refusal)),
    };
    match command(outer.kind, outer.data, now) {
        Ok(command) => Ok(Frame { id, command }),
        Err(refusal) => Err(refused(id, refusal)),
    }
}

fn checked_id(raw: &RawValue) -> Result<Id, Refusal> {
    let text = raw.get();
    let long = if text.starts_with('"') {
        serde_json::from_str::<String>(text).map_or(true, |id| id.len() > ID_STRING_MAX)
    } else {
        text.len() > ID_MAX
    };
    if long { Err(Refusal::field("id", format!("at most {ID_STRING_MAX} bytes"))) } else { Ok(raw.to_owned()) }
}

fn command(kind: Option<&RawValue>, data: Option<&RawValue>, now: DateTime<Utc>) -> Result<Command, Refusal> {
    let kind = kind.ok_or_else(|| Refusal::field("type", "is missing"))?;
    let kind: String = serde_json::from_str(kind.get())
        .map_err(|_| Refusal::field("type", "must be a string, such as `beacon.update`"))?;
    let data = data.map_or("{}", RawValue::get);
    if !data.starts_with('{') {
        return Err(Refusal::field("data", "must be an object"));
    }
    match kind.as_str() {
        "location.update" => location(read(data)?, now),
        "beacon.update" => beacon(read(data)?),
        "finder.update" => finder(read(data)?),
        "match.accept" => Ok(Command::Accept(read::<Answer>(data)?.match_id)),
        "match.reject" => {
            let answer: Answer = read(data)?;
            bounded("reason", answer.reason.as_deref().unwrap_or_default(), REASON_MAX)?;
            Ok(Command::Reject(answer.match_id))
        }
        "ride.start" => {
            let Start { ride_id, pin } = read(data)?;
            bounded("pin", &pin, PIN_MAX)?;
            Ok(Command::Ride(ride_id, RideAction::Start { pin }))
        }
        "ride.arrive" => Ok(Command::Ride(read::<Arrive>(data)?.ride_id, RideAction::Arrive)),
        "ride.cancel" => {
            let Cancel { ride_id, reason } = read(data)?;
            bounded("reason", &reason, REASON_MAX)?;
            Ok(Command::Ride(ride_id, RideAction::Cancel { reason }))
        }
        "mailbox.ack" => Ok(Command::MailboxAck(read::<MailboxAck>(data)?.seq)),
        other => {
            let other: String = other.chars().take(64).collect();
            let mut refusal = Refusal::new("unknown_type", format!("there is no command `{other}`"));
            refusal.field = Some("type".to_owned());
            Err(refusal)
        }
    }
}

/// Reads `data`: at full speed when it is sound, and once more with the path when it is not.
fn read<T: serde::de::DeserializeOwned>(data: &str) -> Result<T, Refusal> {
    serde_json::from_str(data).or_else(|_| {
        read_json(data.as_bytes()).map_err(|problem| {
            let mut refusal = Refusal::from(problem);
            // The frame itself was JSON: what is left are numbers too large and the like.
            refusal.code = Cow::Borrowed("invalid_field");
            refusal.field.get_or_insert_with(|| "data".to_owned());
            refusal
        })
    })
}

/// An object, and never the list of its values, which serde would take as well.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        from.deserialize_map(Map(PhantomData))
    }
}

type Place = Object<Position>;

#[derive(Deserialize)]
struct Beacon {
    active: bool,
    location: Option<Place>,
}

#[derive(Deserialize)]
struct Finder {
    active: bool,
    pickup: Option<Place>,
    dropoff: Option<Place>,
    vehicle_type: Option<VehicleType>,
}

#[derive(Deserialize)]
struct Location {
    location: Option<Place>,
    accuracy_m: Option<f64>,
    speed_mps: Option<f64>,
    heading_deg: Option<f64>,
    recorded_at: Option<DateTime<Utc>>,
    points: Option<Vec<Object<Location>>>,
}

#[derive(Deserialize)]
struct Answer {
    match_id: MatchId,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Start {
    ride_id: RideId,
    pin: String,
}

#[derive(Deserialize)]
struct Arrive {
    ride_id: RideId,
}

#[derive(Deserialize)]
struct Cancel {
    ride_id: RideId,
    reason: String,
}

#[derive(Deserialize)]
struct MailboxAck {
    seq: u64,
}

fn beacon(data: Beacon) -> Result<Command, Refusal> {
    let location = data.location.map(|p| position("location", p)).transpose()?;
    if data.active && location.is_none() {
        return Err(missing("location"));
    }
    Ok(Command::Beacon { active: data.active, location })
}

fn finder(data: Finder) -> Result<Command, Refusal> {
    let pickup = data.pickup.map(|p| position("pickup", p)).transpose()?;
    let dropoff = data.dropoff.map(|p| position("dropoff", p)).transpose()?;
    if !data.active {
        return Ok(Command::EndSearch);
    }
    Ok(Command::Search(Trip {
        pickup: pickup.ok_or_else(|| missing("pickup"))?,
        dropoff: dropoff.ok_or_else(|| missing("dropoff"))?,
        vehicle_type: data.vehicle_type.ok_or_else(|| missing("vehicle_type"))?,
    }))
}

fn location(data: Location, now: DateTime<Utc>) -> Result<Command, Refusal> {
    let Some(points) = data.points else {
        return Ok(Command::Location(vec![point(String::new(), data, now)?]));
    };
    if points.is_empty() || points.len() > POINTS_MAX {
        return Err(Refusal::field("points", format!("1 to {POINTS_MAX} points, not {}", points.len())));
    }
    let points = points.into_iter().enumerate().map(|(i, p)| point(format!("points[{i}]."), p.0, now));
    Ok(Command::Location(points.collect::<Result<_, _>>()?))
}

fn point(path: String, data: Location, now: DateTime<Utc>) -> Result<Point, Refusal> {
    let at = |field: &str| format!("{path}{field}");
    let location = position(&at("location"), data.location.ok_or_else(|| missing(&at("location")))?)?;
    let measures = [
        ("accuracy_m", data.accuracy_m, f64::MAX),
        ("speed_mps", data.speed_mps, f64::MAX),
        ("heading_deg", data.heading_deg, 360.0),
    ];
    for (field, value, most) in measures {
        if value.is_some_and(|v| !(0.0..=most).contains(&v)) {
            let message = if most < f64::MAX { "must be from 0 to 360" } else { "must be 0 or more" };
            return Err(Refusal::field(at(field), message));
        }
    }
    let recorded_at = data.recorded_at.ok_or_else(|| missing(&at("recorded_at")))?;
    if recorded_at > now + AHEAD_MAX || recorded_at < now - BEHIND_MAX {
        let message = "must be at most 60 s ahead of the server's clock and at most 24 h behind it";
        return Err(Refusal::field(at("recorded_at"), message));
    }
    let Location { accuracy_m, speed_mps, heading_deg, .. } = data;
    Ok(Point { location, accuracy_m, speed_mps, heading_deg, recorded_at })
}

fn position(field: &str, Object(position): Place) -> Result<Position, Refusal> {
    if !(-90.0..=90.0).contains(&position.lat) {
        return Err(Refusal::field(format!("{field}.lat"), "latitude must be from -90 to 90 degrees"));
    }
    if !(-180.0..=180.0).contains(&position.lng) {
        return Err(Refusal::field(format!("{field}.lng"), "longitude must be from -180 to 180 degrees"));
    }
    Ok(position)
}

fn missing(field: &str) -> Refusal {
    Refusal::field(field, format!("missing field `{field}`"))
}

fn bounded(field: &'static str, text: &str, most: usize) -> Result<(), Refusal> {
    if text.len() > most {
        return Err(Refusal::field(field, format!("has {} bytes: at most {most} are allowed", text.len())));
    }
    Ok(())
}

fn written<T: Serialize>(frame: &T) -> String {
    serde_json::to_string(frame).expect("frames have string keys and no failing serializer")
}

/// The first frame of a session; `last_seq` is the newest event of the mailbox.
pub(crate) fn welcome(user: UserId, session: Uuid, last_seq: u64) -> String {
    written(&serde_json::json!({
        "type": "welcome",
        "data": {"user_id": user, "session_id": session, "last_seq": last_seq},
    }))
}

/// Done, and durable.
pub(crate) fn ack(id: Option<&RawValue>, data: &Value) -> String {
    #[derive(Serialize)]
    struct Ack<'a> {
        r#type: &'static str,
        id: Option<&'a RawValue>,
        data: &'a Value,
    }
    written(&Ack { r#type: "ack", id, data })
}

/// Not done, and why.
pub(crate) fn error(id: Option<&RawValue>, refusal: &Refusal) -> String {
    #[derive(Serialize)]
    struct Error<'a> {
        r#type: &'static str,
        id: Option<&'a RawValue>,
        error: &'a Refusal,
    }
    written(&Error { r#type: "error", id, error: refusal })
}

/// An event of the user's mailbox; `body` is the event's JSON and goes out byte for byte.
pub(crate) fn event(subject: &str, seq: u64, event_id: &str, time: DateTime<Utc>, body: &str) -> String {
    #[derive(Serialize)]
    struct Event<'a> {
        r#type: &'a str,
        seq: u64,
        event_id: &'a str,
        time: String,
        data: Option<&'a RawValue>,
    }
    let data = serde_json::from_str(body).ok();
    written(&Event { r#type: subject, seq, event_id, time: rfc3339::text(&time), data })
}

/// What a session needs to know of an event frame before it passes it on.
#[derive(Debug, Deserialize)]
pub(crate) struct Passing<'a> {
    /// Its place in the mailbox.
    pub(crate) seq: u64,
    /// The subject.
    #[serde(borrow, rename = "type")]
    pub(crate) subject: Cow<'a, str>,
    /// The body.
    #[serde(borrow)]
    pub(crate) data: &'a RawValue,
}

#[cfg(test)]
mod tests;
