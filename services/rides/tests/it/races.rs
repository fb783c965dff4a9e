//! Who wins, of every two commands on a ride, in either order and at once. `after` is the table; the offer before a ride has one of its own
//! (`services/users/tests/it/races.rs`).

use pricing::market::Current;
use pricing::{Tariffs, WaitingRules};
use rides::Config;
use streams::event::{MatchAccepted, RideEvent};
use streams::ride_command::RideAction;
use streams::{Event, RideStatus};
use testing::{Backend, on_both_stores};

use crate::harness::{TestApp, parsed};

on_both_stores!(of_every_two_commands_the_table_says_who_wins, at_once_they_are_as_one_after_the_other);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// `ride.wait`, at the pickup.
    Wait,
    /// `ride.start` with the PIN.
    Start,
    /// `ride.arrive`
    Arrive,
    /// `ride.cancel` by the passenger.
    PassengerCancels,
    /// `ride.cancel` by the driver.
    DriverCancels,
    /// `ride.cancel` by the driver for the reason `no_show`, after the time that the passenger has.
    NoShow,
    /// The passenger ends the search that the ride came of.
    EndSearch,
}

use Act::{Arrive, DriverCancels, EndSearch, NoShow, PassengerCancels, Start, Wait};

const ALL: [Act; 7] = [Wait, Start, Arrive, PassengerCancels, DriverCancels, NoShow, EndSearch];

/// A ride as far as these commands see it, and whether its passenger's search goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    status: &'static str,
    version: u32,
    /// The driver has said so at the pickup.
    waited: bool,
    cancelled_by_driver: bool,
    searches: bool,
}

/// The ride after `act`, and the answer: status and version of an ack, or the code of the refusal.
fn after(place: Place, act: Act) -> (Place, String) {
    let to = |status| {
        let place = Place { status, version: place.version + 1, ..place };
        (place, format!("{status} {}", place.version))
    };
    let as_before = (place, format!("{} {}", place.status, place.version));
    let refused = |code: &str| (place, code.to_owned());
    let cancelled = |cancelled_by_driver, searches| {
        let (place, answer) = to("cancelled");
        (Place { cancelled_by_driver, searches, ..place }, answer)
    };
    match (place.status, act) {
        // A ride is what became of the search, unless the driver has given it back.
        (_, EndSearch) if place.searches => (Place { searches: false, ..place }, "ended".to_owned()),
        (_, EndSearch) => refused("search_fulfilled"),
        ("pickup", Wait) => {
            let (place, answer) = to("waiting");
            (Place { waited: true, ..place }, answer)
        }
        ("pickup" | "waiting", Start) => to("started"),
        ("pickup" | "waiting", Arrive) => refused("ride_not_started"),
        ("started", Arrive) => to("arrived"),
        ("pickup" | "started", NoShow) => refused("ride_not_waiting"),
        ("waiting", NoShow) => cancelled(true, false),
        ("pickup" | "waiting" | "started", PassengerCancels) => cancelled(false, false),
        // Before the start the passenger's search goes on.
        (status @ ("pickup" | "waiting" | "started"), DriverCancels) => cancelled(true, status != "started"),
        ("arrived", PassengerCancels | DriverCancels | NoShow) => refused("ride_arrived"),
        // The first cancellation stands. Who cancelled may repeat it; the other one did not end the ride, and a search may go on.
        ("cancelled", DriverCancels | NoShow) if place.cancelled_by_driver => as_before,
        ("cancelled", PassengerCancels) if !place.cancelled_by_driver => as_before,
        ("cancelled", _) => refused("ride_ended"),
        // A repeat, also of a command that later ones have overtaken.
        ("waiting" | "started" | "arrived", Wait) if place.waited => as_before,
        (_, Wait) => refused("ride_started"),
        (_, Start | Arrive) => as_before,
        (status, act) => panic!("{act:?} on a ride with the status {status}"),
    }
}

const BEGIN: Place = Place { status: "pickup", version: 1, waited: false, cancelled_by_driver: false, searches: false };

struct Scene {
    app: TestApp,
    matched: MatchAccepted,
    ride: RideEvent,
    place: Place,
}

impl Scene {
    /// A ride after these commands.
    async fn new(app: TestApp, before: &[Act]) -> Self {
        let matched = app.matched();
        app.publish(&Event::MatchAccepted(matched.clone())).await;
        let ride = app.event(&matched, RideStatus::Pickup).await;
        let mut scene = Self { app, matched, ride, place: BEGIN };
        for act in before {
            let (place, expected) = after(scene.place, *act);
            assert_eq!(scene.act(*act).await, expected);
            scene.place = place;
        }
        scene
    }

    async fn act(&self, act: Act) -> String {
        let Self { app, matched, ride, .. } = self;
        let (driver, passenger, ride_id) = (ride.driver_id, ride.passenger_id, ride.ride_id);
        match act {
            Wait => app.command(driver, ride_id, RideAction::Wait { driver_at: Some(ride.pickup) }).await,
            Start => app.start_ride(driver, ride_id).await,
            Arrive => app.command(driver, ride_id, RideAction::Arrive).await,
            PassengerCancels => app.cancel(passenger, ride_id).await,
            DriverCancels => app.cancel(driver, ride_id).await,
            NoShow => {
                app.command(driver, ride_id, RideAction::Cancel { reason: "no_show".to_owned(), note: None }).await
            }
            EndSearch => app.end_search(matched).await,
        }
    }

    /// The statuses of the ride's events, in order.
    async fn story(&self) -> Vec<&'static str> {
        self.app.events(self.ride.ride_id).await.iter().map(|row| parsed(row).status.as_str()).collect()
    }
}

/// The passenger's time is over as soon as the driver waits.
fn config() -> Config {
    let waiting = WaitingRules { no_show_after_s: 0, ..WaitingRules::default() };
    Config { markets: Current::world(Tariffs { waiting, ..Tariffs::default() }), ..Config::default() }
}

/// What comes before the two: a ride on its way to the pickup, at it, and with the passenger.
const BEFORE: [&[Act]; 3] = [&[], &[Wait], &[Start]];

async fn of_every_two_commands_the_table_says_who_wins(backend: Backend) {
    Box::pin(one_after_the_other(TestApp::start(backend, config()).await)).await;
}

async fn at_once_they_are_as_one_after_the_other(backend: Backend) {
    Box::pin(at_once(TestApp::start(backend, config()).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_nats_too_they_are_as_one_after_the_other() {
    Box::pin(at_once(TestApp::start_on_nats(config()).await)).await;
}

async fn one_after_the_other(mut app: TestApp) {
    for before in BEFORE {
        for first in ALL {
            for second in ALL {
                let scene = Scene::new(app, before).await;
                let (place, expected) = after(scene.place, first);
                assert_eq!(scene.act(first).await, expected, "{before:?}, {first:?}");
                let (place, expected) = after(place, second);
                assert_eq!(scene.act(second).await, expected, "{before:?}, {first:?}, {second:?}");
                let story = scene.story().await;
                assert_eq!((*story.last().unwrap(), story.len() as u32), (place.status, place.version), "{story:?}");
                app = scene.app;
            }
        }
    }
    app.end().await;
}

async fn at_once(mut app: TestApp) {
    for before in BEFORE {
        for (n, one) in ALL.into_iter().enumerate() {
            for other in ALL.into_iter().skip(n + 1) {
                let scene = Scene::new(app, before).await;
                let (a, b) = tokio::join!(scene.act(one), scene.act(other));
                let story = scene.story().await;
                let as_if = |first, second| {
                    let (place, answer) = after(scene.place, first);
                    let (place, next) = after(place, second);
                    let answers = if first == one { [&answer, &next] } else { [&next, &answer] };
                    answers == [&a, &b] && (*story.last().unwrap(), story.len() as u32) == (place.status, place.version)
                };
                let either = as_if(one, other) || as_if(other, one);
                assert!(either, "{before:?}: {one:?} {a}, {other:?} {b}: {story:?}");
                app = scene.app;
            }
        }
    }
    app.end().await;
}
