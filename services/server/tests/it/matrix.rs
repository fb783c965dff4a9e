//! Who may do what: every route and every command, by every role, on an own, a foreign and an unknown object.
//!
//! The rows come from the routers and from the table of commands, so that a new route or command without a row here fails. What
//! must hold for all: without a valid token nothing but 401; a foreign object is answered byte for byte as one that does not
//! exist. The rest is a snapshot: a changed cell is a changed promise.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::harness::client::{Person, Socket, http};
use crate::harness::ride::{at, online, trip};
use crate::harness::running::{Running, Shape};

/// Of nobody: a ride, an offer or a sign-in that does not exist.
const UNKNOWN: &str = "0190b7a0-0000-7000-8000-000000000001";

#[derive(Clone, Copy, PartialEq)]
enum Access {
    /// Without a token: sign-in, prices, and what a load balancer asks.
    Public,
    /// Without a token, but not through the ingress.
    Operators,
    SignedIn,
}

struct RouteRow {
    access: Access,
    query: &'static str,
    body: Option<Value>,
}

fn row(access: Access) -> RouteRow {
    RouteRow { access, query: "", body: None }
}

fn body(access: Access, body: Value) -> RouteRow {
    RouteRow { access, query: "", body: Some(body) }
}

fn query(access: Access, query: &'static str) -> RouteRow {
    RouteRow { access, query, body: None }
}

/// How each route is called. `{id}` is put in by the test.
fn routes() -> BTreeMap<&'static str, RouteRow> {
    use Access::{Operators, Public, SignedIn};
    BTreeMap::from([
        ("GET /health/live", row(Public)),
        ("GET /health/ready", row(Operators)),
        ("GET /metrics", row(Operators)),
        ("GET /stats", row(Operators)),
        // The console's files are the same for everybody; what they show needs an operator's token.
        ("GET /console", row(Operators)),
        ("GET /console/", row(Operators)),
        ("GET /console/{*page}", row(Operators)),
        ("GET /console/assets/{file}", row(Operators)),
        ("GET /openapi.json", row(Public)),
        ("GET /asyncapi.json", row(Public)),
        ("GET /docs", row(Public)),
        ("GET /docs/page.js", row(Public)),
        ("GET /docs/page.css", row(Public)),
        ("POST /v1/auth/otp", body(Public, json!({"phone": "+12122340099"}))),
        ("POST /v1/auth/token", body(Public, json!({"phone": "+12122340098", "code": "000000"}))),
        ("POST /v1/auth/refresh", body(Public, json!({"refresh_token": "none"}))),
        ("POST /v1/auth/sign-out", body(SignedIn, json!({"everywhere": false}))),
        ("GET /v1/auth/sign-ins", row(SignedIn)),
        ("DELETE /v1/auth/sign-ins/{id}", row(SignedIn)),
        ("GET /v1/me", row(SignedIn)),
        ("PATCH /v1/me", body(SignedIn, json!({"name": "Ann"}))),
        ("DELETE /v1/me", row(SignedIn)),
        ("GET /v1/me/export", row(SignedIn)),
        ("GET /v1/me/missed-offers", row(SignedIn)),
        ("POST /v1/me/phone", body(SignedIn, json!({"phone": "none"}))),
        ("POST /v1/me/phone/confirm", body(SignedIn, json!({"change_id": UNKNOWN, "old_code": "1", "new_code": "2"}))),
        ("POST /v1/drivers", body(SignedIn, json!({"vehicle_type": "boat", "plate": "X"}))),
        ("PATCH /v1/drivers", body(SignedIn, json!({"vehicle_type": "boat"}))),
        ("GET /v1/state", row(SignedIn)),
        ("POST /v1/commands", body(SignedIn, json!({"type": "beacon.update", "data": {"active": false}}))),
        ("POST /v1/devices", body(SignedIn, json!({"platform": "fcm", "token": "not a token"}))),
        ("GET /v1/devices", row(SignedIn)),
        ("DELETE /v1/devices", body(SignedIn, json!({"device_id": UNKNOWN}))),
        ("DELETE /v1/devices/{id}", row(SignedIn)),
        ("GET /v1/ws", row(SignedIn)),
        ("GET /v1/rides", row(SignedIn)),
        ("GET /v1/rides/{id}", row(SignedIn)),
        ("POST /v1/rides/{id}/share", body(SignedIn, json!({}))),
        ("GET /v1/rides/{id}/share", row(SignedIn)),
        ("DELETE /v1/rides/{id}/share/{share_id}", row(SignedIn)),
        ("GET /v1/shares/{token}", row(Public)),
        ("GET /s/{token}", row(Public)),
        ("POST /v1/rides/{id}/sos", body(SignedIn, json!({"note": "help"}))),
        ("POST /v1/rides/{id}/rating", body(SignedIn, json!({"stars": 5}))),
        ("GET /v1/estimates", query(Public, "?pickup=40,-73&dropoff=40.1,-73&vehicle_type=car")),
        ("GET /v1/drivers/nearby", query(SignedIn, "?lat=40.75&lng=-73.98")),
    ])
}

/// The status, and the code of a problem.
fn outcome((status, body): &(u16, Value)) -> String {
    match body["code"].as_str().filter(|_| *status >= 400) {
        Some(code) => format!("{status} {code}"),
        None => status.to_string(),
    }
}

struct People {
    passenger: Person,
    driver: Person,
    stranger: Person,
    strange_driver: Person,
}

impl People {
    async fn new(running: &Running) -> Self {
        let addr = running.addr();
        Self {
            passenger: Person::passenger(addr, 1).await,
            driver: Person::driver(addr, 2).await,
            stranger: Person::passenger(addr, 3).await,
            strange_driver: Person::driver(addr, 4).await,
        }
    }

    fn all(&self) -> [(&'static str, &Person); 4] {
        [
            ("passenger", &self.passenger),
            ("driver", &self.driver),
            ("stranger", &self.stranger),
            ("strange driver", &self.strange_driver),
        ]
    }
}

/// A ride of the passenger and the driver that has not started: its id and the id of its match.
async fn ride(d: &mut Socket, p: &mut Socket) -> (String, String) {
    online(d, 40.751).await;
    p.ack("finder.update", trip()).await;
    let match_id = d.event("match.found").await["data"]["match_id"].clone();
    d.ack("match.accept", json!({"match_id": match_id})).await;
    let ride_id = d.event("ride.pickup").await["data"]["ride_id"].clone();
    p.event("ride.pickup").await;
    let text = |value: Value| value.as_str().unwrap().to_owned();
    (text(ride_id), text(match_id))
}

async fn sign_in_of(person: &Person) -> String {
    let (status, listed) = person.get("/v1/auth/sign-ins").await;
    assert_eq!(status, 200, "{listed}");
    listed["sign_ins"][0]["id"].as_str().unwrap_or_else(|| panic!("{listed}")).to_owned()
}

#[tokio::test]
async fn every_route_by_every_role() {
    let running = Running::start(Shape::Embedded, &["--limits", "admin_tokens_address=10000/1"]).await;
    let people = People::new(&running).await;
    let (mut d, mut p) = (people.driver.connect(None).await, people.passenger.connect(None).await);
    let (ride_id, _) = ride(&mut d, &mut p).await;
    let sign_in = sign_in_of(&people.passenger).await;
    let (status, share) =
        http(running.addr(), "POST", &format!("/v1/rides/{ride_id}/share"), Some(&people.passenger.token), None).await;
    assert_eq!(status, 201, "{share}");
    let (share_id, share_token) = (share["share_id"].as_str().unwrap(), share["token"].as_str().unwrap());
    let device = json!({"platform": "fcm", "token": "abc:def"});
    let (_, registered) =
        http(running.addr(), "POST", "/v1/devices", Some(&people.passenger.token), Some(device)).await;
    let device = registered["device_id"].as_str().unwrap_or_else(|| panic!("{registered}")).to_owned();
    let forged = {
        let mut token = people.passenger.token.clone();
        let last = if token.ends_with('A') { 'E' } else { 'A' };
        token.pop();
        token.push(last);
        token
    };

    let mut rows = routes();
    let mut text = String::new();
    // Ending a sign-in, and an account, comes last: what comes after it has no token.
    let mut listed: Vec<_> = running.apps[0].routes.iter().map(|r| format!("{} {}", r.method, r.path)).collect();
    listed.sort_by_key(|route| {
        let is_end = route == "DELETE /v1/me";
        let ends_sign_in = route.ends_with("sign-out") || route.contains("DELETE /v1/auth");
        (is_end, route.ends_with("sign-out"), ends_sign_in, route.contains("DELETE"), route.clone())
    });
    let (of_operators, listed): (Vec<_>, Vec<_>) = listed.into_iter().partition(|route| route.contains(" /admin/"));
    // What operators may do is in `admin/roles.rs`; a user's token is nothing there.
    for route in of_operators {
        let (method, path) = route.split_once(' ').unwrap();
        for (role, person) in people.all() {
            let refused = http(running.addr(), method, path, Some(&person.token), None).await;
            assert_eq!((refused.0, &refused.1["code"]), (401, &json!("unauthorized")), "{route} by a {role}");
        }
    }
    for route in listed {
        let row = rows.remove(route.as_str()).unwrap_or_else(|| panic!("{route} has no row in the matrix"));
        let (method, path) = route.split_once(' ').unwrap();
        let own = match path {
            _ if path.contains("sign-ins/") => &sign_in,
            _ if path.contains("devices/") => &device,
            _ => &ride_id,
        };
        let unknown = UNKNOWN;
        let at = |id: &str| {
            // Of an unknown ride the link is unknown too.
            let share_id = if id == ride_id { share_id } else { UNKNOWN };
            let path = path.replace("{share_id}", share_id).replace("{token}", share_token);
            format!("{}{}", path.replace("{id}", id), row.query)
        };
        let call =
            async |id: &str, token: Option<&str>| http(running.addr(), method, &at(id), token, row.body.clone()).await;
        writeln!(text, "{route}").unwrap();
        let nobody = call(own, None).await;
        writeln!(text, "  nobody: {}", outcome(&nobody)).unwrap();
        if row.access != Access::SignedIn {
            continue;
        }
        for token in ["", "a.b.c", &forged] {
            let refused = call(own, Some(token)).await;
            assert_eq!(
                (refused.0, &refused.1["code"]),
                (401, &json!("unauthorized")),
                "{route} with the token {token:?}"
            );
        }
        assert_eq!(nobody.0, 401, "{route} without a token");
        if !path.contains("{id}") {
            for (role, person) in people.all() {
                writeln!(text, "  {role}: {}", outcome(&call("", Some(&person.token)).await)).unwrap();
            }
            continue;
        }
        for (role, person) in [("stranger", &people.stranger), ("strange driver", &people.strange_driver)] {
            let (foreign, none) = (call(own, Some(&person.token)).await, call(unknown, Some(&person.token)).await);
            assert_eq!(foreign, none, "{route}: to a {role} a foreign object is as one that does not exist");
            writeln!(text, "  {role}: foreign and unknown {}", outcome(&foreign)).unwrap();
        }
        let none = call("none", Some(&people.passenger.token)).await;
        let (unknown, own) =
            (call(unknown, Some(&people.passenger.token)).await, call(own, Some(&people.passenger.token)).await);
        writeln!(text, "  owner: not an id {}, unknown {}, own {}", outcome(&none), outcome(&unknown), outcome(&own))
            .unwrap();
    }
    assert!(rows.is_empty(), "rows without a route: {:?}", rows.keys());
    running.stop().await;
    insta::assert_snapshot!("routes_by_role", text);
}

/// The `data` of each command, with a ride, an offer, and a token of its caller or of somebody else.
fn command_data(kind: &str, ride_id: &str, match_id: &str, token: &str) -> Option<Value> {
    Some(match kind {
        "beacon.update" => json!({"active": true, "location": at(40.9, -73.98)}),
        "finder.update" => json!({"active": false}),
        "location.update" => {
            json!({"location": at(40.75, -73.98), "recorded_at": platform::World::real().now().to_rfc3339()})
        }
        "match.accept" | "match.reject" => json!({"match_id": match_id}),
        "ride.start" => json!({"ride_id": ride_id, "pin": "none"}),
        "ride.wait" | "ride.arrive" => json!({"ride_id": ride_id}),
        "ride.cancel" => json!({"ride_id": ride_id, "reason": "x"}),
        "mailbox.ack" => json!({"seq": 1_000_000}),
        "auth.refresh" => json!({"access_token": token}),
        _ => return None,
    })
}

#[tokio::test]
async fn every_command_by_every_role() {
    let running = Running::start(Shape::Embedded, &[]).await;
    let people = People::new(&running).await;
    let (mut d, mut p) = (people.driver.connect(None).await, people.passenger.connect(None).await);
    let (ride_id, match_id) = ride(&mut d, &mut p).await;
    let (mut s, mut sd) = (people.stranger.connect(None).await, people.strange_driver.connect(None).await);
    let mut text = String::new();
    let mut kinds: Vec<_> = users::Users::frame_types().collect();
    // The cancellation ends the ride.
    kinds.sort_by_key(|kind| *kind == "ride.cancel");
    for kind in kinds {
        writeln!(text, "{kind}").unwrap();
        let data = |ride_id, match_id, token| {
            command_data(kind, ride_id, match_id, token).unwrap_or_else(|| panic!("{kind} has no row in the matrix"))
        };
        // The token of somebody else is the passenger's for all but the passenger.
        let foreign = data(&ride_id, &match_id, &people.passenger.token);
        let unknown = data(UNKNOWN, UNKNOWN, "a.b.c");
        for (role, socket) in [("stranger", &mut s), ("strange driver", &mut sd)] {
            let (foreign, unknown) = (answer(socket, kind, &foreign).await, answer(socket, kind, &unknown).await);
            if foreign != unknown {
                assert!(kind == "auth.refresh", "{kind}: to a {role} a foreign object is as one that does not exist");
            }
            writeln!(text, "  {role}: foreign {foreign}, unknown {unknown}").unwrap();
        }
        for (role, person, socket) in [("passenger", &people.passenger, &mut p), ("driver", &people.driver, &mut d)] {
            let own = data(&ride_id, &match_id, &person.token);
            let (unknown, own) = (answer(socket, kind, &unknown).await, answer(socket, kind, &own).await);
            writeln!(text, "  {role}: unknown {unknown}, own {own}").unwrap();
        }
    }
    running.stop().await;
    insta::assert_snapshot!("commands_by_role", text);
}

/// `ack`, or the error's code and field.
async fn answer(socket: &mut Socket, kind: &str, data: &Value) -> String {
    let frame = socket.command(kind, data.clone()).await;
    match frame["type"].as_str() {
        Some("ack") => "ack".to_owned(),
        _ => match frame["error"]["field"].as_str() {
            Some(field) => format!("{} ({field})", frame["error"]["code"].as_str().unwrap_or_default()),
            None => frame["error"]["code"].as_str().unwrap_or_default().to_owned(),
        },
    }
}
