//! A driver's newest position on the live lane, `location.live.<ride id>`: what the pod with the driver's socket publishes, and the pod
//! with the passenger's socket reads. Pure.
//!
//! The lane is a core subject: a position is delivered at most once, and none of it is stored. Anybody who reaches the bus can publish
//! there, so a position is a signed text, and a passenger is shown nothing else.

use platform::Tokens;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use streams::RideId;
use streams::newest_position::NewestPosition;

use super::{CurrentRide, Destination};
use crate::signed_text;

/// The core subject of a ride's positions.
pub(crate) fn live_subject(ride: RideId) -> String {
    format!("location.live.{ride}")
}

/// A position of a live ride's driver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LivePosition {
    pub(crate) ride_id: RideId,
    #[serde(flatten)]
    pub(crate) position: NewestPosition,
    /// How long the vehicle needs to get there, seconds; null if this pod does not know where that is.
    pub(crate) eta_s: Option<f64>,
    pub(crate) eta_to: Destination,
}

impl LivePosition {
    pub(crate) fn new(ride: &CurrentRide, position: NewestPosition) -> Self {
        let eta_to = ride.destination();
        Self { ride_id: ride.ride_id, eta_s: ride.eta_s(&position.location, eta_to), eta_to, position }
    }

    /// The message with this position.
    pub(crate) fn sign(&self, tokens: &Tokens) -> String {
        let text = serde_json::to_string(self).expect("a struct of texts and numbers is JSON");
        signed_text::sign(tokens, &purpose(self.ride_id), &text)
    }

    /// Reads a message of the subject of `ride`. `None` for what no pod of this platform wrote for it.
    pub(crate) fn read(tokens: &Tokens, ride: RideId, payload: &[u8]) -> Option<Self> {
        let text = signed_text::verify(tokens, &purpose(ride), payload)?;
        let read: Self = serde_json::from_str(&text).ok()?;
        (read.ride_id == ride && read.position.location.is_valid()).then_some(read)
    }
}

fn purpose(ride: RideId) -> String {
    format!("live-position-{ride}")
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use platform::World;
    use streams::{Position, UserId};
    use uuid::Uuid;

    use super::*;

    fn tokens(seed: u8) -> Tokens {
        Tokens::new(&World::seeded(DateTime::UNIX_EPOCH, 1), &[seed; 32]).unwrap()
    }

    fn at(lat: f64) -> Position {
        Position { lat, lng: 10.0 }
    }

    fn position() -> LivePosition {
        let ride = CurrentRide {
            ride_id: RideId(Uuid::from_u128(7)),
            driver_id: UserId(Uuid::from_u128(1)),
            passenger_id: UserId(Uuid::from_u128(2)),
            version: 1,
            status: streams::RideStatus::Pickup,
            places: Some(super::super::Places { pickup: at(60.0), dropoff: at(60.1) }),
        };
        let time = |second: i64| DateTime::from_timestamp(1_772_352_000 + second, 0).unwrap();
        let position = NewestPosition {
            location: at(60.001),
            heading_deg: Some(180.0),
            speed_mps: None,
            recorded_at: time(10),
            received_at: time(11),
            device: "pixel-8".to_owned(),
            ride_device: true,
            device_at: time(-50),
            is_beacon: false,
        };
        LivePosition::new(&ride, position)
    }

    #[test]
    fn a_message_has_the_fields_of_the_frame_and_those_that_order_it() {
        let sent = position().sign(&tokens(1));
        let sent = sent.split(r#","mac":"#).next().unwrap();
        insta::assert_snapshot!(sent, @r#"{"ride_id":"00000000-0000-0000-0000-000000000007","location":{"lat":60.001,"lng":10.0},"heading_deg":180.0,"speed_mps":null,"recorded_at":"2026-03-01T08:00:10.000000Z","received_at":"2026-03-01T08:00:11.000000Z","device":"pixel-8","ride_device":true,"device_at":"2026-03-01T07:59:10.000000Z","is_beacon":false,"eta_s":20.65,"eta_to":"pickup""#);
    }

    #[test]
    fn only_what_this_platform_wrote_for_this_ride_is_shown() {
        let (ours, theirs, position) = (tokens(1), tokens(2), position());
        let sent = position.sign(&ours);
        let read = |tokens, ride, payload: &[u8]| LivePosition::read(tokens, RideId(Uuid::from_u128(ride)), payload);
        assert_eq!(read(&ours, 7, sent.as_bytes()), Some(position.clone()));
        let far =
            LivePosition { position: NewestPosition { location: at(91.0), ..position.position.clone() }, ..position };
        for (tokens, ride, payload) in [
            (&theirs, 7, sent.clone()),
            (&ours, 8, sent.clone()),
            (&ours, 7, sent.replace("60.001", "60.002")),
            (&ours, 7, sent.replace(r#""}"#, "")),
            (&ours, 7, far.sign(&ours)),
            (&ours, 7, signed_text::sign(&ours, &purpose(far.ride_id), "{}")),
            (&ours, 7, signed_text::sign(&ours, &purpose(far.ride_id), r#"{"ride_id":7}"#)),
            (&ours, 7, String::new()),
            (&ours, 7, "[[[[".repeat(9_999)),
        ] {
            assert_eq!(read(tokens, ride, payload.as_bytes()), None, "{payload:.300}");
        }
        assert_eq!(read(&ours, 7, b"\xff\xfe"), None);
    }
}
