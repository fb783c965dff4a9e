//! The checker is shown one violation at a time, and must name it.

use serde_json::{Value, json};

use super::*;

/// A driver, `dan`, and a passenger, `pia`, both connected, and what they receive.
struct Scenario {
    checker: Checker,
    now: Instant,
}

fn ride_body(ride: &str, version: u64, status: &str) -> Value {
    json!({
        "ride_id": ride, "match_id": format!("m-{ride}"), "driver_id": "dan", "passenger_id": "pia",
        "version": version, "status": status, "occurred_at": format!("2026-01-01T00:0{version}:00.000Z"),
        "previous_hash": hash(ride, version - 1), "hash": hash(ride, version),
    })
}

fn hash(ride: &str, version: u64) -> String {
    if version == 0 { "0".repeat(64) } else { format!("{:064x}", version * 1000 + ride.len() as u64) }
}

impl Scenario {
    fn new() -> Self {
        let now = crate::clock::now();
        let mut checker = Checker::default();
        for (user, party) in [("dan", Party::Driver), ("pia", Party::Passenger)] {
            checker.add_person(user, party);
            checker.connected(user, now);
        }
        Self { checker, now }
    }

    fn receive(&mut self, user: &str, kind: &str, data: Value) -> &mut Self {
        let event = Event { kind: kind.into(), seq: 0, event_id: String::new(), data };
        self.checker.receive(user, &event, self.now);
        self
    }

    /// An event of a ride, received by the driver, the passenger or both: `to` is "d", "p" or "dp".
    fn step(&mut self, to: &str, ride: &str, version: u64, status: &str) -> &mut Self {
        self.step_with(to, ride, version, status, &[])
    }

    fn step_with(&mut self, to: &str, ride: &str, version: u64, status: &str, change: &[(&str, Value)]) -> &mut Self {
        let mut body = ride_body(ride, version, status);
        if status == "cancelled" {
            body["by"] = json!("passenger");
        }
        if status == "completed" {
            let usd = |amount: i64| json!({"amount": amount, "currency": "USD"});
            body["fare"] = json!({"lines": [{"name": "base", "amount": usd(100)}], "total": usd(100)});
            body["platform_fee"] = usd(20);
            body["driver_payout"] = usd(80);
        }
        for (field, value) in change {
            body[*field] = value.clone();
        }
        for who in to.chars() {
            let user = if who == 'd' { "dan" } else { "pia" };
            let mut body = body.clone();
            if user == "pia" && status == "pickup" {
                body["pin"] = json!("1234");
            }
            if status == "pickup" {
                self.checker.accepting(&format!("m-{ride}"), self.now);
                for kind in ["match.found", "match.accepted"] {
                    self.receive(user, kind, found(&format!("m-{ride}")));
                }
            }
            self.receive(user, &format!("ride.{status}"), body);
        }
        self
    }

    fn complete_ride(&mut self, ride: &str) -> &mut Self {
        for (version, status) in [(1, "pickup"), (2, "started"), (3, "arrived"), (4, "completed")] {
            self.step("dp", ride, version, status);
        }
        self
    }

    fn later(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self.checker.report_overdue(self.now);
        self
    }

    fn end(&mut self) -> String {
        self.checker.finish(self.now + Duration::from_secs(60), Duration::from_secs(10));
        self.checker.violations().join("\n")
    }
}

fn found(id: &str) -> Value {
    json!({
        "match_id": id, "request_id": format!("req-{id}"), "driver_id": "dan", "passenger_id": "pia",
        "found_at": "2026-01-01T00:00:00.000Z", "expires_at": "2026-01-01T00:00:15.000Z",
    })
}

#[test]
fn a_completed_ride_and_a_cancelled_one_have_no_violation() {
    let mut scenario = Scenario::new();
    assert_eq!(scenario.complete_ride("a").end(), "");
    assert!(scenario.checker.is_settled(scenario.now));
    let ended = scenario.checker.ended_rides();
    assert_eq!((ended.len(), ended[0].status, ended[0].total), (1, Status::Completed, Some(100)));

    let mut scenario = Scenario::new();
    scenario.step("dp", "a", 1, "pickup").step("dp", "a", 2, "cancelled");
    assert_eq!(scenario.end(), "");
}

#[test]
fn each_wrong_ride_event_is_a_violation() {
    type Script = for<'a> fn(&'a mut Scenario) -> &'a mut Scenario;
    let cases: [(&str, Script); 14] = [
        ("is in 2 live rides", |c| c.step("dp", "a", 1, "pickup").step("d", "bb", 1, "pickup")),
        ("never got version 2 (started)", |c| c.step("dp", "a", 1, "pickup").step("d", "a", 2, "started")),
        ("nobody got version 2", |c| c.step("dp", "a", 1, "pickup").step("dp", "a", 3, "arrived")),
        ("arrived as version 2 after pickup", |c| c.step("dp", "a", 1, "pickup").step("dp", "a", 2, "arrived")),
        ("cancelled as version 4 after arrived", |c| {
            c.step("dp", "a", 1, "pickup").step("dp", "a", 2, "started");
            c.step("dp", "a", 3, "arrived").step("dp", "a", 4, "cancelled")
        }),
        ("charged two times", |c| c.complete_ride("a").step("p", "a", 4, "completed")),
        ("completed as version 5 after completed", |c| c.complete_ride("a").step("dp", "a", 5, "completed")),
        ("is not the same for both", |c| {
            c.step("d", "a", 1, "pickup").step_with("p", "a", 1, "pickup", &[("vehicle_type", json!("van"))])
        }),
        ("the hash of the one before", |c| {
            c.step("dp", "a", 1, "pickup");
            c.step_with("dp", "a", 2, "started", &[("previous_hash", json!("f".repeat(64)))])
        }),
        ("stranger's ride.pickup", |c| c.step_with("d", "a", 1, "pickup", &[("driver_id", json!("eve"))])),
        ("holds a PIN", |c| c.step_with("d", "a", 1, "pickup", &[("pin", json!("1234"))])),
        ("says status", |c| c.step_with("d", "a", 1, "pickup", &[("status", json!("started"))])),
        ("became two rides", |c| {
            c.step("dp", "a", 1, "pickup").step_with("dp", "bb", 1, "pickup", &[("match_id", json!("m-a"))])
        }),
        ("two rides at a time", |c| {
            c.complete_ride("a").step_with(
                "dp",
                "bb",
                1,
                "pickup",
                &[("occurred_at", json!("2026-01-01T00:03:30.000Z"))],
            )
        }),
    ];
    for (named, script) in cases {
        let mut scenario = Scenario::new();
        script(&mut scenario);
        let found = scenario.end();
        assert!(found.contains(named), "expected `{named}` among: {found}");
    }
}

#[test]
fn a_late_version_is_allowed_and_counted() {
    let mut scenario = Scenario::new();
    scenario.step("dp", "a", 1, "pickup").step("d", "a", 2, "started").step("d", "a", 3, "arrived");
    scenario.step("p", "a", 3, "arrived").step("p", "a", 2, "started");
    assert_eq!(scenario.end(), "");
    assert_eq!(scenario.checker.late_versions(), 1);
}

#[test]
fn an_offer_must_end_for_both_parties() {
    let mut scenario = Scenario::new();
    scenario.receive("dan", "match.found", found("m-a")).receive("pia", "match.found", found("m-a"));
    let mut rejected = found("m-a");
    rejected["reason"] = json!("expired");
    scenario.later(20).receive("dan", "match.rejected", rejected).later(20);
    assert_eq!(scenario.checker.violations(), Vec::<String>::new());
    scenario.later(60);
    let texts = scenario.checker.violations();
    assert!(texts.len() == 1 && texts[0].contains("neither ride nor rejection for pia"), "{texts:?}");
}

#[test]
fn an_acked_command_must_have_its_effect_while_its_sender_is_connected() {
    let mut scenario = Scenario::new();
    scenario.step("dp", "a", 1, "pickup");
    scenario.checker.expect(
        "dan",
        "ride.start",
        Effect::RideReaches { ride_id: "a".into(), status: Status::Started },
        scenario.now,
    );
    scenario.checker.disconnected("dan");
    scenario.later(100);
    assert_eq!(scenario.checker.violation_count(), 0, "nobody was connected to receive it");
    scenario.checker.connected("dan", scenario.now);
    scenario.later(10);
    assert_eq!(scenario.checker.violation_count(), 0, "reconnected a moment ago");
    scenario.later(15);
    assert!(scenario.checker.violations()[0].contains("ride.start acked, but no ride.started for dan"));
    assert!(!scenario.checker.is_settled(scenario.now) || scenario.checker.violation_count() == 1);
}

#[test]
fn an_expectation_that_is_met_is_dropped() {
    let mut scenario = Scenario::new();
    scenario.complete_ride("a");
    scenario.checker.expect(
        "dan",
        "ride.arrive",
        Effect::RideReaches { ride_id: "a".into(), status: Status::Completed },
        scenario.now,
    );
    scenario.checker.expect("pia", "ride.cancel", Effect::RideEnds { ride_id: "a".into() }, scenario.now);
    scenario.receive("pia", "user.finder", json!({"user_id": "pia", "request_id": "q"}));
    scenario.checker.expect("pia", "finder.update", Effect::Search { request_id: "q".into() }, scenario.now);
    scenario.later(200);
    assert!(scenario.checker.is_settled(scenario.now));
    assert_eq!(scenario.end(), "");
}

#[test]
fn a_ride_needs_an_accepted_offer_that_was_not_rejected_and_a_request_of_its_own() {
    for reason in ["superseded", "cancelled"] {
        let mut rejected = found("m-a");
        rejected["reason"] = json!(reason);
        let mut scenario = Scenario::new();
        scenario
            .receive("dan", "match.rejected", rejected.clone())
            .step("d", "a", 1, "pickup")
            .step("p", "a", 1, "pickup");
        assert!(scenario.end().contains(&format!("was {reason} before")));
        let mut scenario = Scenario::new();
        scenario.receive("pia", "match.rejected", rejected.clone()).receive("pia", "match.rejected", rejected);
        assert!(scenario.end().contains("rejected two times at the passenger"));
    }

    let mut scenario = Scenario::new();
    let body = ride_body("a", 1, "pickup");
    scenario.receive("dan", "ride.pickup", body);
    assert!(scenario.end().contains("never accepted"));

    let mut scenario = Scenario::new();
    let mut second = found("m-bb");
    second["request_id"] = json!("req-m-a");
    scenario.complete_ride("a").receive("dan", "match.found", second);
    scenario.checker.accepting("m-bb", scenario.now);
    scenario.receive("dan", "ride.pickup", ride_body("bb", 1, "pickup"));
    assert!(scenario.end().contains("request req-m-a was served two times"));
}

#[test]
fn no_ride_may_come_of_a_search_that_has_ended() {
    let mut scenario = Scenario::new();
    scenario.checker.search_ended("req-m-a");
    scenario.step("dp", "a", 1, "pickup");
    assert!(scenario.end().contains("request req-m-a ended, and is the ride a"));

    let mut scenario = Scenario::new();
    scenario.step("dp", "a", 1, "pickup");
    let end = json!({"user_id": "pia", "request_id": "req-m-a", "active": false});
    scenario.receive("pia", "user.finder", end);
    assert!(scenario.end().contains("request req-m-a ended, and is the ride a"));
}

#[test]
fn both_parties_must_receive_the_events_of_the_match() {
    let mut scenario = Scenario::new();
    scenario.complete_ride("a").checker.offers.get_mut("m-a").unwrap().accepted[1] = false;
    assert_eq!(scenario.end(), "ride a: the passenger never got match.accepted");
}

#[test]
fn events_of_others_and_of_unknown_types_are_violations() {
    let mut scenario = Scenario::new();
    let mut other = found("m-a");
    other["passenger_id"] = json!("eve");
    scenario.receive("pia", "match.found", other).receive("pia", "payment.capture", json!({}));
    scenario.receive("dan", "user.beacon", json!({"user_id": "eve"}));
    let found = scenario.end();
    for named in ["stranger's match.found", "payment.capture, which is not for clients", "stranger's user.beacon"] {
        assert!(found.contains(named), "{found}");
    }
}

#[test]
fn a_ride_without_a_user_is_a_ride_of_others() {
    let mut scenario = Scenario::new();
    scenario.complete_ride("a");
    assert_eq!(scenario.checker.ride_without("eve", "zzz"), Some("a".to_owned()));
    assert_eq!(scenario.checker.ride_without("dan", ""), None);
}

#[test]
fn a_version_that_nobody_has_received_is_waited_for() {
    let mut scenario = Scenario::new();
    scenario.step("dp", "a", 1, "pickup").step("dp", "a", 2, "started").step("dp", "a", 4, "completed");
    assert!(!scenario.checker.is_settled(scenario.now));
    scenario.step("dp", "a", 3, "arrived");
    assert!(scenario.checker.is_settled(scenario.now));
    assert_eq!(scenario.end(), "");
}

fn place(north: f64) -> Position {
    Position { lat: 40.0 + north / 1e3, lng: -73.0 }
}

fn live(ride: &str, north: f64, eta_to: EtaTo) -> LivePosition {
    LivePosition {
        ride_id: ride.to_owned(),
        location: place(north),
        heading_deg: None,
        speed_mps: None,
        recorded_at: "2026-01-01T00:00:00Z".parse().unwrap(),
        eta_s: 1.0,
        eta_to,
        stale: false,
    }
}

impl Scenario {
    fn drive(&mut self, ride: &str, north: f64) -> &mut Self {
        self.checker.position_sent(ride, place(north), self.now);
        self
    }

    fn see(&mut self, user: &str, live: &LivePosition) -> Option<u64> {
        self.checker.live_position(user, live, self.now).map(|age| age.as_secs())
    }
}

#[test]
fn each_position_of_the_driver_or_a_later_one_is_seen_in_time() {
    let mut scenario = Scenario::new();
    // Before the pickup nobody sees the driver.
    scenario.drive("a", 0.0).step("dp", "a", 1, "pickup").later(2);
    scenario.drive("a", 1.0).later(2).drive("a", 2.0).later(3).drive("a", 3.0);
    assert_eq!(scenario.see("pia", &live("a", 2.0, EtaTo::Pickup)), Some(3));
    assert_eq!(scenario.see("pia", &live("a", 1.0, EtaTo::Pickup)), None, "superseded");
    assert_eq!(scenario.later(7).see("pia", &live("a", 3.0, EtaTo::Pickup)), Some(7));
    // A connection that was lost or has just been made is an excuse.
    scenario.drive("a", 4.0).checker.disconnected("pia");
    let now = scenario.later(30).now;
    scenario.checker.connected("pia", now);
    scenario.drive("a", 5.0).later(30);
    assert_eq!((scenario.checker.violation_count(), scenario.checker.rides_seen_live()), (0, 1));
    scenario.drive("a", 6.0).later(9).later(9);
    assert_eq!(scenario.end(), "ride a: a position of the driver was not seen live 9.0 s after it was sent");
}

#[test]
fn a_live_position_is_shown_to_the_passenger_of_a_live_ride_alone() {
    let (pickup, dropoff) = (live("a", 1.0, EtaTo::Pickup), live("a", 1.0, EtaTo::Dropoff));
    let mut scenario = Scenario::new();
    scenario.step("dp", "a", 1, "pickup").see("pia", &pickup);
    scenario.see("pia", &dropoff);
    scenario.step("dp", "a", 2, "started").see("pia", &dropoff);
    assert_eq!(scenario.checker.violation_count(), 0);
    scenario.see("pia", &pickup);
    scenario.see("dan", &dropoff);
    scenario.step("dp", "a", 3, "arrived").step("dp", "a", 4, "completed").see("pia", &dropoff);
    let found = scenario.end();
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!(lines.len(), 3, "{found}");
    assert!(lines[0].contains("to the pickup after the start"), "{found}");
    assert!(lines[1].starts_with("dan got") && lines[2].starts_with("pia got"), "{found}");
}

#[test]
fn a_state_that_is_not_what_the_events_say_is_a_violation() {
    let ride = |version: u64, status: &str| json!({"ride_id": "a", "version": version, "status": status});
    let with_pin = |mut ride: Value| {
        ride["pin"] = json!("1234");
        ride
    };
    let compare = |user: &str, ride: Value| {
        let mut scenario = Scenario::new();
        scenario.step("dp", "a", 1, "pickup").step("d", "a", 2, "started");
        scenario.checker.compare_state(user, &json!({"seq": 4, "ride": ride}));
        scenario.checker.violations().join("\n")
    };
    assert_eq!(compare("dan", ride(2, "started")), "");
    assert_eq!(compare("pia", with_pin(ride(1, "pickup"))), "");
    assert!(compare("dan", Value::Null).contains("the state shows None"));
    assert!(compare("dan", ride(1, "pickup")).contains("version: 1"));
    assert!(compare("pia", ride(1, "pickup")).contains("a PIN in the state of the passenger: false"));
    assert!(compare("dan", with_pin(ride(2, "started"))).contains("a PIN in the state of the driver: true"));

    let mut scenario = Scenario::new();
    scenario.complete_ride("a").checker.compare_state("pia", &json!({"seq": 6, "ride": ride(4, "completed")}));
    assert!(scenario.checker.violations().join("\n").contains("the events up to its seq None"));

    let mut scenario = Scenario::new();
    scenario.checker.search_ended("r");
    scenario.checker.state_received("pia", &json!({"seq": 6, "search": {"request_id": "q"}}), 6);
    assert_eq!(scenario.checker.violation_count(), 0);
    scenario.checker.state_received("pia", &json!({"seq": 6, "search": {"request_id": "r"}}), 7);
    assert_eq!(scenario.checker.violation_count(), 2, "{:?}", scenario.checker.violations());
}

#[test]
fn of_a_ride_with_a_stranger_only_the_simulated_party_is_checked() {
    let stranger = [("passenger_id", json!("sam"))];
    let mut scenario = Scenario::new();
    scenario.step_with("d", "a", 1, "pickup", &stranger).step_with("d", "a", 2, "cancelled", &stranger);
    assert!(scenario.checker.is_settled(scenario.now));
    assert_eq!(scenario.end(), "");

    let mut scenario = Scenario::new();
    scenario.step_with("d", "a", 1, "pickup", &stranger).step_with("d", "a", 3, "arrived", &stranger);
    let wrong = scenario.end();
    assert!(wrong.contains("ride a: nobody got version 2 of 3"), "{wrong}");
}
