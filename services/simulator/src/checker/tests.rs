//! The checker, shown one wrong thing at a time.

use serde_json::{Value, json};

use super::*;

struct City {
    checks: Checks,
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

impl City {
    fn new() -> Self {
        let now = crate::clock::now();
        let mut checks = Checks::default();
        for (user, party) in [("dan", Party::Driver), ("pia", Party::Passenger)] {
            checks.joined(user, party);
            checks.presence(user, Some(now));
        }
        Self { checks, now }
    }

    fn send(&mut self, user: &str, kind: &str, data: Value) -> &mut Self {
        let event = Event { kind: kind.into(), seq: 0, event_id: String::new(), data };
        self.checks.event(user, &event, self.now);
        self
    }

    /// A step of a ride, to those of "dp" that are named.
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
                self.checks.accepting(&format!("m-{ride}"), self.now);
                for kind in ["match.found", "match.accepted"] {
                    self.send(user, kind, found(&format!("m-{ride}")));
                }
            }
            self.send(user, &format!("ride.{status}"), body);
        }
        self
    }

    fn whole(&mut self, ride: &str) -> &mut Self {
        for (version, status) in [(1, "pickup"), (2, "started"), (3, "arrived"), (4, "completed")] {
            self.step("dp", ride, version, status);
        }
        self
    }

    fn later(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self.checks.sweep(self.now);
        self
    }

    fn end(&mut self) -> String {
        self.checks.finish(self.now + Duration::from_secs(60), Duration::from_secs(10));
        self.checks.texts().join("\n")
    }
}

fn found(id: &str) -> Value {
    json!({
        "match_id": id, "request_id": format!("req-{id}"), "driver_id": "dan", "passenger_id": "pia",
        "found_at": "2026-01-01T00:00:00.000Z", "expires_at": "2026-01-01T00:00:15.000Z",
    })
}

#[test]
fn a_whole_ride_and_a_cancelled_one_are_fine() {
    let mut city = City::new();
    assert_eq!(city.whole("a").end(), "");
    assert!(city.checks.is_quiet(city.now));
    let finals = city.checks.final_rides();
    assert_eq!((finals.len(), finals[0].status, finals[0].total), (1, Status::Completed, Some(100)));

    let mut city = City::new();
    city.step("dp", "a", 1, "pickup").step("dp", "a", 2, "cancelled");
    assert_eq!(city.end(), "");
}

#[test]
fn each_wrong_step_is_named() {
    type Script = for<'a> fn(&'a mut City) -> &'a mut City;
    let cases: [(&str, Script); 14] = [
        ("is in 2 live rides", |c| c.step("dp", "a", 1, "pickup").step("d", "bb", 1, "pickup")),
        ("never got version 2 (started)", |c| c.step("dp", "a", 1, "pickup").step("d", "a", 2, "started")),
        ("nobody got version 2", |c| c.step("dp", "a", 1, "pickup").step("dp", "a", 3, "arrived")),
        ("arrived as version 2 after pickup", |c| c.step("dp", "a", 1, "pickup").step("dp", "a", 2, "arrived")),
        ("cancelled as version 4 after arrived", |c| {
            c.step("dp", "a", 1, "pickup").step("dp", "a", 2, "started");
            c.step("dp", "a", 3, "arrived").step("dp", "a", 4, "cancelled")
        }),
        ("charged two times", |c| c.whole("a").step("p", "a", 4, "completed")),
        ("completed as version 5 after completed", |c| c.whole("a").step("dp", "a", 5, "completed")),
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
            c.whole("a").step_with("dp", "bb", 1, "pickup", &[("occurred_at", json!("2026-01-01T00:03:30.000Z"))])
        }),
    ];
    for (named, script) in cases {
        let mut city = City::new();
        script(&mut city);
        let found = city.end();
        assert!(found.contains(named), "expected `{named}` among: {found}");
    }
}

#[test]
fn versions_may_come_late_but_are_counted() {
    let mut city = City::new();
    city.step("dp", "a", 1, "pickup").step("d", "a", 2, "started").step("d", "a", 3, "arrived");
    city.step("p", "a", 3, "arrived").step("p", "a", 2, "started");
    assert_eq!(city.end(), "");
    assert_eq!(city.checks.late_versions(), 1);
}

#[test]
fn an_offer_must_end_for_both() {
    let mut city = City::new();
    city.send("dan", "match.found", found("m-a")).send("pia", "match.found", found("m-a"));
    let mut rejected = found("m-a");
    rejected["reason"] = json!("expired");
    city.later(20).send("dan", "match.rejected", rejected).later(20);
    assert_eq!(city.checks.texts(), Vec::<String>::new());
    city.later(60);
    let texts = city.checks.texts();
    assert!(texts.len() == 1 && texts[0].contains("neither ride nor rejection for pia"), "{texts:?}");
}

#[test]
fn an_acked_command_must_have_its_effect_while_one_is_connected() {
    let mut city = City::new();
    city.step("dp", "a", 1, "pickup");
    city.checks.acked("dan", "ride.start", Want::Reaches("a".into(), Status::Started), city.now);
    city.checks.presence("dan", None);
    city.later(100);
    assert_eq!(city.checks.count(), 0, "nobody was there to see it");
    city.checks.presence("dan", Some(city.now));
    city.later(10);
    assert_eq!(city.checks.count(), 0, "just back");
    city.later(15);
    assert!(city.checks.texts()[0].contains("ride.start acked, but no ride.started for dan"));
    assert!(!city.checks.is_quiet(city.now) || city.checks.count() == 1);
}

#[test]
fn an_expected_effect_that_came_is_forgotten() {
    let mut city = City::new();
    city.whole("a");
    city.checks.acked("dan", "ride.arrive", Want::Reaches("a".into(), Status::Completed), city.now);
    city.checks.acked("pia", "ride.cancel", Want::Ends("a".into()), city.now);
    city.send("pia", "user.finder", json!({"user_id": "pia", "request_id": "q"}));
    city.checks.acked("pia", "finder.update", Want::Search("q".into()), city.now);
    city.later(200);
    assert!(city.checks.is_quiet(city.now));
    assert_eq!(city.end(), "");
}

#[test]
fn offers_and_rides_agree() {
    let mut superseded = found("m-a");
    superseded["reason"] = json!("superseded");
    let mut city = City::new();
    city.send("dan", "match.rejected", superseded).step("d", "a", 1, "pickup").step("p", "a", 1, "pickup");
    assert!(city.end().contains("was superseded before"));

    let mut city = City::new();
    let body = ride_body("a", 1, "pickup");
    city.send("dan", "ride.pickup", body);
    assert!(city.end().contains("never accepted"));

    let mut city = City::new();
    let mut second = found("m-bb");
    second["request_id"] = json!("req-m-a");
    city.whole("a").send("dan", "match.found", second);
    city.checks.accepting("m-bb", city.now);
    city.send("dan", "ride.pickup", ride_body("bb", 1, "pickup"));
    assert!(city.end().contains("request req-m-a was served two times"));
}

#[test]
fn both_must_get_the_events_of_the_match() {
    let mut city = City::new();
    city.whole("a").checks.offers.get_mut("m-a").unwrap().accepted[1] = false;
    assert_eq!(city.end(), "ride a: the passenger never got match.accepted");
}

#[test]
fn others_business_and_unknown_kinds_are_refused() {
    let mut city = City::new();
    let mut other = found("m-a");
    other["passenger_id"] = json!("eve");
    city.send("pia", "match.found", other).send("pia", "payment.capture", json!({}));
    city.send("dan", "user.beacon", json!({"user_id": "eve"}));
    let found = city.end();
    for named in ["stranger's match.found", "payment.capture, which is not for clients", "stranger's user.beacon"] {
        assert!(found.contains(named), "{found}");
    }
}

#[test]
fn trespassers_find_a_ride_of_others() {
    let mut city = City::new();
    city.whole("a");
    assert_eq!(city.checks.ride_of_others("eve", "zzz"), Some("a".to_owned()));
    assert_eq!(city.checks.ride_of_others("dan", ""), None);
}

#[test]
fn a_step_that_nobody_has_seen_yet_is_waited_for() {
    let mut city = City::new();
    city.step("dp", "a", 1, "pickup").step("dp", "a", 2, "started").step("dp", "a", 4, "completed");
    assert!(!city.checks.is_quiet(city.now));
    city.step("dp", "a", 3, "arrived");
    assert!(city.checks.is_quiet(city.now));
    assert_eq!(city.end(), "");
}
