//! The other party of a ride, as users says who it is: a bounded core request when somebody looks at one ride. Names and plates are in
//! no table and no event of rides.

use chrono::Duration;
use platform::breaker::Rules;
use platform::{Asking, Platform};
use streams::UserId;
use streams::parties::{DriverView, PARTIES, PARTIES_WAIT, Parties, PartiesRequest, PassengerView, SHOWN_HOURS};

use crate::ride::Ride;

/// Without an answer every look at a ride would take the whole wait.
const RULES: Rules = Rules { failures_max: 5, open_for: Duration::seconds(2) };

/// Looks at rides that await the reply at once.
const IN_FLIGHT_MAX: usize = 256;

/// The other party of a ride.
#[derive(Debug)]
pub(crate) enum Shown {
    Driver(Option<DriverView>),
    Passenger(Option<PassengerView>),
}

#[derive(Debug)]
pub(crate) struct OtherParty {
    platform: Platform,
    users: Asking,
}

impl OtherParty {
    pub(crate) fn new(platform: &Platform) -> Self {
        let users = Asking::new(platform, "parties", RULES, PARTIES, IN_FLIGHT_MAX);
        Self { platform: platform.clone(), users }
    }

    /// The other party as `viewer` is shown it: nobody while users does not answer. `None` a day after
    /// the end of the ride, and for somebody who is both.
    pub(crate) async fn shown(&self, ride: &Ride, viewer: UserId) -> Option<Shown> {
        let is_over = ride.status.is_final();
        if is_over && self.platform.world.now() >= ride.updated_at + Duration::hours(SHOWN_HOURS)
            || ride.driver_id == ride.passenger_id
        {
            return None;
        }
        let parties =
            self.request(&PartiesRequest { driver_id: ride.driver_id, passenger_id: ride.passenger_id }).await;
        Some(match parties {
            Some(Parties { driver, .. }) if viewer == ride.passenger_id => Shown::Driver(driver),
            Some(Parties { passenger, .. }) => Shown::Passenger(passenger),
            None if viewer == ride.passenger_id => Shown::Driver(None),
            None => Shown::Passenger(None),
        })
    }

    /// The driver of a ride as its passenger sees them; `None` while users does not answer.
    pub(crate) async fn driver_of(&self, ride: &Ride) -> Option<DriverView> {
        let people = PartiesRequest { driver_id: ride.driver_id, passenger_id: ride.passenger_id };
        self.request(&people).await?.driver
    }

    async fn request(&self, request: &PartiesRequest) -> Option<Parties> {
        self.users.ask(request, PARTIES_WAIT).await
    }
}
