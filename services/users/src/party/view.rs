//! Who is shown in which body. Pure.

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use serde::Deserialize;
use streams::UserId;
use streams::parties::SHOWN_HOURS;

use super::cache::Person;
use crate::shown::Joined;

/// An event on its way to one user.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameBody<'a> {
    pub(crate) viewer: UserId,
    pub(crate) subject: &'a str,
    /// When it happened.
    pub(crate) time: DateTime<Utc>,
    /// As the mailbox has it.
    pub(crate) body: &'a str,
}

/// What is joined to a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    party: Option<Party>,
    /// Until when an offer can be answered.
    expires_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Party {
    Driver(UserId),
    Passenger(UserId),
}

impl Shown {
    pub(crate) fn user(&self) -> Option<UserId> {
        self.party.map(|party| match party {
            Party::Driver(user) | Party::Passenger(user) => user,
        })
    }
}

#[derive(Deserialize)]
struct Named {
    driver_id: UserId,
    passenger_id: UserId,
    expires_at: Option<DateTime<Utc>>,
}

impl FrameBody<'_> {
    /// The passenger is shown the driver from match.found on, the driver the passenger from match.accepted on, and neither a day after
    /// the event: so that is at most a day after the end of the ride.
    pub(crate) fn shown(&self, now: DateTime<Utc>) -> Shown {
        let nothing = Shown { party: None, expires_at: None };
        let (is_found, is_later) =
            (self.subject == "match.found", self.subject == "match.accepted" || self.subject.starts_with("ride."));
        if !is_found && !is_later {
            return nothing;
        }
        let Ok(Named { driver_id, passenger_id, expires_at }) = serde_json::from_str(self.body) else { return nothing };
        let expires_at = expires_at.filter(|_| is_found);
        let is_over = now >= self.time + Duration::hours(SHOWN_HOURS);
        let party = match self.viewer {
            _ if is_over || driver_id == passenger_id => None,
            viewer if viewer == passenger_id => Some(Party::Driver(driver_id)),
            viewer if viewer == driver_id && is_later => Some(Party::Passenger(passenger_id)),
            _ => None,
        };
        Shown { party, expires_at }
    }

    /// The body with what is shown: `driver` or `passenger`, which is null for somebody who is not there any more, and `expires_in_s`.
    pub(crate) fn with<'p>(
        &self,
        shown: &Shown,
        person: impl Fn(&UserId) -> Option<&'p Arc<Person>>,
        now: DateTime<Utc>,
    ) -> String {
        if *shown == (Shown { party: None, expires_at: None }) {
            return self.body.to_owned();
        }
        let left_s = |at: DateTime<Utc>| (at - now).num_milliseconds().max(0) as f64 / 1e3;
        let mut joined = Joined { expires_in_s: shown.expires_at.map(left_s), ..Joined::default() };
        match shown.party {
            None => {}
            Some(Party::Driver(user)) => joined.driver = Some(person(&user).and_then(|person| person.as_driver())),
            Some(Party::Passenger(user)) => joined.passenger = Some(person(&user).map(|person| person.as_passenger())),
        }
        let joined = serde_json::to_string(&joined).expect("a struct of texts and numbers is JSON");
        match (self.body.strip_suffix('}'), joined.strip_prefix('{')) {
            (Some(open), Some(more)) => format!("{open},{more}"),
            _ => self.body.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use streams::VehicleType;
    use uuid::Uuid;

    use super::*;
    use crate::account::Driver;

    const DRIVER: UserId = UserId(Uuid::from_u128(1));
    const PASSENGER: UserId = UserId(Uuid::from_u128(2));

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::seconds(seconds)
    }

    /// What is added to the body of an event of `at(0)`.
    fn added(subject: &str, viewer: UserId, now: i64) -> String {
        let body = format!(
            r#"{{"driver_id":"{DRIVER}","passenger_id":"{PASSENGER}","expires_at":"1970-01-01T00:00:15.000000Z"}}"#
        );
        let frame = FrameBody { viewer, subject, time: at(0), body: &body };
        let vehicle = Driver::new(VehicleType::Car, "AB 1".to_owned());
        let dan = Arc::new(Person { name: Some("D\"an".to_owned()), driver: Some(vehicle), rating: Some(4.67) });
        let pia = Arc::new(Person { name: None, driver: None, rating: None });
        let person = |user: &UserId| if *user == DRIVER { Some(&dan) } else { Some(&pia) };
        let full = frame.with(&frame.shown(at(now)), person, at(now));
        serde_json::from_str::<serde_json::Value>(&full).unwrap();
        full.strip_prefix(body.strip_suffix('}').unwrap()).unwrap().strip_suffix('}').unwrap().to_owned()
    }

    #[test]
    fn each_party_is_shown_the_other_and_nobody_else() {
        let driver = r#""driver":{"name":"D\"an","vehicle_type":"car","plate":"AB 1","make":null,"model":null,"color":null,"rating":4.67}"#;
        let passenger = r#","passenger":{"name":null,"rating":null}"#;
        let day = SHOWN_HOURS * 3_600;
        for (subject, viewer, now, expected) in [
            ("match.found", PASSENGER, 3, format!(r#","expires_in_s":12.0,{driver}"#)),
            ("match.found", DRIVER, 3, r#","expires_in_s":12.0"#.to_owned()),
            ("match.found", PASSENGER, 16, format!(r#","expires_in_s":0.0,{driver}"#)),
            ("match.accepted", PASSENGER, 3, format!(",{driver}")),
            ("match.accepted", DRIVER, 3, passenger.to_owned()),
            ("ride.pickup", DRIVER, day - 1, passenger.to_owned()),
            ("ride.completed", PASSENGER, day - 1, format!(",{driver}")),
            ("ride.completed", PASSENGER, day, String::new()),
            ("ride.completed", DRIVER, day, String::new()),
            ("match.rejected", PASSENGER, 3, String::new()),
            ("user.finder", PASSENGER, 3, String::new()),
            ("ride.pickup", UserId(Uuid::from_u128(3)), 3, String::new()),
        ] {
            let added = added(subject, viewer, now);
            let sorted = |text: &str| {
                let text = text.strip_prefix(',').unwrap_or(text);
                serde_json::from_str::<serde_json::Value>(&format!("{{{text}}}")).unwrap()
            };
            assert_eq!(sorted(&added), sorted(&expected), "{subject} at {now}");
        }
    }
}
