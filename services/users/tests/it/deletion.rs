//! The end of an account, and the export of what is stored of a person, on both stores.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{Request, header};
use http_body_util::BodyExt;
use platform::On;
use serde_json::{Value, json};
use sqlx::Row;
use streams::debts::{DEBTS, DebtView};
use streams::person::{PERSON, PersonList, PersonPage, PersonRequest};
use streams::{RideId, RideStatus, UserId};
use testing::{Backend, on_both_stores};
use tokio::task::JoinHandle;
use tower::ServiceExt;
use users::{DriverStatus, SocketRequest};
use uuid::Uuid;

use crate::client::{match_id, trip};
use crate::commands::Pair;
use crate::pods::{Cluster, HERE, Pod, THERE};

on_both_stores!(
    an_account_ends_and_nothing_of_the_person_stays,
    an_account_does_not_end_before_the_search_the_ride_and_the_debts,
    a_suspended_driver_does_not_come_back_as_approved,
    what_rides_has_of_a_person_is_in_the_export_and_erased_with_the_account,
);

const PHONE: &str = "+12125554701";

/// The status and the body of a request to this pod.
async fn call(pod: &Pod, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, "Anns Phone")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Body::from(body.to_string()))
        .unwrap();
    let response = pod.users.routes().into_router().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

async fn signed_in(pod: &Pod) -> Value {
    let (_, sent) = call(pod, "POST", "/v1/auth/otp", "", json!({"phone": PHONE})).await;
    let body = json!({"phone": PHONE, "code": sent["code"]});
    let (status, given) = call(pod, "POST", "/v1/auth/token", "", body).await;
    assert_eq!(status, 200, "{given}");
    given
}

/// Answers for rides: everybody owes `debts`.
async fn answer_debts(cluster: &Cluster, debts: &Arc<Mutex<Vec<DebtView>>>) -> JoinHandle<()> {
    let mut requests = cluster.bus.subscribe(DEBTS, Some(DEBTS)).await.unwrap();
    let (bus, debts) = (cluster.bus.clone(), debts.clone());
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            let reply = serde_json::to_vec(&*debts.lock().unwrap()).unwrap();
            bus.publish_core(&message.reply.unwrap(), reply.into()).await.unwrap();
        }
    })
}

/// Answers for rides about people: one rating given on each of two pages, none received. Says which were to be erased.
async fn answer_person(cluster: &Cluster, erased: &Arc<Mutex<Vec<UserId>>>) -> JoinHandle<()> {
    let mut requests = cluster.bus.subscribe(PERSON, Some(PERSON)).await.unwrap();
    let (bus, erased) = (cluster.bus.clone(), erased.clone());
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            let reply = match serde_json::from_slice(&message.payload).unwrap() {
                PersonRequest::Export { list: PersonList::RatingsGiven, after, .. } => {
                    let next = after.is_none().then(|| Uuid::from_u128(7));
                    let entries = vec![json!({"stars": if after.is_none() { 4 } else { 5 }})];
                    serde_json::to_vec(&PersonPage { entries, next })
                }
                PersonRequest::Export { .. } => serde_json::to_vec(&PersonPage { entries: Vec::new(), next: None }),
                PersonRequest::Erase { users } => {
                    erased.lock().unwrap().extend(users);
                    serde_json::to_vec(&true)
                }
            };
            bus.publish_core(&message.reply.unwrap(), reply.unwrap().into()).await.unwrap();
        }
    })
}

/// All that the tables of users have, but for what passes through.
async fn dump(cluster: &Cluster) -> String {
    let mut tx = cluster.store.begin().await.unwrap();
    match tx.on() {
        On::Memory(tables) => format!("{tables:?}"),
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select concat_ws(';', (select string_agg(t::text, ';') from users t), \
                 (select string_agg(t::text, ';') from drivers t), (select string_agg(t::text, ';') from user_sign_ins t), \
                 (select string_agg(t::text, ';') from sign_ins t), (select string_agg(t::text, ';') from otp_codes t), \
                 (select string_agg(t::text, ';') from otps t), (select string_agg(t::text, ';') from otp_requests t), \
                 (select string_agg(t::text, ';') from mailbox t), (select string_agg(t::text, ';') from mailbox_heads t), \
                 (select string_agg(t::text, ';') from mailbox_devices t), (select string_agg(t::text, ';') from beacons t), \
                 (select string_agg(t::text, ';') from searches t), (select string_agg(t::text, ';') from offers t), \
                 (select string_agg(t::text, ';') from live_rides t), \
                 (select string_agg(t::text, ';') from push_devices t)) as text",
            );
            row.fetch_one(&mut *pg).await.unwrap().get("text")
        }
    }
}

/// What of the person is in the tables. A phone is shown by its last digits in memory.
fn found_in(dump: &str) -> Vec<&'static str> {
    let texts = ["Ann Lee", "Anns Phone", "ERASE 1", "ERASE1", "ann-device", "4701", "user.beacon", "token-of-ann"];
    texts.into_iter().filter(|text| dump.contains(text)).collect()
}

async fn an_account_ends_and_nothing_of_the_person_stays(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let (mut pod, mut other) = (cluster.pod("one").await, cluster.pod("two").await);
    let answering = answer_debts(&cluster, &Arc::default()).await;
    let answering_person = answer_person(&cluster, &Arc::default()).await;
    let given = signed_in(&pod).await;
    let token = given["access_token"].as_str().unwrap();
    assert_eq!(call(&pod, "PATCH", "/v1/me", token, json!({"name": "Ann Lee"})).await.0, 200);
    let vehicle = json!({"vehicle_type": "car", "plate": "erase 1"});
    assert_eq!(call(&pod, "POST", "/v1/drivers", token, vehicle.clone()).await.0, 201);
    let push_device = json!({"platform": "fcm", "token": "push:token-of-ann"});
    assert_eq!(call(&pod, "POST", "/v1/devices", token, push_device).await.0, 201);
    let access = other.tokens.verify(token).unwrap();
    let user = access.user;
    // On another pod than the deletion.
    let socket = SocketRequest::new(access, None).on_device("ann-device").unwrap();
    let mut socket = other.connect_with(socket).await;
    socket.ack("beacon.update", json!({"active": true, "location": HERE})).await;
    socket.event_of("user.beacon").await;
    call(&pod, "POST", "/v1/auth/otp", "", json!({"phone": PHONE})).await;

    let (status, export) = call(&pod, "GET", "/v1/me/export", token, Value::Null).await;
    assert_eq!(status, 200, "{export}");
    let profile = &export["profile"];
    assert_eq!((&profile["phone"], &profile["name"]), (&json!(PHONE), &json!("Ann Lee")));
    assert_eq!(
        (&profile["driver"]["plate"], &export["sign_ins"][0]["device"]),
        (&json!("ERASE 1"), &json!("Anns Phone"))
    );
    assert_eq!(export["devices"][0]["device"], "ann-device");
    assert_eq!(export["push_devices"][0]["platform"], "fcm");
    assert!(!export.to_string().contains("token-of-ann"), "{export}");
    assert_eq!(
        (&export["mailbox"]["last_seq"], &export["mailbox"]["events"][0]["type"]),
        (&json!(1), &json!("user.beacon"))
    );
    assert_eq!(export["mailbox"]["events"][0]["data"]["user_id"], json!(user));
    assert_eq!((&export["state"]["beacon"]["active"], &export["rides"]["href"]), (&json!(true), &json!("/v1/rides")));
    assert!(export["created_at"].is_string() && export["driver_since"].is_string(), "{export}");
    assert_eq!(found_in(&dump(&cluster).await).len(), 8);

    assert_eq!(call(&pod, "DELETE", "/v1/me", token, Value::Null).await, (204, Value::Null));
    let (_, code) = socket.end().await;
    assert_eq!(code, 4001);
    for (method, path) in [("GET", "/v1/me"), ("DELETE", "/v1/me"), ("GET", "/v1/me/export")] {
        assert_eq!(call(&pod, method, path, token, Value::Null).await.0, 401, "{method} {path}");
    }
    assert_eq!(
        call(&pod, "POST", "/v1/auth/refresh", "", json!({"refresh_token": given["refresh_token"]})).await.0,
        401
    );
    // What comes late has no entry: when another user has the later event, it has passed.
    let witness = pod.passenger("+12125554702").await;
    let mut w = pod.connect(witness, None).await;
    cluster.publish_searches(user, 1).await;
    cluster.publish_searches(witness, 1).await;
    w.event_of("user.finder").await;
    assert_eq!(found_in(&dump(&cluster).await), [""; 0]);

    // A token of the version before names no sign-in. It finds nobody, and a repeat has no effect.
    assert_eq!(pod.http(user, "PATCH", "/v1/me", json!({"name": "Ann Lee"})).await.0, 401);
    assert_eq!(pod.command(user, "finder.update", trip(THERE)).await, Err("401 unauthorized -".to_owned()));
    assert_eq!(pod.http(user, "POST", "/v1/drivers", vehicle.clone()).await.0, 401);
    assert_eq!(pod.http(user, "DELETE", "/v1/me", Value::Null).await.0, 204);
    assert_eq!(pod.connect(user, Some(0)).await.last_seq, 0);

    // The phone and the plate are free.
    let again = signed_in(&pod).await;
    let expected =
        json!({"id": again["user"]["id"], "phone": PHONE, "name": null, "roles": ["passenger"], "driver": null});
    assert_eq!(again["user"], expected);
    assert_ne!(again["user"]["id"], given["user"]["id"]);
    let (status, _) = call(&pod, "POST", "/v1/drivers", again["access_token"].as_str().unwrap(), vehicle).await;
    assert_eq!(status, 201);
    answering.abort();
    answering_person.abort();
    pod.stop().await;
    other.stop().await;
}

async fn an_account_does_not_end_before_the_search_the_ride_and_the_debts(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 471, 60).await;
    let delete = async |user| {
        let (status, problem) = pod.http(user, "DELETE", "/v1/me", Value::Null).await;
        problem["code"].as_str().map_or(status.as_str().to_owned(), str::to_owned)
    };
    assert_eq!(delete(pair.passenger).await, "unavailable", "nobody says what is owed");
    let debts = Arc::new(Mutex::new(Vec::new()));
    let answering = answer_debts(&cluster, &debts).await;
    assert_eq!(delete(pair.passenger).await, "ride_live", "a search");
    pair.d.ack("match.accept", match_id(&pair.found)).await;
    assert_eq!((delete(pair.passenger).await, delete(pair.driver).await), ("ride_live".into(), "ride_live".into()));
    let ride: RideId = cluster.world.id();
    cluster.publish(&cluster.ride(ride, &pair.found, 1, RideStatus::Pickup)).await;
    pair.d.event_of("ride.pickup").await;
    assert_eq!((delete(pair.passenger).await, delete(pair.driver).await), ("ride_live".into(), "ride_live".into()));
    cluster.publish(&cluster.ride(ride, &pair.found, 2, RideStatus::Cancelled)).await;
    let end = pair.d.event_of("ride.cancelled").await;
    assert_eq!(end["data"]["passenger"], json!({"name": null, "rating": null}));
    let amount = streams::Money::usd(700);
    debts.lock().unwrap().push(DebtView {
        debt_id: cluster.world.id(),
        ride_id: ride,
        amount,
        since: cluster.world.now(),
    });
    assert_eq!(delete(pair.passenger).await, "debt_open");
    debts.lock().unwrap().clear();
    assert_eq!(delete(pair.passenger).await, "204");
    // The other party is shown nobody.
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    cluster.publish(&cluster.ride(ride, &pair.found, 3, RideStatus::Cancelled)).await;
    let shown = pair.d.event_of("ride.cancelled").await;
    assert_eq!((&shown["data"]["version"], &shown["data"]["passenger"]), (&json!(3), &Value::Null));

    // An open offer is withdrawn, and the passenger's search goes on.
    let mut next = Pair::offered(&cluster, &pod, 472, 60).await;
    assert_eq!(delete(next.driver).await, "204");
    assert_eq!(next.p.event_of("match.rejected").await["data"]["reason"], "declined");
    assert!(!pod.state(next.passenger).await["search"].is_null());
    answering.abort();
    pod.stop().await;
}

async fn what_rides_has_of_a_person_is_in_the_export_and_erased_with_the_account(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let answering_debts = answer_debts(&cluster, &Arc::default()).await;
    let user = pod.passenger("+12125554731").await;
    let (status, problem) = pod.http(user, "GET", "/v1/me/export", Value::Null).await;
    assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("unavailable")), "all or nothing");
    // Nobody erases it now: the purge has it done.
    assert_eq!(pod.http(user, "DELETE", "/v1/me", Value::Null).await.0, 204);

    let erased = Arc::default();
    let answering = answer_person(&cluster, &erased).await;
    let other = pod.passenger("+12125554732").await;
    let (status, export) = pod.http(other, "GET", "/v1/me/export", Value::Null).await;
    assert_eq!(status.as_u16(), 200, "{export}");
    let given: Vec<_> =
        export["ratings_given"].as_array().unwrap().iter().map(|rating| rating["stars"].clone()).collect();
    assert_eq!((&given[..], &export["ratings_received"]), (&[json!(4), json!(5)][..], &json!([])));
    assert_eq!(pod.http(other, "DELETE", "/v1/me", Value::Null).await.0, 204);
    assert_eq!(*erased.lock().unwrap(), [other], "at once");
    pod.stop().await;
    // A process whose clock is an hour later: its purge erases what nobody has confirmed.
    erased.lock().unwrap().clear();
    let purge = async |pod: &Pod| pod.users.purge().await.unwrap();
    let mut later = cluster.later(chrono::Duration::hours(1)).pod("two").await;
    purge(&later).await;
    assert_eq!(erased.lock().unwrap().iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([user, other]));
    erased.lock().unwrap().clear();
    purge(&later).await;
    assert_eq!(*erased.lock().unwrap(), [], "confirmed");
    answering.abort();
    answering_debts.abort();
    later.stop().await;
}

async fn a_suspended_driver_does_not_come_back_as_approved(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let answering = answer_debts(&cluster, &Arc::default()).await;
    let registered = async |pod: &Pod, user: UserId, plate: &str| {
        let (status, profile) =
            pod.http(user, "POST", "/v1/drivers", json!({"vehicle_type": "car", "plate": plate})).await;
        assert_eq!(status.as_u16(), 201, "{profile}");
        profile["driver"]["status"].as_str().unwrap().to_owned()
    };
    let suspended = async |phone: &str, plate: &str| {
        let user = pod.passenger(phone).await;
        assert_eq!(registered(&pod, user, plate).await, "approved");
        pod.users.set_driver_status(user, DriverStatus::Suspended).await.unwrap();
        user
    };
    let gone = async |user: UserId| assert_eq!(pod.http(user, "DELETE", "/v1/me", Value::Null).await.0, 204);
    let (phone, other_phone) = ("+12125554741", "+12125554742");
    gone(suspended(phone, "SUS 1").await).await;
    // With the phone: suspended, whatever the plate. With the plate alone: an operator decides, also after a change of vehicle.
    let again = pod.passenger(phone).await;
    assert_eq!(registered(&pod, again, "NEW 1").await, "suspended");
    let other = pod.passenger(other_phone).await;
    assert_eq!(registered(&pod, other, "sus-1").await, "pending");
    gone(other).await;
    let third = pod.passenger("+12125554743").await;
    assert_eq!(registered(&pod, third, "NEW 3").await, "approved");
    let (_, changed) = pod.http(third, "PATCH", "/v1/drivers", json!({"plate": "SUS1"})).await;
    assert_eq!(changed["driver"]["status"], "pending");
    // A suspended driver who changes the plate before the deletion is known by both.
    assert_eq!(pod.http(again, "PATCH", "/v1/drivers", json!({"plate": "NEW 2"})).await.0, 200);
    gone(again).await;
    let fourth = pod.passenger(other_phone).await;
    assert_eq!(registered(&pod, fourth, "NEW 1").await, "pending");
    // An operator's approval is the end of it.
    pod.users.set_driver_status(fourth, DriverStatus::Approved).await.unwrap();
    gone(fourth).await;
    let fifth = pod.passenger(other_phone).await;
    assert_eq!(registered(&pod, fifth, "NEW 1").await, "approved");
    // And so is the time of the setting.
    let mut later = cluster.later(chrono::Duration::days(366)).pod("two").await;
    later.users.purge().await.unwrap();
    let sixth = later.passenger(phone).await;
    assert_eq!(registered(&later, sixth, "NEW 2").await, "approved");
    answering.abort();
    pod.stop().await;
    later.stop().await;
}
