//! The hash chain of a ride's events, which shows any edit, gap or swap; pure.
//!
//! `hash` is SHA-256, lower-case hex, over the RFC 8785 (JCS) form of the body without `hash`; the body holds
//! `previous_hash`, so each event vouches for all before it. Nothing here reads a store or a stream.

use std::fmt;

use aws_lc_rs::digest;
use chrono::{DateTime, Utc};
use serde_json::Value;
use streams::event::{Event, RideEvent};
use streams::{RideId, RideStatus};
use uuid::Uuid;

use crate::ride::lifecycle::may_follow;

/// `previous_hash` of version 1: there is nothing before it.
pub const NOTHING_BEFORE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What is wrong with an event or with its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The body is not that of a ride event.
    Unreadable(String),
    /// The body does not have the hash that it names.
    Edited {
        /// The ride.
        ride_id: RideId,
        /// The event's version.
        version: u32,
        /// The hash of the body as it is.
        found: String,
        /// The hash that it names.
        named: String,
    },
    /// A version is missing, stands twice, or stands in another place.
    Gap {
        /// The ride.
        ride_id: RideId,
        /// The version that belongs here.
        wanted: u32,
        /// The version that stands here.
        found: u32,
    },
    /// The event does not follow the one before it.
    Unlinked {
        /// The ride.
        ride_id: RideId,
        /// The event's version.
        version: u32,
    },
    /// The status may not follow the one before it.
    Order {
        /// The ride.
        ride_id: RideId,
        /// The event's version.
        version: u32,
        /// The status before, if there is one.
        from: Option<RideStatus>,
        /// The status of the event.
        to: RideStatus,
    },
    /// An event of another ride.
    AnotherRide {
        /// The ride whose chain it is.
        ride_id: RideId,
        /// The ride of the event.
        found: RideId,
    },
    /// What the events of a ride have in common is not the same.
    Differs {
        /// The ride.
        ride_id: RideId,
        /// The event's version.
        version: u32,
        /// The field of the body.
        field: &'static str,
    },
    /// It occurred before the version before.
    Backwards {
        /// The ride.
        ride_id: RideId,
        /// The event's version.
        version: u32,
    },
    /// The parts of an amount do not add up to it.
    Money {
        /// The ride.
        ride_id: RideId,
        /// The event's version.
        version: u32,
        /// Which parts, of which amount.
        what: String,
    },
}

impl Broken {
    /// The ride and the version that it is about, as far as they can be read.
    pub fn place(&self) -> (Option<RideId>, Option<u32>) {
        match *self {
            Self::Unreadable(_) => (None, None),
            Self::AnotherRide { ride_id, .. } => (Some(ride_id), None),
            Self::Gap { ride_id, found: version, .. }
            | Self::Edited { ride_id, version, .. }
            | Self::Unlinked { ride_id, version }
            | Self::Order { ride_id, version, .. }
            | Self::Differs { ride_id, version, .. }
            | Self::Backwards { ride_id, version }
            | Self::Money { ride_id, version, .. } => (Some(ride_id), Some(version)),
        }
    }

    /// What is wrong, without the place.
    pub fn what(&self) -> String {
        match self {
            Self::Unreadable(why) => format!("the body is no ride event: {why}"),
            Self::Edited { found, named, .. } => {
                format!("the body was changed: its hash is {found} and not {named}, which it names")
            }
            Self::Gap { wanted: 1, found, .. } => {
                format!(
                    "version {found} stands where version 1 belongs: those before it are missing, or the ride had ended"
                )
            }
            Self::Gap { wanted, found, .. } if found < wanted => {
                format!("version {found} stands again, or too late: version {wanted} belongs here")
            }
            Self::Gap { wanted, found, .. } => format!("version {found} stands where version {wanted} belongs"),
            Self::Unlinked { .. } => "previous_hash is not the hash of the version before".to_owned(),
            Self::Order { from, to, .. } => {
                format!("{} may not follow {}", to.as_str(), from.map_or("nothing", RideStatus::as_str))
            }
            Self::AnotherRide { found, .. } => format!("ride {found} stands among its events"),
            Self::Differs { field, .. } => format!("{field} is not that of the version before"),
            Self::Backwards { .. } => "occurred_at is before that of the version before".to_owned(),
            Self::Money { what, .. } => what.clone(),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place() {
            (Some(ride), Some(version)) => write!(f, "ride {ride} version {version}: {}", self.what()),
            (Some(ride), None) => write!(f, "ride {ride}: {}", self.what()),
            _ => f.write_str(&self.what()),
        }
    }
}

impl std::error::Error for Broken {}

/// The hash of an event, whatever its field `hash` says.
pub fn hash(event: &RideEvent) -> String {
    let body = serde_json::to_value(event).expect("a ride event has string keys and finite numbers");
    hash_of(body)
}

fn hash_of(mut body: Value) -> String {
    if let Some(fields) = body.as_object_mut() {
        fields.remove("hash");
    }
    let canonical = serde_jcs::to_vec(&body).expect("a JSON value has string keys and finite numbers");
    hex::encode(digest::digest(&digest::SHA256, &canonical).as_ref())
}

/// An id that follows from an event, so that whoever makes the rows of a ride again gives them the ids that they had: version
/// 7, of the time of the event, its random bits from the event's hash and what the id is for.
pub(crate) fn derived_id(at: DateTime<Utc>, hash: &str, purpose: &str) -> Uuid {
    let mut seed = digest::Context::new(&digest::SHA256);
    for part in [hash, "/", purpose] {
        seed.update(part.as_bytes());
    }
    let mut bytes = [0; 10];
    bytes.copy_from_slice(&seed.finish().as_ref()[..10]);
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(at.timestamp_millis()).unwrap_or(0), &bytes).into_uuid()
}

/// Whether the event has the hash that it names. A field that [`RideEvent`] does not know is not seen here: where there is
/// a body, use [`verify_body`].
///
/// # Errors
/// [`Broken::Edited`].
pub fn verify(event: &RideEvent) -> Result<(), Broken> {
    matches(event, hash(event))
}

/// Reads the body of a message on `subject` and checks its hash over all that stands in it, known or not.
///
/// # Errors
/// [`Broken::Unreadable`], [`Broken::Edited`].
pub fn verify_body(subject: &str, body: &[u8]) -> Result<RideEvent, Broken> {
    let (event, found) = read_body(subject, body)?;
    matches(&event, found)?;
    Ok(event)
}

/// Reads the body of a message on `subject`; beside the event the hash that the body has, whichever it names.
pub(crate) fn read_body(subject: &str, body: &[u8]) -> Result<(RideEvent, String), Broken> {
    let unreadable = |why: String| Broken::Unreadable(why);
    let event = match Event::parse(subject, body).map_err(|e| unreadable(e.to_string()))? {
        Event::Ride(event) => *event,
        other => return Err(unreadable(format!("{} is no event of a ride", other.subject()))),
    };
    let value: Value = serde_json::from_slice(body).map_err(|e| unreadable(e.to_string()))?;
    Ok((event, hash_of(value)))
}

pub(crate) fn matches(event: &RideEvent, found: String) -> Result<(), Broken> {
    if found == event.hash {
        return Ok(());
    }
    Err(Broken::Edited { ride_id: event.ride_id, version: event.version, found, named: event.hash.clone() })
}

/// What the next event is linked to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link<'a> {
    pub(crate) ride_id: RideId,
    pub(crate) version: u32,
    pub(crate) status: RideStatus,
    pub(crate) hash: &'a str,
}

impl<'a> From<&'a RideEvent> for Link<'a> {
    fn from(event: &'a RideEvent) -> Self {
        Self { ride_id: event.ride_id, version: event.version, status: event.status, hash: &event.hash }
    }
}

/// Whether `event` may stand after `before` (`None`: at the beginning): version, link and legal order. Its own hash is
/// [`verify`]'s.
///
/// # Errors
/// [`Broken`], all but `Edited` and `Unreadable`.
pub fn follows(before: Option<&RideEvent>, event: &RideEvent) -> Result<(), Broken> {
    fits(before.map(Link::from), event)
}

pub(crate) fn fits(before: Option<Link<'_>>, event: &RideEvent) -> Result<(), Broken> {
    let (ride_id, version) = (event.ride_id, event.version);
    if let Some(before) = before.filter(|b| b.ride_id != ride_id) {
        return Err(Broken::AnotherRide { ride_id: before.ride_id, found: ride_id });
    }
    let wanted = before.map_or(1, |b| b.version.saturating_add(1));
    if version != wanted {
        return Err(Broken::Gap { ride_id, wanted, found: version });
    }
    if event.previous_hash != before.map_or(NOTHING_BEFORE, |b| b.hash) {
        return Err(Broken::Unlinked { ride_id, version });
    }
    let from = before.map(|b| b.status);
    if !may_follow(from, event.status) {
        return Err(Broken::Order { ride_id, version, from, to: event.status });
    }
    Ok(())
}

/// A whole chain, from version 1 on: every hash, every link, every order.
///
/// # Errors
/// The first thing that is [`Broken`].
pub fn verify_chain(events: &[RideEvent]) -> Result<(), Broken> {
    let mut before = None;
    for event in events {
        verify(event)?;
        follows(before, event)?;
        before = Some(event);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ride::tests::whole_ride;

    #[test]
    fn numbers_are_written_as_rfc_8785_wants_them() {
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
            // Read from text, as a verifier does, it is the same number.
            let read: Value = serde_json::from_str(&serde_json::to_string(&number).unwrap()).unwrap();
            assert_eq!(serde_jcs::to_string(&read).unwrap(), text);
        }
    }

    #[test]
    fn structure_is_written_as_rfc_8785_wants_it() {
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
        // Made with Python: hashlib.sha256 of the canonical text below.
        let body = serde_json::json!({"hash": "ignored", "b": 1.0, "a": {"z": "é", "y": 0.1}});
        let canonical = r#"{"a":{"y":0.1,"z":"é"},"b":1}"#;
        assert_eq!(hash_of(body), hex::encode(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref()));
        assert_eq!(
            hex::encode(digest::digest(&digest::SHA256, b"abc").as_ref()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn every_number_survives_the_way_through_text() {
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
    fn an_edit_a_gap_and_a_swap_show() {
        let events = whole_ride();
        assert_eq!(events.len(), 4);
        assert_eq!(verify_chain(&events), Ok(()));

        let mut edited = events.clone();
        edited[3].fare.as_mut().unwrap().total.amount += 1;
        assert!(matches!(verify_chain(&edited), Err(Broken::Edited { version: 4, .. })));
        // An edit whose hash was made anew breaks the link instead.
        let mut rehashed = events.clone();
        rehashed[1].occurred_at += chrono::Duration::seconds(1);
        rehashed[1].hash = hash(&rehashed[1]);
        assert!(matches!(verify_chain(&rehashed), Err(Broken::Unlinked { version: 3, .. })));

        let mut gap = events.clone();
        gap.remove(1);
        assert!(matches!(verify_chain(&gap), Err(Broken::Gap { wanted: 2, found: 3, .. })));
        let mut swap = events.clone();
        swap.swap(1, 2);
        assert!(matches!(verify_chain(&swap), Err(Broken::Gap { wanted: 2, found: 3, .. })));
        assert!(matches!(verify_chain(&events[1..]), Err(Broken::Gap { wanted: 1, found: 2, .. })));

        let mut disorder = vec![events[0].clone(), events[1].clone()];
        disorder[1].status = RideStatus::Arrived;
        disorder[1].hash = hash(&disorder[1]);
        assert!(matches!(verify_chain(&disorder), Err(Broken::Order { version: 2, .. })));

        // An unknown field smuggled into a stored body is an edit too.
        let mut value = serde_json::to_value(&events[0]).unwrap();
        value["note"] = "added".into();
        let body = serde_json::to_vec(&value).unwrap();
        assert!(matches!(verify_body("ride.pickup", &body), Err(Broken::Edited { .. })));
    }
}
