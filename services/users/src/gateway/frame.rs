//! The frames of the WebSocket protocol: a client's text in, a checked command out; and the server's frames as text.
//!
//! Pure: the caller passes the time. Every text that a client sends becomes a [`Command`], or a [`RefusedFrame`] that names
//! the field at fault. Every frame that the server sends is written by `serde_json`.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Datelike, Timelike, Utc};
use platform::api::{SchemaOf, Schemas};
use platform::problem::{Object, read_json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use streams::event::rfc3339;
use streams::ride_command::{RideAck, RideAction};
use streams::{MatchId, Position, RideId, UserId, VehicleType};
use uuid::Uuid;

use super::transport::{FRAME_MAX, POINTS_MAX};
use crate::commands::ack::{BeaconAck, MailboxAcked, OfferAck, PositionsAck, RefreshAck, SearchAck};
use crate::commands::command::{Command, Point, Positions, Refusal, RefusedPoint, RowCommand};
use crate::mailbox::MissedRange;
use crate::offer::DriverAnswer;
use crate::presence::BeaconUpdate;
use crate::trip::Trip;
use platform::plain_text;

/// The most bytes of an `id` that is a string, and of any other `id`.
const ID_STRING_MAX: usize = 128;
const ID_MAX: usize = 1_024;
/// The most bytes of a reason.
const REASON_MAX: usize = 500;
/// The most bytes of a PIN; a right one has four digits.
const PIN_MAX: usize = 16;
/// The most bytes of a PIN as it is typed: in the digits of any script, with spaces.
const PIN_TEXT_MAX: usize = 64;
/// The most bytes of an access token.
const TOKEN_MAX: usize = 4_096;

/// An `id` exactly as the client wrote it; any JSON is allowed.
pub(crate) type Id = Box<RawValue>;

/// A frame with a request that may be executed.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) id: Option<Id>,
    pub(crate) request: Request,
    /// The client's own W3C trace context, not checked. One that is no string is as good as none.
    pub(crate) traceparent: Option<String>,
}

/// What a client requests.
#[derive(Debug)]
pub(crate) enum Request {
    /// Something of the platform.
    Command(Command),
    /// `auth.refresh`: that its socket goes by this access token from now on.
    Refresh(AccessToken),
}

/// An access token as a client sent it. It never reaches a log.
pub(crate) struct AccessToken(pub(crate) String);

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken")
    }
}

#[derive(Debug)]
pub(crate) struct RefusedFrame {
    /// `None` if the frame has none, or if it could not be read.
    pub(crate) id: Option<Id>,
    pub(crate) refusal: Refusal,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    traceparent: Option<&'a RawValue>,
}

/// Parses a client's frame.
///
/// # Errors
/// [`RefusedFrame`] says what is wrong.
pub(crate) fn parse(text: &str, now: DateTime<Utc>) -> Result<Frame, Box<RefusedFrame>> {
    let refused = |id: Option<Id>, refusal| Box::new(RefusedFrame { id, refusal });
    if text.len() > FRAME_MAX {
        let message = format!("the frame has {} bytes: at most {FRAME_MAX} are allowed", text.len());
        return Err(refused(None, Refusal::new("frame_too_large", message)));
    }
    let envelope: Envelope<'_> = match serde_json::from_str(text) {
        Ok(envelope) if text.trim_start().starts_with('{') => envelope,
        Err(error) if !error.is_data() => {
            return Err(refused(None, Refusal::new("invalid_json", format!("the frame is not JSON: {error}"))));
        }
        _ => {
            let message = "a frame is an object with `id`, `type` and `data`, each once";
            return Err(refused(None, Refusal::new("invalid_frame", message)));
        }
    };
    let id = match envelope.id.map(check_id).transpose() {
        Ok(id) => id,
        Err(refusal) => return Err(refused(None, refusal)),
    };
    match request(envelope.kind, envelope.data, now) {
        Ok(request) => {
            let traceparent = envelope.traceparent.and_then(|raw| serde_json::from_str(raw.get()).ok());
            Ok(Frame { id, request, traceparent })
        }
        Err(refusal) => Err(refused(id, refusal)),
    }
}

fn check_id(raw: &RawValue) -> Result<Id, Refusal> {
    let text = raw.get();
    let too_long = if text.starts_with('"') {
        serde_json::from_str::<String>(text).map_or(true, |id| id.len() > ID_STRING_MAX)
    } else {
        text.len() > ID_MAX
    };
    if too_long { Err(Refusal::field("id", format!("at most {ID_STRING_MAX} bytes"))) } else { Ok(raw.to_owned()) }
}

fn request(kind: Option<&RawValue>, data: Option<&RawValue>, now: DateTime<Utc>) -> Result<Request, Refusal> {
    let raw = kind.ok_or_else(|| Refusal::field("type", "is missing"))?;
    let kind: Cow<'_, str> = match raw.get().strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(text) if !text.contains('\\') => Cow::Borrowed(text),
        _ => serde_json::from_str(raw.get())
            .map_err(|_| Refusal::field("type", "must be a string, such as `beacon.update`"))?,
    };
    let data = data.map_or("{}", RawValue::get);
    if !data.starts_with('{') {
        return Err(Refusal::field("data", "must be an object"));
    }
    let Some(FrameType { parse, .. }) = TYPES.iter().find(|known| known.name == kind) else {
        let kind: String = kind.chars().take(64).collect();
        let mut refusal = Refusal::new("unknown_type", format!("there is no command `{kind}`"));
        refusal.field = Some("type".to_owned());
        return Err(refusal);
    };
    parse(data, now)
}

/// A type of frame that a client may send.
pub(crate) struct FrameType {
    pub(crate) name: &'static str,
    /// Parses the `data`.
    parse: fn(&str, DateTime<Utc>) -> Result<Request, Refusal>,
    /// The schema of the `data`, and of that of the `ack`.
    pub(crate) data: SchemaOf,
    pub(crate) ack: SchemaOf,
}

impl FrameType {
    const fn new<Data: JsonSchema, Ack: JsonSchema>(
        name: &'static str,
        parse: fn(&str, DateTime<Utc>) -> Result<Request, Refusal>,
    ) -> Self {
        Self { name, parse, data: Schemas::read::<Data>, ack: Schemas::written::<Ack> }
    }
}

/// Every type of frame that a client may send; the most frequent first.
pub(crate) const TYPES: [FrameType; 11] = [
    FrameType::new::<LocationData, PositionsAck>("location.update", |data, now| {
        positions(data, now).map(|p| Request::Command(Command::Positions(p)))
    }),
    FrameType::new::<BeaconData, BeaconAck>("beacon.update", |data, _| beacon(read(data)?).map(Request::Command)),
    FrameType::new::<FinderData, SearchAck>("finder.update", |data, _| finder(read(data)?).map(Request::Command)),
    FrameType::new::<MatchAccept, OfferAck>("match.accept", |data, _| {
        let id = read::<MatchAccept>(data)?.match_id;
        Ok(Request::Command(Command::Rows(RowCommand::Answer(id, DriverAnswer::Accept))))
    }),
    FrameType::new::<MatchReject, OfferAck>("match.reject", |data, _| {
        let MatchReject { match_id, reason } = read(data)?;
        bounded("reason", reason.as_deref().unwrap_or_default(), REASON_MAX)?;
        Ok(Request::Command(Command::Rows(RowCommand::Answer(match_id, DriverAnswer::Reject))))
    }),
    FrameType::new::<RideWait, RideAck>("ride.wait", |data, _| {
        let ride_id = read::<RideWait>(data)?.ride_id;
        Ok(Request::Command(Command::Ride(ride_id, RideAction::Wait { driver_at: None })))
    }),
    FrameType::new::<RideStart, RideAck>("ride.start", |data, _| {
        let RideStart { ride_id, pin } = read(data)?;
        bounded("pin", &pin, PIN_TEXT_MAX)?;
        let pin = plain_text::code(&pin);
        bounded("pin", &pin, PIN_MAX)?;
        Ok(Request::Command(Command::Ride(ride_id, RideAction::Start { pin })))
    }),
    FrameType::new::<RideArrive, RideAck>("ride.arrive", |data, _| {
        let ride_id = read::<RideArrive>(data)?.ride_id;
        Ok(Request::Command(Command::Ride(ride_id, RideAction::Arrive)))
    }),
    FrameType::new::<RideCancel, RideAck>("ride.cancel", |data, _| {
        let RideCancel { ride_id, reason, note } = read(data)?;
        bounded("reason", &reason, REASON_MAX)?;
        bounded("note", note.as_deref().unwrap_or_default(), REASON_MAX)?;
        Ok(Request::Command(Command::Ride(ride_id, RideAction::Cancel { reason, note })))
    }),
    FrameType::new::<MailboxAck, MailboxAcked>("mailbox.ack", |data, _| {
        let seq = read::<MailboxAck>(data)?.seq;
        Ok(Request::Command(Command::Rows(RowCommand::MailboxAck(seq))))
    }),
    FrameType::new::<AuthRefresh, RefreshAck>(AUTH_REFRESH, |data, _| {
        let AuthRefresh { access_token } = read(data)?;
        bounded("access_token", &access_token, TOKEN_MAX)?;
        Ok(Request::Refresh(AccessToken(access_token)))
    }),
];

/// The one that is no command: only a socket goes by an access token.
pub(crate) const AUTH_REFRESH: &str = "auth.refresh";

/// The names of all types of frame that a client may send.
pub(crate) fn types() -> impl Iterator<Item = &'static str> {
    TYPES.iter().map(|kind| kind.name)
}

/// Reads `data`. If it is wrong, a second, slower pass finds the path of the field at fault.
fn read<T: serde::de::DeserializeOwned>(data: &str) -> Result<T, Refusal> {
    serde_json::from_str(data).or_else(|_| {
        read_json(data.as_bytes()).map_err(|problem| {
            let mut refusal = Refusal::from(problem);
            // The frame was valid JSON, so that the fault is in a value, such as a number that is too large.
            refusal.code = Cow::Borrowed("invalid_field");
            refusal.field.get_or_insert_with(|| "data".to_owned());
            refusal
        })
    })
}

type PositionObject = Object<Position>;

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "BeaconUpdate")]
struct BeaconData {
    /// Whether the driver wants to be offered rides.
    active: bool,
    /// Required to become active.
    location: Option<PositionObject>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "FinderUpdate")]
struct FinderData {
    /// True begins a search, and needs the other fields; false ends it.
    active: bool,
    pickup: Option<PositionObject>,
    dropoff: Option<PositionObject>,
    vehicle_type: Option<VehicleType>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "LocationData")]
struct LocationData {
    /// Required but with `points`.
    location: Option<PositionObject>,
    /// Null or negative: unknown.
    accuracy_m: Option<f64>,
    /// Null or negative: unknown.
    speed_mps: Option<f64>,
    /// Degrees from true north, to 360. Null or negative: unknown.
    #[schemars(range(max = 360))]
    heading_deg: Option<f64>,
    /// By the device's clock; required but with `points`.
    recorded_at: Option<DateTime<Utc>>,
    /// When the device sends it, by its own clock: with it a clock that is wrong is corrected.
    sent_at: Option<DateTime<Utc>>,
    /// Several positions at once, instead of one.
    #[schemars(length(min = 1, max = POINTS_MAX))]
    points: Option<Vec<Object<LocationData>>>,
}

/// A batch whose points are read one by one, because one of them cannot be read.
#[derive(Deserialize)]
struct BatchData<'a> {
    sent_at: Option<DateTime<Utc>>,
    #[serde(borrow)]
    points: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, JsonSchema)]
struct MatchAccept {
    match_id: MatchId,
}

#[derive(Deserialize, JsonSchema)]
struct MatchReject {
    match_id: MatchId,
    /// At most 500 bytes; it is not stored.
    #[schemars(length(max = REASON_MAX))]
    reason: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct RideWait {
    ride_id: RideId,
}

#[derive(Deserialize, JsonSchema)]
struct RideStart {
    ride_id: RideId,
    /// The four digits that the passenger has.
    #[schemars(length(max = PIN_TEXT_MAX))]
    pin: String,
}

#[derive(Deserialize, JsonSchema)]
struct RideArrive {
    ride_id: RideId,
}

#[derive(Deserialize, JsonSchema)]
struct RideCancel {
    ride_id: RideId,
    /// One of the codes of `CancelCode`, or words.
    #[schemars(length(max = REASON_MAX))]
    reason: String,
    /// Words beside a code.
    #[schemars(length(max = REASON_MAX))]
    note: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "MailboxAck")]
struct MailboxAck {
    /// This device has all events up to it.
    seq: u64,
}

#[derive(Deserialize, JsonSchema)]
struct AuthRefresh {
    /// Of the same user.
    #[schemars(length(max = TOKEN_MAX))]
    access_token: String,
}

fn beacon(data: BeaconData) -> Result<Command, Refusal> {
    let location = data.location.map(|p| position("location", p)).transpose()?;
    let update = if data.active {
        BeaconUpdate::Active(location.ok_or_else(|| missing("location"))?)
    } else {
        BeaconUpdate::Inactive(location)
    };
    Ok(Command::Rows(RowCommand::Beacon(update)))
}

fn finder(data: FinderData) -> Result<Command, Refusal> {
    let pickup = data.pickup.map(|p| position("pickup", p)).transpose()?;
    let dropoff = data.dropoff.map(|p| position("dropoff", p)).transpose()?;
    if !data.active {
        return Ok(Command::Rows(RowCommand::EndSearch));
    }
    Ok(Command::Rows(RowCommand::Search(Trip {
        pickup: pickup.ok_or_else(|| missing("pickup"))?,
        dropoff: dropoff.ok_or_else(|| missing("dropoff"))?,
        vehicle_type: data.vehicle_type.ok_or_else(|| missing("vehicle_type"))?,
    })))
}

fn positions(text: &str, now: DateTime<Utc>) -> Result<Positions, Refusal> {
    let (points, refused, is_batch) = match serde_json::from_str::<LocationData>(text) {
        Ok(LocationData { points: Some(points), sent_at, .. }) => {
            let (points, refused) = batch(points.into_iter().map(|Object(p)| Ok(p)), sent_at)?;
            (points, refused, true)
        }
        Ok(single) => (vec![point(0, single, None)?], Vec::new(), false),
        Err(_) => match serde_json::from_str::<BatchData<'_>>(text) {
            Ok(BatchData { points: Some(points), sent_at }) => {
                let (points, refused) = batch(points.into_iter().map(|p| read(p.get()).map(|Object(p)| p)), sent_at)?;
                (points, refused, true)
            }
            _ => (vec![point(0, read(text)?, None)?], Vec::new(), false),
        },
    };
    Ok(Positions { points, refused, is_batch, received_at: now })
}

/// The good points of a batch, and what is wrong with the others.
fn batch(
    points: impl ExactSizeIterator<Item = Result<LocationData, Refusal>>,
    sent_at: Option<DateTime<Utc>>,
) -> Result<(Vec<Point>, Vec<RefusedPoint>), Refusal> {
    let count = points.len();
    if count == 0 || count > POINTS_MAX {
        return Err(Refusal::field("points", format!("1 to {POINTS_MAX} points, not {count}")));
    }
    time("sent_at", sent_at)?;
    let (mut good, mut refused) = (Vec::with_capacity(count), Vec::new());
    for (index, data) in points.enumerate() {
        match data.and_then(|data| point(index, data, sent_at)) {
            Ok(point) => good.push(point),
            Err(Refusal { field, message, .. }) => {
                refused.push(RefusedPoint { index, field: field.unwrap_or_default(), message });
            }
        }
    }
    Ok((good, refused))
}

fn point(index: usize, data: LocationData, sent_at: Option<DateTime<Utc>>) -> Result<Point, Refusal> {
    let location = position("location", data.location.ok_or_else(|| missing("location"))?)?;
    if data.heading_deg.is_some_and(|heading| heading > 360.0) {
        return Err(Refusal::field("heading_deg", "must be from 0 to 360"));
    }
    // Phones say -1 for what they do not know.
    let known = |measure: Option<f64>| measure.filter(|value| *value >= 0.0);
    let device_at = time("recorded_at", data.recorded_at)?.ok_or_else(|| missing("recorded_at"))?;
    let sent_at = time("sent_at", data.sent_at)?.or(sent_at);
    let (accuracy_m, speed_mps, heading_deg) = (known(data.accuracy_m), known(data.speed_mps), known(data.heading_deg));
    Ok(Point { index, location, accuracy_m, speed_mps, heading_deg, device_at, sent_at, recorded_at: device_at })
}

/// A time that an event can carry.
fn time(field: &str, at: Option<DateTime<Utc>>) -> Result<Option<DateTime<Utc>>, Refusal> {
    let Some(time) = at else { return Ok(None) };
    if !(1970..=9999).contains(&time.year()) {
        return Err(Refusal::field(field, "the year must be within 1970 to 9999"));
    }
    // Written as :60, which other parsers refuse.
    if time.nanosecond() >= 1_000_000_000 {
        return Err(Refusal::field(field, "seconds are from 0 to 59"));
    }
    Ok(Some(time))
}

fn position(field: &str, Object(position): PositionObject) -> Result<Position, Refusal> {
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

fn to_text<T: Serialize>(frame: &T) -> String {
    serde_json::to_string(frame).expect("frames have string keys and no failing serializer")
}

/// What the first frame of a session says.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Welcome")]
pub(crate) struct Welcome<'a, Limits, State> {
    pub(crate) user_id: UserId,
    pub(crate) session_id: Uuid,
    /// The newest `seq` of the mailbox.
    pub(crate) last_seq: u64,
    /// The events after the client's `last_seq` that are no longer there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) missed: Option<MissedRange>,
    #[schemars(extend("format" = "date-time"))]
    pub(crate) server_time: String,
    /// When the access token expires, and with it the socket.
    #[schemars(extend("format" = "date-time"))]
    pub(crate) expires_at: String,
    pub(crate) limits: &'a Limits,
    /// The body of `GET /v1/state`; its `seq` is `last_seq`.
    pub(crate) state: &'a State,
}

pub(crate) fn welcome<L: Serialize, S: Serialize>(welcome: &Welcome<'_, L, S>) -> String {
    #[derive(Serialize)]
    struct Frame<'a, T> {
        r#type: &'static str,
        data: &'a T,
    }
    to_text(&Frame { r#type: "welcome", data: welcome })
}

/// Events of the range are no longer there, and the client waits for them.
pub(crate) fn missed(range: MissedRange) -> String {
    #[derive(Serialize)]
    struct Frame {
        r#type: &'static str,
        data: MissedRange,
    }
    to_text(&Frame { r#type: "missed", data: range })
}

pub(crate) fn ack<T: Serialize>(id: Option<&RawValue>, data: &T) -> String {
    #[derive(Serialize)]
    struct Ack<'a, T> {
        r#type: &'static str,
        id: Option<&'a RawValue>,
        data: &'a T,
    }
    to_text(&Ack { r#type: "ack", id, data })
}

pub(crate) fn error(id: Option<&RawValue>, refusal: &Refusal) -> String {
    #[derive(Serialize)]
    struct Error<'a> {
        r#type: &'static str,
        id: Option<&'a RawValue>,
        error: &'a Refusal,
    }
    to_text(&Error { r#type: "error", id, error: refusal })
}

/// Where the driver of the passenger's ride is. It has no `seq`: the next one takes its place.
pub(crate) fn live<T: Serialize>(view: &T) -> String {
    #[derive(Serialize)]
    struct Live<'a, T> {
        r#type: &'static str,
        data: &'a T,
    }
    to_text(&Live { r#type: "location.live", data: view })
}

/// An entry of the user's mailbox. `body` is the event's JSON and is sent byte for byte.
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
    to_text(&Event { r#type: subject, seq, event_id, time: rfc3339::text(&time), data })
}

/// What a session reads of an event frame that another process wrote before it forwards the frame.
#[derive(Debug, Deserialize)]
pub(crate) struct EventFrame<'a> {
    pub(crate) seq: u64,
    #[serde(borrow, rename = "type")]
    pub(crate) subject: Cow<'a, str>,
    /// Of the event.
    #[serde(borrow, default)]
    pub(crate) time: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) data: &'a RawValue,
}

#[cfg(test)]
mod tests;
