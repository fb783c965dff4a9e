//! The hash chain of a ride's events, which reveals an edit, a gap or a swap; pure.
//!
//! `hash` is the SHA-256, in lower-case hex, of the RFC 8785 (JCS) form of the body without `hash`. The body holds
//! `previous_hash`, so each event vouches for all events before it. Nothing here reads a store or a stream.

use std::fmt;

use aws_lc_rs::digest;
use chrono::{DateTime, Utc};
use serde_json::Value;
use streams::event::{Event, RideEvent};
use streams::{RideId, RideStatus};
use uuid::Uuid;

use crate::ride::lifecycle::may_follow;

/// `previous_hash` of version 1, which has no event before it.
pub const NO_PREVIOUS_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What is wrong with an event, or with its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainError {
    /// The body is not a ride event.
    Unreadable(String),
    /// The body has the hash `found` and names the hash `named`.
    Edited { ride_id: RideId, version: u32, found: String, named: String },
    /// A version is missing, repeated, or in the place of another one.
    Gap { ride_id: RideId, expected: u32, found: u32 },
    /// `previous_hash` is not the hash of the event before.
    BrokenLink { ride_id: RideId, version: u32 },
    /// The status may not follow the one before it.
    IllegalOrder { ride_id: RideId, version: u32, from: Option<RideStatus>, to: RideStatus },
    /// An event of the ride `found` in the chain of `ride_id`.
    AnotherRide { ride_id: RideId, found: RideId },
    /// A field that all events of a ride share has changed.
    FieldChanged { ride_id: RideId, version: u32, field: &'static str },
    /// `occurred_at` is before that of the previous version.
    TimeReversed { ride_id: RideId, version: u32 },
    /// The parts of an amount do not add up to it; `reason` names them.
    WrongSum { ride_id: RideId, version: u32, reason: String },
}

impl ChainError {
    /// The ride and the version that it is about, as far as the body tells them.
    pub fn event(&self) -> (Option<RideId>, Option<u32>) {
        match *self {
            Self::Unreadable(_) => (None, None),
            Self::AnotherRide { ride_id, .. } => (Some(ride_id), None),
            Self::Gap { ride_id, found: version, .. }
            | Self::Edited { ride_id, version, .. }
            | Self::BrokenLink { ride_id, version }
            | Self::IllegalOrder { ride_id, version, .. }
            | Self::FieldChanged { ride_id, version, .. }
            | Self::TimeReversed { ride_id, version }
            | Self::WrongSum { ride_id, version, .. } => (Some(ride_id), Some(version)),
        }
    }

    /// What is wrong, without the ride and the version.
    pub fn reason(&self) -> String {
        match self {
            Self::Unreadable(why) => format!("the body is no ride event: {why}"),
            Self::Edited { found, named, .. } => {
                format!("the body was changed: its hash is {found} and not {named}, which it names")
            }
            Self::Gap { expected: 1, found, .. } => {
                format!(
                    "version {found} stands where version 1 belongs: those before it are missing, or the ride had ended"
                )
            }
            Self::Gap { expected, found, .. } if found < expected => {
                format!("version {found} stands again, or too late: version {expected} belongs here")
            }
            Self::Gap { expected, found, .. } => format!("version {found} stands where version {expected} belongs"),
            Self::BrokenLink { .. } => "previous_hash is not the hash of the version before".to_owned(),
            Self::IllegalOrder { from, to, .. } => {
                format!("{} may not follow {}", to.as_str(), from.map_or("nothing", RideStatus::as_str))
            }
            Self::AnotherRide { found, .. } => format!("ride {found} stands among its events"),
            Self::FieldChanged { field, .. } => format!("{field} is not that of the version before"),
            Self::TimeReversed { .. } => "occurred_at is before that of the version before".to_owned(),
            Self::WrongSum { reason, .. } => reason.clone(),
        }
    }
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.event() {
            (Some(ride), Some(version)) => write!(f, "ride {ride} version {version}: {}", self.reason()),
            (Some(ride), None) => write!(f, "ride {ride}: {}", self.reason()),
            _ => f.write_str(&self.reason()),
        }
    }
}

impl std::error::Error for ChainError {}

/// The hash of an event, whatever its field `hash` says.
pub fn hash(event: &RideEvent) -> String {
    let body = serde_json::to_value(event).expect("a ride event has string keys and finite numbers");
    hash_of_body(body)
}

fn hash_of_body(mut body: Value) -> String {
    if let Some(fields) = body.as_object_mut() {
        fields.remove("hash");
    }
    let canonical = serde_jcs::to_vec(&body).expect("a JSON value has string keys and finite numbers");
    hex::encode(digest::digest(&digest::SHA256, &canonical).as_ref())
}

/// An id computed from an event, so that a rebuild gives the rows of a ride the ids that they had. It is a UUIDv7: its time is
/// that of the event, its random bits are a digest of the event's hash and of `purpose`.
pub(crate) fn derived_id(at: DateTime<Utc>, hash: &str, purpose: &str) -> Uuid {
    let mut seed = digest::Context::new(&digest::SHA256);
    for part in [hash, "/", purpose] {
        seed.update(part.as_bytes());
    }
    let mut bytes = [0; 10];
    bytes.copy_from_slice(&seed.finish().as_ref()[..10]);
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(at.timestamp_millis()).unwrap_or(0), &bytes).into_uuid()
}

/// Parses the body of a message on `subject` and checks its hash over all fields, also those that [`RideEvent`] does not know.
///
/// # Errors
/// [`ChainError::Unreadable`], [`ChainError::Edited`].
pub fn verify_body(subject: &str, body: &[u8]) -> Result<RideEvent, ChainError> {
    let (event, found) = parse_body(subject, body)?;
    check_hash(&event, found)?;
    Ok(event)
}

/// Parses the body of a message on `subject`; returns the event, and the hash of the body whichever hash it names.
pub(crate) fn parse_body(subject: &str, body: &[u8]) -> Result<(RideEvent, String), ChainError> {
    let event = match Event::parse(subject, body).map_err(|e| ChainError::Unreadable(e.to_string()))? {
        Event::Ride(event) => *event,
        other => return Err(ChainError::Unreadable(format!("{} is no event of a ride", other.subject()))),
    };
    let value: Value = serde_json::from_slice(body).map_err(|e| ChainError::Unreadable(e.to_string()))?;
    Ok((event, hash_of_body(value)))
}

/// Whether the event names `found`, the hash of its body.
pub(crate) fn check_hash(event: &RideEvent, found: String) -> Result<(), ChainError> {
    if found == event.hash {
        return Ok(());
    }
    Err(ChainError::Edited { ride_id: event.ride_id, version: event.version, found, named: event.hash.clone() })
}

/// The end of a chain, to which the next event is linked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link<'a> {
    pub(crate) ride_id: RideId,
    pub(crate) version: u32,
    pub(crate) status: RideStatus,
    pub(crate) hash: &'a str,
}

/// Whether `event` may follow `before` (`None`: may begin a chain): ride, version, link and legal order. [`check_hash`] checks its
/// own hash.
pub(crate) fn check_link(before: Option<Link<'_>>, event: &RideEvent) -> Result<(), ChainError> {
    let (ride_id, version) = (event.ride_id, event.version);
    if let Some(before) = before.filter(|b| b.ride_id != ride_id) {
        return Err(ChainError::AnotherRide { ride_id: before.ride_id, found: ride_id });
    }
    let expected = before.map_or(1, |b| b.version.saturating_add(1));
    if version != expected {
        return Err(ChainError::Gap { ride_id, expected, found: version });
    }
    if event.previous_hash != before.map_or(NO_PREVIOUS_HASH, |b| b.hash) {
        return Err(ChainError::BrokenLink { ride_id, version });
    }
    let from = before.map(|b| b.status);
    if !may_follow(from, event.status) {
        return Err(ChainError::IllegalOrder { ride_id, version, from, to: event.status });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ride::tests::whole_ride;

    /// Whether the event has the hash that it names.
    fn verify(event: &RideEvent) -> Result<(), ChainError> {
        check_hash(event, hash(event))
    }

    /// A whole chain from version 1 on: every hash, every link, every order.
    fn verify_chain(events: &[RideEvent]) -> Result<(), ChainError> {
        let mut before: Option<&RideEvent> = None;
        for event in events {
            verify(event)?;
            let link = before.map(|b| Link { ride_id: b.ride_id, version: b.version, status: b.status, hash: &b.hash });
            check_link(link, event)?;
            before = Some(event);
        }
        Ok(())
    }

    #[test]
    fn numbers_have_the_form_of_rfc_8785() {
        // Appendix B of RFC 8785, and section 3.2.2.3's integers.
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (5e-324, "5e-324"),
            (-5e-324, "-5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::MIN, "-1.7976931348623157e+308"),
            (9_007_199_254_740_992.0, "9007199254740992"),
            (295_147_905_179_352_830_000.0, "295147905179352830000"),
            (9.999999999999997e22, "9.999999999999997e+22"),
            (1e23, "1e+23"),
            (1e21, "1e+21"),
            (999999999999999700000.0, "999999999999999700000"),
            (9.999999999999997e-7, "9.999999999999997e-7"),
            (0.000001, "0.000001"),
            (0.1, "0.1"),
            (333333333.3333332, "333333333.3333332"),
            (333333333.33333325, "333333333.33333325"),
            (-0.0000033333333333333333, "-0.0000033333333333333333"),
            (1424953923781206.2, "1424953923781206.2"),
            (1000.0, "1000"),
        ] {
            assert_eq!(serde_jcs::to_string(&number).unwrap(), text);
            // A verifier parses text: the number must be the same.
            let read: Value = serde_json::from_str(&serde_json::to_string(&number).unwrap()).unwrap();
            assert_eq!(serde_jcs::to_string(&read).unwrap(), text);
        }
    }

    #[test]
    fn objects_and_strings_have_the_form_of_rfc_8785() {
        // Section 3.2.2 and 3.2.3 of the RFC.
        let sample = r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
            "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
        let read: Value = serde_json::from_str(sample).unwrap();
        let written = "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
                       \"string\":\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
        assert_eq!(serde_jcs::to_string(&read).unwrap(), written);
        let keys: Value = serde_json::json!({
            "\u{20ac}": "Euro Sign", "\r": "Carriage Return", "\u{fb33}": "Hebrew Letter Dalet With Dagesh", "1": "One",
            "\u{1f600}": "Emoji: Grinning Face", "\u{80}": "Control", "\u{f6}": "Latin Small Letter O With Diaeresis",
        });
        let written = serde_jcs::to_string(&keys).unwrap();
        let places: Vec<usize> = ["Carriage", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew"]
            .map(|k| written.find(k).unwrap())
            .to_vec();
        assert!(places.is_sorted(), "{written}");
    }

    #[test]
    fn a_known_body_has_a_known_hash() {
        // Computed with Python: hashlib.sha256 of the canonical text below.
        let body = serde_json::json!({"hash": "ignored", "b": 1.0, "a": {"z": "é", "y": 0.1}});
        let canonical = r#"{"a":{"y":0.1,"z":"é"},"b":1}"#;
        assert_eq!(hash_of_body(body), hex::encode(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref()));
        assert_eq!(
            hex::encode(digest::digest(&digest::SHA256, b"abc").as_ref()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_number_is_the_same_after_a_round_trip_through_text() {
        // Without serde_json's `float_roundtrip` some of these come back as their neighbour.
        let mut bits: u64 = 0x9e37_79b9_7f4a_7c15;
        let events = whole_ride();
        for _ in 0..4_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut event = events[0].clone();
            event.pickup.lat = (bits >> 11) as f64 / (1u64 << 53) as f64 * 180.0 - 90.0;
            event.hash = hash(&event);
            let body = Event::Ride(Box::new(event.clone())).body();
            assert_eq!(verify_body("ride.pickup", &body), Ok(event));
        }
    }

    #[test]
    fn an_edit_a_gap_and_a_swap_are_detected() {
        let events = whole_ride();
        assert_eq!(events.len(), 4);
        assert_eq!(verify_chain(&events), Ok(()));

        let mut edited = events.clone();
        edited[3].fare.as_mut().unwrap().total.amount += 1;
        assert!(matches!(verify_chain(&edited), Err(ChainError::Edited { version: 4, .. })));
        // An edit with a recomputed hash breaks the link of the next event instead.
        let mut rehashed = events.clone();
        rehashed[1].occurred_at += chrono::Duration::seconds(1);
        rehashed[1].hash = hash(&rehashed[1]);
        assert!(matches!(verify_chain(&rehashed), Err(ChainError::BrokenLink { version: 3, .. })));

        let mut gap = events.clone();
        gap.remove(1);
        assert!(matches!(verify_chain(&gap), Err(ChainError::Gap { expected: 2, found: 3, .. })));
        let mut swap = events.clone();
        swap.swap(1, 2);
        assert!(matches!(verify_chain(&swap), Err(ChainError::Gap { expected: 2, found: 3, .. })));
        assert!(matches!(verify_chain(&events[1..]), Err(ChainError::Gap { expected: 1, found: 2, .. })));

        let mut disorder = vec![events[0].clone(), events[1].clone()];
        disorder[1].status = RideStatus::Arrived;
        disorder[1].hash = hash(&disorder[1]);
        assert!(matches!(verify_chain(&disorder), Err(ChainError::IllegalOrder { version: 2, .. })));

        // An unknown field added to a stored body is an edit too.
        let mut value = serde_json::to_value(&events[0]).unwrap();
        value["note"] = "added".into();
        let body = serde_json::to_vec(&value).unwrap();
        assert!(matches!(verify_body("ride.pickup", &body), Err(ChainError::Edited { .. })));
    }
}
