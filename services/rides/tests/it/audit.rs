//! The audit trail of what the real handlers did: proved, lost, told again, made again.

use std::time::Duration;

use platform::Store;
use rides::audit::{Audit, AuditError, Findings, STREAM};
use rides::payment::Provider;
use rides::{Config, KeptEvent};
use streams::bus::ReplayStart;
use streams::event::MatchAccepted;
use streams::{Message, RideStatus};

use super::{City, Kind};

on_both!(
    a_deleted_stream_is_told_again_byte_for_byte,
    the_tables_are_made_again_from_the_stream,
    a_broken_trail_is_not_made_into_tables,
    an_edited_copy_is_named_and_left_alone,
    a_busy_platform_is_sound_at_every_moment,
);

/// Longer than a stream remembers ids.
const WINDOW: Duration = Duration::from_secs(301);

/// A completed ride, one cancelled at a price, one cancelled for nothing, one under way; all settled.
async fn populated(kind: Kind, provider: Provider) -> (City, [MatchAccepted; 4]) {
    let city = City::start(kind, Config { provider, ..Config::default() }).await;
    let matches = [city.matched(), city.matched(), city.matched(), city.matched()];
    let ride = city.arrived(&matches[0]).await;
    city.aggregate(ride.ride_id, ride.driver_id, 4_321.0, true).await;
    city.event(&matches[0], RideStatus::Completed).await;
    for (n, matched) in matches.iter().enumerate().skip(1) {
        // Time passes between rides, also where it is paused: by it they are in order.
        tokio::time::sleep(Duration::from_millis(1)).await;
        city.publish(&super::Event::MatchAccepted(matched.clone())).await;
        let ride = city.event(matched, RideStatus::Pickup).await;
        if n != 2 {
            city.start_ride(ride.driver_id, ride.ride_id).await;
        }
        if n != 3 {
            assert!(city.cancel(ride.passenger_id, ride.ride_id).await.starts_with("cancelled"));
            city.event(matched, RideStatus::Cancelled).await;
        }
    }
    city.event(&matches[3], RideStatus::Started).await;
    city.settled().await;
    (city, matches)
}

async fn found(city: &City) -> Vec<String> {
    let report = city.audit.verify().await.unwrap();
    assert_eq!(report.findings.count(), report.findings.listed().len() as u64);
    report.findings.listed().iter().map(ToString::to_string).collect()
}

async fn messages(city: &City) -> Vec<Message> {
    city.all(STREAM, "ride.>").await
}

/// The sequence of a version of the ride of `matched`.
async fn sequence(city: &City, matched: &MatchAccepted, version: u32) -> u64 {
    let mut replay = city.platform.bus.replay(STREAM, None, ReplayStart::Sequence(1)).await.unwrap();
    loop {
        let stored = replay.next(Duration::from_secs(1)).await.unwrap().expect("it is there");
        let event = rides::hash_chain::verify_body(&stored.subject, &stored.payload).unwrap();
        if (event.match_id, event.version) == (matched.match_id, version) {
            return stored.sequence;
        }
    }
}

async fn a_deleted_stream_is_told_again_byte_for_byte(kind: Kind) {
    let (city, _) = populated(kind, Provider::Ledger).await;
    let before = messages(&city).await;
    assert_eq!(before.len(), 4 + 3 + 2 + 2);
    assert_eq!(found(&city).await, Vec::<String>::new());
    city.platform.bus.delete_stream(STREAM).await.unwrap();
    city.platform.bus.apply(&city.platform.topology).await.unwrap();
    let lost = found(&city).await;
    assert_eq!(lost.len(), before.len());
    assert!(lost.iter().all(|l| l.contains("it is in the database and not in the stream")), "{lost:?}");
    let repaired = city.audit.repair().await.unwrap();
    assert_eq!((repaired.published, repaired.duplicates, repaired.deleted), (before.len() as u64, 0, 0));
    assert_eq!(repaired.findings, Findings::default());
    assert_eq!(messages(&city).await, before, "bodies and headers, in the order in which it happened");
    assert_eq!(found(&city).await, Vec::<String>::new());
    let again = city.audit.repair().await.unwrap();
    assert_eq!((again.published, again.deleted), (0, 0), "nothing to do a second time");
    city.end().await;
}

async fn the_tables_are_made_again_from_the_stream(kind: Kind) {
    // One that is away is asked until it is given up, for which only paused time waits gladly.
    let providers = [Provider::Ledger, Provider::Refusing, Provider::Away];
    for provider in providers.into_iter().take(if matches!(kind, Kind::Memory) { 3 } else { 2 }) {
        let (city, matches) = populated(kind, provider).await;
        let world = &city.platform.world;
        let store = match kind {
            Kind::Memory => Store::memory(world, &city.platform.pod),
            Kind::Postgres => {
                let url = testing::database::fresh().await;
                Store::postgres(world, &city.platform.pod, &url, "rides", &rides::MIGRATIONS, 4).await.unwrap()
            }
        };
        let audit = Audit::new(&city.platform.bus, &store, world);
        let rebuilt = audit.rebuild(provider).await.unwrap();
        assert_eq!((rebuilt.rides, rebuilt.events, rebuilt.begun_before), (4, 11, 0));
        assert_eq!(rebuilt.findings, Findings::default());
        let report = audit.verify().await.unwrap();
        assert_eq!(report.findings, Findings::default());
        assert_eq!((report.rides, report.live, report.events), (4, 1, 11));
        // As the live ones, event by event and payment by payment.
        let other = rides::Rides::start(&city.platform, &store, city.tokens.clone(), Config::default()).await.unwrap();
        for matched in &matches {
            let ride = city.event(matched, RideStatus::Pickup).await.ride_id;
            let events: Vec<KeptEvent> = city.rides.events(ride).await.unwrap();
            assert_eq!(other.events(ride).await.unwrap(), events);
            let payment = async |rides: &rides::Rides| {
                let payment = rides.payment(ride).await.unwrap();
                payment.map(|p| rides::payment::Payment { tried_at: None, ..p })
            };
            assert_eq!(payment(&other).await, payment(&city.rides).await);
        }
        let refused = audit.rebuild(provider).await;
        assert!(matches!(&refused, Err(AuditError::Refused(why)) if why.contains("rides has rows")), "{refused:?}");
        city.stop.cancel();
    }
}

async fn a_broken_trail_is_not_made_into_tables(kind: Kind) {
    let (city, matches) = populated(kind, Provider::Ledger).await;
    let at = sequence(&city, &matches[0], 2).await;
    city.platform.bus.delete_message(STREAM, at).await.unwrap();
    let world = &city.platform.world;
    let store = Store::memory(world, &city.platform.pod);
    let audit = Audit::new(&city.platform.bus, &store, world);
    let rebuilt = audit.rebuild(Provider::Ledger).await.unwrap();
    assert_eq!((rebuilt.rides, rebuilt.events), (0, 0));
    let told = rebuilt.findings.listed()[0].to_string();
    assert!(told.contains("version 3 stands where version 2 belongs"), "{told}");
    let report = audit.verify().await.unwrap();
    assert_eq!((report.rides, report.events), (0, 0), "nothing was written");
    city.stop.cancel();
}

async fn an_edited_copy_is_named_and_left_alone(kind: Kind) {
    let (city, matches) = populated(kind, Provider::Ledger).await;
    let ride = city.event(&matches[0], RideStatus::Pickup).await.ride_id;
    let copy = messages(&city).await;
    let bus = &city.platform.bus;
    bus.delete_stream(STREAM).await.unwrap();
    bus.apply(&city.platform.topology).await.unwrap();
    for mut message in copy {
        let body = String::from_utf8(message.payload.to_vec()).unwrap();
        if body.contains(&ride.to_string()) && message.subject == "ride.started" {
            message.payload = body.replacen("40.7484", "40.7485", 1).into();
        }
        bus.publish(message).await.unwrap();
    }
    let told = found(&city).await;
    assert_eq!(told.len(), 2, "{told:?}");
    let place = format!("ride {ride} version 2 (sequence 2): ");
    assert!(told[0].starts_with(&place) && told[0].contains("the body was changed"), "{told:?}");
    assert!(told[1].starts_with(&place) && told[1].contains("its body is not the database's from byte"), "{told:?}");
    let repaired = city.audit.repair().await.unwrap();
    assert_eq!((repaired.published, repaired.deleted, repaired.findings.count()), (0, 0, 1));
    assert!(repaired.findings.listed()[0].to_string().contains("left alone"));
    assert_eq!(found(&city).await, told);
    city.stop.cancel();
}

async fn a_busy_platform_is_sound_at_every_moment(kind: Kind) {
    let city = City::start(kind, Config::default()).await;
    let matches: Vec<MatchAccepted> = (0..60).map(|_| city.matched()).collect();
    let busy = async {
        for part in matches.chunks(6) {
            for matched in part {
                city.publish(&super::Event::MatchAccepted(matched.clone())).await;
            }
            for matched in part {
                let ride = city.event(matched, RideStatus::Pickup).await;
                city.start_ride(ride.driver_id, ride.ride_id).await;
                city.cancel(ride.passenger_id, ride.ride_id).await;
            }
        }
    };
    let mut busy = Box::pin(busy);
    let mut verified = 0;
    loop {
        // Whatever has been committed, and is or is not yet published, by the time of each look.
        let look = async { found(&city).await };
        tokio::select! {
            biased;
            () = &mut busy => break,
            told = look => assert_eq!(told, Vec::<String>::new(), "look {verified}"),
        }
        verified += 1;
    }
    drop(busy);
    assert!(verified > 0, "nobody looked while it was busy");
    let repaired = city.audit.repair().await.unwrap();
    assert_eq!((repaired.published - repaired.duplicates, repaired.deleted, repaired.findings.count()), (0, 0, 0));
    city.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_hole_in_the_middle_of_a_ride_is_mended_in_order() {
    let (city, matches) = populated(Kind::Memory, Provider::Ledger).await;
    let of_ride = async || -> Vec<u32> {
        let trail = city.trail().await;
        trail.iter().filter(|e| e.match_id == matches[0].match_id).map(|e| e.version).collect()
    };
    let bus = &city.platform.bus;
    bus.delete_message(STREAM, sequence(&city, &matches[0], 2).await).await.unwrap();
    assert_eq!(of_ride().await, [1, 3, 4]);
    assert_eq!(found(&city).await.len(), 2, "version 3 in the place of 2, and 2 lost");
    // The stream remembers the ids of all four: none is stored again, and none may be deleted.
    let repaired = city.audit.repair().await.unwrap();
    assert_eq!((repaired.published, repaired.duplicates, repaired.deleted), (3, 3, 0));
    assert!(repaired.findings.listed()[0].to_string().contains("repair again in 5 minutes"), "{repaired:?}");
    assert_eq!(of_ride().await, [1, 3, 4]);

    tokio::time::advance(WINDOW).await;
    let repaired = city.audit.repair().await.unwrap();
    assert_eq!((repaired.published, repaired.duplicates, repaired.deleted), (3, 0, 2));
    assert_eq!(of_ride().await, [1, 2, 3, 4]);
    assert_eq!(found(&city).await, Vec::<String>::new());

    // As after a death between publishing and deleting: all of it twice.
    tokio::time::advance(WINDOW).await;
    for message in messages(&city).await {
        bus.publish(message).await.unwrap();
    }
    let told = found(&city).await;
    assert!(told.iter().any(|t| t.contains("it stands 2 times in the stream")), "{told:?}");
    let repaired = city.audit.repair().await.unwrap();
    assert_eq!((repaired.published, repaired.deleted, repaired.findings.count()), (0, 11, 0));
    assert_eq!(found(&city).await, Vec::<String>::new());
    city.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_week_later_what_is_too_old_for_the_stream_is_not_missed() {
    let (city, matches) = populated(Kind::Memory, Provider::Ledger).await;
    let ride = city.event(&matches[3], RideStatus::Started).await;
    tokio::time::advance(Duration::from_secs(8 * 24 * 3_600)).await;
    assert_eq!(city.ask(ride.driver_id, ride.ride_id, super::RideAction::Arrive).await, "arrived 3");
    city.event(&matches[3], RideStatus::Arrived).await;
    let report = city.audit.verify().await.unwrap();
    assert_eq!(report.findings, Findings::default());
    assert!(report.trimmed && report.events > report.messages, "{report:?}");
    let repaired = city.audit.repair().await.unwrap();
    assert_eq!(repaired.published, 0, "what has rightly gone is not told again");
    // Its beginning is gone, and so it cannot be made again.
    let store = Store::memory(&city.platform.world, &city.platform.pod);
    let rebuilt = Audit::new(&city.platform.bus, &store, &city.platform.world).rebuild(Provider::Ledger).await.unwrap();
    assert_eq!((rebuilt.rides, rebuilt.begun_before, rebuilt.findings.count()), (0, 1, 0));
    city.stop.cancel();
}
