//! The JSON frames of the contract's section 5, read and written as a client does. No socket.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::position::Position;

/// A frame from the server.
#[derive(Debug)]
pub(crate) enum Frame {
    Welcome {
        user_id: String,
        last_seq: u64,
        /// The body of `GET /v1/state`.
        state: Value,
        /// Of the limits, if they name it.
        fastest_mps: Option<f64>,
    },
    Ack {
        id: String,
        data: Value,
    },
    /// Without an `id`, the server could not read the frame that it refuses.
    Error {
        id: Option<String>,
        code: String,
        message: String,
    },
    Event(Event),
    Live(LivePosition),
}

/// Where the driver of the passenger's ride is: a frame `location.live`, which has no `seq`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct LivePosition {
    pub(crate) ride_id: String,
    pub(crate) location: Position,
    #[serde(deserialize_with = "Option::deserialize")]
    pub(crate) heading_deg: Option<f64>,
    #[serde(deserialize_with = "Option::deserialize")]
    pub(crate) speed_mps: Option<f64>,
    pub(crate) recorded_at: DateTime<Utc>,
    pub(crate) eta_s: f64,
    pub(crate) eta_to: EtaTo,
    pub(crate) stale: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EtaTo {
    Pickup,
    Dropoff,
}

/// An event of this user's mailbox.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// The subject; the frame's `type`.
    pub(crate) kind: String,
    pub(crate) seq: u64,
    pub(crate) event_id: String,
    pub(crate) data: Value,
}

impl Event {
    /// See [`text`].
    pub(crate) fn text(&self, field: &str) -> &str {
        text(&self.data, field)
    }
}

/// A text field of a JSON object; empty if it is missing.
pub(crate) fn text<'a>(data: &'a Value, field: &str) -> &'a str {
    data.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A time field of a JSON object.
pub(crate) fn time(data: &Value, field: &str) -> Option<DateTime<Utc>> {
    text(data, field).parse().ok()
}

#[derive(Deserialize)]
struct RawFrame {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(default)]
    event_id: Option<String>,
    #[serde(default)]
    time: Option<String>,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    #[serde(default)]
    message: String,
}

/// # Errors
/// Names what the contract requires of such a frame and what this one lacks.
pub(crate) fn parse(frame: &str) -> Result<Frame, String> {
    let raw: RawFrame = serde_json::from_str(frame).map_err(|error| error.to_string())?;
    let missing = |field: &str| format!("`{}` without `{field}`", raw.kind);
    match raw.kind.as_str() {
        "welcome" => {
            let user_id = text(&raw.data, "user_id").to_owned();
            if user_id.is_empty() {
                return Err(missing("data.user_id"));
            }
            let last_seq = raw.data.get("last_seq").and_then(Value::as_u64).ok_or(missing("data.last_seq"))?;
            let state =
                raw.data.get("state").filter(|state| state.is_object()).cloned().ok_or(missing("data.state"))?;
            let fastest_mps = raw.data.pointer("/limits/track_max_speed_mps").and_then(Value::as_f64);
            Ok(Frame::Welcome { user_id, last_seq, state, fastest_mps })
        }
        "ack" => {
            let Some(id) = raw.id else { return Err("`ack` without `id`".to_owned()) };
            Ok(Frame::Ack { id, data: raw.data })
        }
        "error" => {
            let error = raw.error.ok_or(missing("error"))?;
            Ok(Frame::Error { id: raw.id, code: error.code, message: error.message })
        }
        "location.live" => {
            if raw.seq.is_some() {
                return Err("`location.live` with `seq`".to_owned());
            }
            let live = LivePosition::deserialize(raw.data).map_err(|error| format!("`location.live`: {error}"))?;
            let measures = [Some(live.eta_s), live.heading_deg, live.speed_mps];
            // A phone that reports 0, 0 is shown there.
            if !live.location.is_in_range() || measures.into_iter().flatten().any(|measure| measure < 0.0) {
                return Err(format!("`location.live`: {live:?}"));
            }
            Ok(Frame::Live(live))
        }
        _ => {
            let seq = raw.seq.ok_or(missing("seq"))?;
            let event_id = raw.event_id.clone().ok_or(missing("event_id"))?;
            let time = raw.time.as_deref().ok_or(missing("time"))?;
            time.parse::<DateTime<Utc>>().map_err(|_| format!("`{}`: `{time}` is no time", raw.kind))?;
            if !raw.data.is_object() {
                return Err(missing("data"));
            }
            Ok(Frame::Event(Event { kind: raw.kind, seq, event_id, data: raw.data }))
        }
    }
}

/// The frame of a command. The server answers only a command with an `id`.
pub(crate) fn command(id: Option<&str>, kind: &str, data: &Value) -> String {
    match id {
        Some(id) => json!({"id": id, "type": kind, "data": data}).to_string(),
        None => json!({"type": kind, "data": data}).to_string(),
    }
}

/// RFC 3339 in UTC, with microseconds.
pub(crate) fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_a_frame_decides_how_it_is_read() {
        let welcome = r#"{"type":"welcome","data":{"user_id":"u","session_id":"s","last_seq":4,"state":{"seq":4}}}"#;
        assert!(matches!(parse(welcome), Ok(Frame::Welcome { last_seq: 4, .. })));
        let ack = r#"{"type":"ack","id":"7","data":{"ride_id":"r"}}"#;
        assert!(matches!(parse(ack), Ok(Frame::Ack { id, .. }) if id == "7"));
        let error = r#"{"type":"error","id":null,"error":{"code":"bad_frame","message":"m","field":null}}"#;
        assert!(matches!(parse(error), Ok(Frame::Error { id: None, code, .. }) if code == "bad_frame"));
        let event = r#"{"type":"ride.pickup","seq":3,"event_id":"e","time":"2026-01-01T00:00:00.000Z","data":{}}"#;
        assert!(matches!(parse(event), Ok(Frame::Event(event)) if event.seq == 3));
        assert!(matches!(parse(&live("")), Ok(Frame::Live(live)) if live.eta_to == EtaTo::Pickup && !live.stale));
    }

    fn live(more: &str) -> String {
        format!(
            r#"{{"type":"location.live"{more},"data":{{"ride_id":"r","location":{{"lat":40.0,"lng":-73.0}},
            "heading_deg":null,"speed_mps":3.5,"recorded_at":"2026-01-01T00:00:00.000Z","eta_s":12,"eta_to":"pickup",
            "stale":false}}}}"#
        )
    }

    #[test]
    fn an_error_names_the_missing_or_malformed_field() {
        let cases = [
            (r#"{"type":"welcome","data":{"user_id":"u"}}"#, "last_seq"),
            (r#"{"type":"welcome","data":{"user_id":"u","last_seq":4}}"#, "state"),
            (r#"{"type":"ack"}"#, "id"),
            (r#"{"type":"ride.pickup","event_id":"e","time":"2026-01-01T00:00:00Z","data":{}}"#, "seq"),
            (r#"{"type":"ride.pickup","seq":1,"event_id":"e","time":"noon","data":{}}"#, "noon"),
            (&live(r#","seq":4"#), "seq"),
            (&live("").replace("pickup", "home"), "home"),
            (&live("").replace("heading_deg", "heading"), "heading_deg"),
            (&live("").replace("3.5", "-1"), "-1"),
            (&live("").replace("40.0", "140.0"), "140"),
        ];
        for (frame, named) in cases {
            let problem = parse(frame).unwrap_err();
            assert!(problem.contains(named), "{problem}");
        }
    }
}
