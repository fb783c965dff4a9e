//! Commands: each takes effect once, however often it is repeated, and only for the user it belongs to.

use std::time::Duration;

use serde_json::{Value, json};
use streams::event::{LocationUpdate, RejectReason, UserFinder};
use streams::ride_command::{RIDE_COMMANDS, RideAction, RideCommand, RideReply};
use streams::{Event, RideId, RideStatus, Service, Subject, UserId};
use testing::{Backend, on_both_stores};

use crate::client::{Client, accepted_of, body, id_of, match_id, trip};
use crate::pods::{Cluster, HERE, Pod, THERE};

on_both_stores!(a_repeated_search_is_one_search, only_its_driver_answers_an_offer_and_only_once,);

async fn a_repeated_search_is_one_search(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let passenger = pod.passenger("+12125550201").await;
    let mut client = pod.connect(passenger, None).await;
    let first = client.ack("finder.update", trip(THERE)).await;
    // A repeat may come over another socket.
    let mut second_socket = pod.connect(passenger, None).await;
    assert_eq!(second_socket.ack("finder.update", trip(THERE)).await, first);
    assert_eq!(client.ack("finder.update", trip(THERE)).await, first);
    let second = client.ack("finder.update", trip(HERE)).await;
    assert_ne!(first, second, "another trip is another search");
    assert_eq!(client.ack("finder.update", json!({"active": false})).await, second);
    assert_eq!(client.ack("finder.update", json!({"active": false})).await, json!({"request_id": null}));
    let events: Vec<(bool, Value)> = search_events(&mut client, 4).await;
    let (first, second) = (first["request_id"].clone(), second["request_id"].clone());
    assert_eq!(events, [(true, first.clone()), (false, first), (true, second.clone()), (false, second)]);
    // Two concurrent commands are one search.
    let (one, two) =
        tokio::join!(client.ack("finder.update", trip(THERE)), second_socket.ack("finder.update", trip(THERE)));
    assert_eq!(one, two);
    client.ack("finder.update", json!({"active": false})).await;
    assert_eq!(search_events(&mut client, 2).await.len(), 2);
    pod.stop().await;
}

async fn search_events(client: &mut Client, count: usize) -> Vec<(bool, Value)> {
    let mut events = Vec::new();
    for _ in 0..count {
        let event = client.event().await;
        let finder: UserFinder = body(&event);
        events.push((finder.active, json!(finder.request_id)));
    }
    events
}

#[tokio::test(start_paused = true)]
async fn a_search_expires_after_its_time() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let passenger = pod.passenger("+12125550202").await;
    let mut client = pod.connect(passenger, None).await;
    let request = client.ack("finder.update", trip(THERE)).await;
    assert!(search_events(&mut client, 1).await[0].0);
    client.quiet(Duration::from_secs(268)).await;
    let near = client.event_of("user.finder").await;
    assert_eq!((&near["data"]["request_id"], &near["data"]["expires_in_s"]), (&request["request_id"], &30.into()));
    client.quiet(Duration::from_secs(28)).await;
    assert_eq!(search_events(&mut client, 1).await, [(false, request["request_id"].clone())]);
    assert_ne!(client.ack("finder.update", trip(THERE)).await, request);
    pod.stop().await;
}

/// A driver and a passenger who have both received an offer.
pub(crate) struct Pair {
    pub(crate) driver: UserId,
    pub(crate) passenger: UserId,
    pub(crate) d: Client,
    pub(crate) p: Client,
    pub(crate) found: streams::event::MatchFound,
}

impl Pair {
    pub(crate) async fn offered(cluster: &Cluster, pod: &Pod, number: u32, ttl_s: i64) -> Self {
        let driver = pod.driver(&format!("+1212556{number:04}")).await;
        let passenger = pod.passenger(&format!("+1212557{number:04}")).await;
        let (mut d, mut p) = (pod.connect(driver, None).await, pod.connect(passenger, None).await);
        let request = p.ack("finder.update", trip(THERE)).await;
        let request = streams::RequestId(id_of(&request, "request_id"));
        let found = cluster.found(driver, passenger, request, ttl_s);
        cluster.publish(&Event::MatchFound(found.clone())).await;
        d.event_of("match.found").await;
        p.event_of("match.found").await;
        Self { driver, passenger, d, p, found }
    }
}

async fn only_its_driver_answers_an_offer_and_only_once(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 1, 60).await;
    let stranger = pod.driver("+12125550203").await;
    let mut s = pod.connect(stranger, None).await;
    let offer = match_id(&pair.found);
    for kind in ["match.accept", "match.reject"] {
        assert_eq!(s.refused(kind, offer.clone()).await, "not_found -", "a stranger");
        assert_eq!(pair.p.refused(kind, offer.clone()).await, "not_found -", "its own passenger");
    }
    assert_eq!(pair.d.refused("match.accept", json!({"match_id": stranger})).await, "not_found -");
    for _ in 0..3 {
        assert_eq!(pair.d.ack("match.accept", offer.clone()).await, offer);
    }
    assert_eq!(pair.d.refused("match.reject", offer.clone()).await, "offer_closed -");
    let accepted = accepted_of(&pair.d.event().await);
    assert_eq!((accepted.match_id, accepted.driver_id), (pair.found.match_id, pair.driver));
    assert_eq!((accepted.passenger_id, accepted.request_id), (pair.passenger, pair.found.request_id));
    pair.p.event_of("match.accepted").await;
    // The repeats published nothing: the next event is the search.
    cluster.publish_searches(pair.driver, 1).await;
    assert_eq!(pair.d.event().await["type"], "user.finder");
    // The same for a rejection.
    let mut pair = Pair::offered(&cluster, &pod, 2, 60).await;
    let offer = match_id(&pair.found);
    for _ in 0..2 {
        let mut answer = offer.clone();
        answer["reason"] = json!("too \"far\"");
        assert_eq!(pair.d.ack("match.reject", answer).await, offer);
    }
    assert_eq!(pair.p.event_of("match.rejected").await["data"]["reason"], "declined");
    assert_eq!(pair.d.refused("match.accept", offer).await, "offer_closed -");
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_ended_cannot_be_accepted() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let mut late = Pair::offered(&cluster, &pod, 3, 15).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(late.d.refused("match.accept", match_id(&late.found)).await, "offer_expired -");
    for (n, reason) in
        [RejectReason::Expired, RejectReason::Cancelled, RejectReason::Superseded].into_iter().enumerate()
    {
        let mut pair = Pair::offered(&cluster, &pod, 4 + u32::try_from(n).unwrap(), 60).await;
        cluster.publish(&cluster.rejected(&pair.found, reason)).await;
        pair.d.event_of("match.rejected").await;
        assert_eq!(pair.d.refused("match.accept", match_id(&pair.found)).await, "offer_closed -", "{reason:?}");
    }
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_ride_ends_its_search_and_forbids_another_until_its_end() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let Pair { mut p, mut d, found, .. } = Pair::offered(&cluster, &pod, 10, 60).await;
    let ride: RideId = cluster.world.id();
    cluster.publish(&cluster.ride(ride, &found, 1, RideStatus::Pickup)).await;
    p.event_of("ride.pickup").await;
    // The search became the ride: the passenger can neither begin another nor end this one.
    assert_eq!(p.refused("finder.update", trip(THERE)).await, "ride_live -");
    assert_eq!(p.refused("finder.update", json!({"active": false})).await, "ride_live -");
    // An older version that comes after the end does not make the ride live again.
    cluster.publish(&cluster.ride(ride, &found, 3, RideStatus::Cancelled)).await;
    p.event_of("ride.cancelled").await;
    cluster.publish(&cluster.ride(ride, &found, 2, RideStatus::Started)).await;
    p.event_of("ride.started").await;
    let next = p.ack("finder.update", trip(THERE)).await;
    // A late ride.pickup of another offer of the old search does not end the new one.
    let mut old = cluster.found(found.driver_id, found.passenger_id, found.request_id, 60);
    old.pickup = HERE;
    cluster.publish(&Event::MatchFound(old.clone())).await;
    d.event_of("match.found").await;
    let other: RideId = cluster.world.id();
    cluster.publish(&cluster.ride(other, &old, 2, RideStatus::Cancelled)).await;
    cluster.publish(&cluster.ride(other, &old, 1, RideStatus::Pickup)).await;
    p.event_of("ride.pickup").await;
    assert_eq!(p.ack("finder.update", trip(THERE)).await, next);
    pod.stop().await;
}

/// The next `count` positions on the stream.
pub(crate) async fn published(cluster: &Cluster, count: usize) -> Vec<LocationUpdate> {
    let topology = streams::topology::Topology::rideshare();
    let consumer = topology.consumer(Subject::LocationUpdate, Service::Location);
    let mut puller = cluster.bus.pull(consumer).await.unwrap();
    let mut updates = Vec::new();
    while updates.len() < count {
        for delivery in puller.fetch(1_000, Duration::from_secs(5)).await.unwrap() {
            let headers = &delivery.message.headers;
            assert!(headers.find("Nats-Msg-Id").is_some_and(|id| id.starts_with("location.update-")));
            assert_eq!(headers.find("ce-source"), Some("/users"));
            match Event::parse(&delivery.message.subject, &delivery.message.payload) {
                Ok(Event::LocationUpdate(update)) => updates.push(update),
                other => panic!("{other:?}"),
            }
            delivery.ack().await.unwrap();
        }
    }
    updates
}

#[tokio::test(start_paused = true)]
async fn positions_go_to_the_stream_with_the_drivers_ride() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let Pair { driver, passenger, mut d, mut p, found } = Pair::offered(&cluster, &pod, 20, 60).await;
    let mut seconds = 0;
    let mut point = || {
        seconds += 1;
        let at = cluster.world.now() - chrono::Duration::seconds(100 - seconds);
        json!({"location": HERE, "accuracy_m": 5, "speed_mps": null, "recorded_at": at})
    };
    let silent = |data: Value| json!({"type": "location.update", "data": data}).to_string();
    // Positions without an id are not acknowledged.
    d.text(silent(point())).await;
    assert_eq!(d.ack("location.update", point()).await, json!({"points": 1}));
    assert_eq!(d.ack("location.update", json!({"points": [point(), point()]})).await, json!({"points": 2}));
    let updates = published(&cluster, 4).await;
    assert!(updates.iter().all(|u| u.user_id == driver && u.ride_id.is_none() && u.accuracy_m == Some(5.0)));
    // From ride.pickup to the end of the ride they belong to the ride.
    let ride: RideId = cluster.world.id();
    cluster.publish(&cluster.ride(ride, &found, 1, RideStatus::Pickup)).await;
    d.event_of("ride.pickup").await;
    d.ack("location.update", point()).await;
    // The same on a new socket that resumes from before the ride.
    d.close().await;
    let mut d = pod.connect(driver, Some(0)).await;
    d.ack("location.update", point()).await;
    cluster.publish(&cluster.ride(ride, &found, 2, RideStatus::Cancelled)).await;
    d.event_of("ride.cancelled").await;
    d.ack("location.update", point()).await;
    d.close().await;
    let mut d = pod.connect(driver, Some(0)).await;
    d.event_of("ride.cancelled").await;
    d.ack("location.update", point()).await;
    let rides: Vec<_> = published(&cluster, 4).await.iter().map(|u| u.ride_id).collect();
    assert_eq!(rides, [Some(ride), Some(ride), None, None]);
    // Positions of a passenger are refused, whether or not the frame has an id.
    assert_eq!(p.refused("location.update", point()).await, "not_driver -");
    p.text(silent(point())).await;
    assert_eq!(p.event_of_error().await, "not_driver");
    let _ = passenger;
    pod.stop().await;
}

impl Client {
    async fn event_of_error(&mut self) -> String {
        let frame = self.next().await;
        assert_eq!(frame["type"], "error", "{frame}");
        frame["error"]["code"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn a_ride_command_is_a_request_to_rides_with_a_deadline() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let passenger = pod.passenger("+12125550205").await;
    let mut client = pod.connect(passenger, None).await;
    let ride: RideId = cluster.world.id();
    let cancel = json!({"ride_id": ride, "reason": "no \"time\""});
    assert_eq!(client.refused("ride.cancel", cancel.clone()).await, "unavailable -", "no responder");

    let mut requests = cluster.bus.subscribe(RIDE_COMMANDS, Some(RIDE_COMMANDS)).await.unwrap();
    let bus = cluster.bus.clone();
    let rides = tokio::spawn(async move {
        let mut commands = Vec::new();
        for reply in [
            Some(RideReply::Ok(json!({"status": "cancelled"}))),
            Some(RideReply::Error {
                code: "wrong_pin".into(),
                message: "say \"again\"".into(),
                field: Some("pin".into()),
                allowed_at: None,
            }),
            None,
        ] {
            let message = requests.next().await.unwrap();
            commands.push(serde_json::from_slice::<RideCommand>(&message.payload).unwrap());
            if let Some(reply) = reply {
                bus.publish_core(&message.reply.unwrap(), serde_json::to_vec(&reply).unwrap().into()).await.unwrap();
            }
        }
        commands
    });
    assert_eq!(client.ack("ride.cancel", cancel).await, json!({"status": "cancelled"}));
    assert_eq!(client.refused("ride.start", json!({"ride_id": ride, "pin": "0000"})).await, "wrong_pin pin");
    // Without a reply the client gets `unavailable` at the deadline, and events before it.
    client.text(json!({"id": "late", "type": "ride.arrive", "data": {"ride_id": ride}}).to_string()).await;
    cluster.publish_searches(passenger, 1).await;
    let began = tokio::time::Instant::now();
    assert_eq!(client.event().await["type"], "user.finder");
    assert!(began.elapsed() < Duration::from_secs(1), "events do not wait for a command");
    let late = client.next().await;
    assert_eq!((&late["id"], &late["error"]["code"]), (&json!("late"), &json!("unavailable")));
    assert!(began.elapsed() <= Duration::from_secs(6));
    let commands = rides.await.unwrap();
    assert!(commands.iter().all(|c| c.user_id == passenger && c.ride_id == ride && c.traceparent.starts_with("00-")));
    assert_eq!(commands[0].action, RideAction::Cancel { reason: "no \"time\"".into(), note: None });
    assert_eq!(commands[1].action, RideAction::Start { pin: "0000".into() });
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn commands_of_one_socket_are_executed_in_their_order() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let passenger = pod.passenger("+12125550206").await;
    let mut client = pod.connect(passenger, None).await;
    for n in 0..60 {
        let data = if n % 2 == 0 { trip(THERE) } else { json!({"active": false}) };
        client.text(json!({"id": n, "type": "finder.update", "data": data}).to_string()).await;
    }
    let (mut acks, mut events) = (Vec::new(), Vec::new());
    while acks.len() < 60 || events.len() < 60 {
        let frame = client.next().await;
        if frame["type"] == "ack" {
            acks.push(frame["id"].as_u64().unwrap());
        } else {
            events.push((frame["seq"].as_u64().unwrap(), frame["data"]["request_id"].clone()));
        }
    }
    assert_eq!(acks, (0..60).collect::<Vec<_>>());
    assert_eq!(events.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), (1..=60).collect::<Vec<_>>());
    pod.stop().await;
}
