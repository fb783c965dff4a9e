//! Audits of what the real handlers did: verified, lost and repaired, rebuilt.

use std::time::Duration;

use platform::breaker::Rules;
use platform::{Asking, Store, operators};
use rides::Config;
use rides::audit::{Audit, AuditError, Findings, STREAM};
use rides::event_log::rows::events_of;
use rides::ledger;
use rides::payment::rows::payments_of;
use rides::payment::{Payment, PaymentStatus, Provider};
use streams::bus::ReplayStart;
use streams::event::{ActKind, MatchAccepted, OperatorAct, OperatorRole};
use streams::operators::{ACT_WAIT, ActHead, Operator, RIDES_OPERATORS, RidesRequest};
use streams::ride_command::RideAction;
use streams::{Currency, Event, Message, Money, RideStatus};
use testing::{Backend, on_both_stores};

use crate::harness::TestApp;

on_both_stores!(
    a_deleted_stream_is_repaired_byte_for_byte,
    the_tables_are_rebuilt_from_the_stream,
    no_table_is_rebuilt_from_an_unsound_stream,
    a_fulfilled_request_never_becomes_a_second_ride_after_a_rebuild,
    refunds_are_rebuilt_from_the_acts_of_operators,
    a_recovery_requests_the_capture_of_what_is_pending,
    what_operators_say_of_a_ride_is_stored_for_a_year,
    an_edited_copy_is_reported_and_left_alone,
    a_busy_platform_has_no_finding_at_any_moment,
);

/// Longer than the duplicate window.
const WINDOW: Duration = Duration::from_secs(301);

/// A completed ride, one cancelled at a price, one cancelled for nothing, one under way; all settled.
async fn populated(backend: Backend, provider: Provider) -> (TestApp, [MatchAccepted; 4]) {
    let app = TestApp::start(backend, Config { provider, ..Config::default() }).await;
    let matches = [app.matched(), app.matched(), app.matched(), app.matched()];
    let ride = app.arrived(&matches[0]).await;
    app.aggregate(ride.ride_id, ride.driver_id, 4_321.0, true).await;
    app.event(&matches[0], RideStatus::Completed).await;
    for (n, matched) in matches.iter().enumerate().skip(1) {
        // Paused time must advance too: the rides are ordered by their times.
        tokio::time::sleep(Duration::from_millis(1)).await;
        app.publish(&Event::MatchAccepted(matched.clone())).await;
        let ride = app.event(matched, RideStatus::Pickup).await;
        if n != 2 {
            app.start_ride(ride.driver_id, ride.ride_id).await;
        }
        if n != 3 {
            assert!(app.cancel(ride.passenger_id, ride.ride_id).await.starts_with("cancelled"));
            app.event(matched, RideStatus::Cancelled).await;
        }
    }
    app.event(&matches[3], RideStatus::Started).await;
    app.settled().await;
    (app, matches)
}

async fn found(app: &TestApp) -> Vec<String> {
    let report = app.audit.verify().await.unwrap();
    assert_eq!(report.findings.count(), report.findings.listed().len() as u64);
    report.findings.listed().iter().map(ToString::to_string).collect()
}

async fn messages(app: &TestApp) -> Vec<Message> {
    app.all(STREAM, "ride.>").await
}

/// The sequence of a version of the ride of `matched`.
async fn sequence(app: &TestApp, matched: &MatchAccepted, version: u32) -> u64 {
    let mut replay = app.platform.bus.replay(STREAM, None, ReplayStart::Sequence(1)).await.unwrap();
    loop {
        let stored = replay.next(Duration::from_secs(1)).await.unwrap().expect("it is there");
        let event = rides::hash_chain::verify_body(&stored.subject, &stored.payload).unwrap();
        if (event.match_id, event.version) == (matched.match_id, version) {
            return stored.sequence;
        }
    }
}

async fn a_deleted_stream_is_repaired_byte_for_byte(backend: Backend) {
    let (app, _) = populated(backend, Provider::Ledger).await;
    let before = messages(&app).await;
    assert_eq!(before.len(), 4 + 3 + 2 + 2);
    assert_eq!(found(&app).await, Vec::<String>::new());
    app.platform.bus.delete_stream(STREAM).await.unwrap();
    app.platform.bus.apply(&app.platform.topology).await.unwrap();
    let lost = found(&app).await;
    assert_eq!(lost.len(), before.len());
    assert!(lost.iter().all(|l| l.contains("it is in the database and not in the stream")), "{lost:?}");
    let repaired = app.audit.repair().await.unwrap();
    assert_eq!((repaired.published, repaired.duplicates, repaired.deleted), (before.len() as u64, 0, 0));
    assert_eq!(repaired.findings, Findings::default());
    assert_eq!(messages(&app).await, before, "bodies and headers, in the order in which it happened");
    assert_eq!(found(&app).await, Vec::<String>::new());
    let again = app.audit.repair().await.unwrap();
    assert_eq!((again.published, again.deleted), (0, 0), "nothing to do a second time");
    app.end().await;
}

async fn the_tables_are_rebuilt_from_the_stream(backend: Backend) {
    // The capture is retried until the provider answers. Only paused time skips those waits.
    let providers = [Provider::Ledger, Provider::Refusing, Provider::Away];
    for provider in providers.into_iter().take(if backend == Backend::Memory { 3 } else { 2 }) {
        let (app, matches) = populated(backend, provider).await;
        let world = &app.platform.world;
        let store = backend.store(world, "test", "rides", &rides::MIGRATIONS).await;
        let audit = Audit::new(&app.platform.bus, &store, world);
        let rebuilt = audit.rebuild(provider).await.unwrap();
        assert_eq!((rebuilt.rides, rebuilt.events, rebuilt.begun_before), (4, 11, 0));
        assert_eq!(rebuilt.findings, Findings::default());
        let report = audit.verify().await.unwrap();
        assert_eq!(report.findings, Findings::default());
        assert_eq!((report.rides, report.live, report.events), (4, 1, 11));
        // The rebuilt events and payments are equal to the original ones.
        for matched in &matches {
            let ride = app.event(matched, RideStatus::Pickup).await.ride_id;
            let mut tx = store.begin().await.unwrap();
            assert_eq!(events_of(&mut tx, ride).await.unwrap(), app.events(ride).await);
            let rebuilt = payments_of(&mut tx, &[ride]).await.unwrap().pop();
            let untried = |payment: Option<Payment>| payment.map(|p| Payment { tried_at: None, ..p });
            assert_eq!(untried(rebuilt), untried(app.payment(ride).await));
        }
        let refused = audit.rebuild(provider).await;
        assert!(matches!(&refused, Err(AuditError::Refused(why)) if why.contains("rides has rows")), "{refused:?}");
        app.stop.cancel();
    }
}

async fn a_fulfilled_request_never_becomes_a_second_ride_after_a_rebuild(backend: Backend) {
    let (app, matches) = populated(backend, Provider::Ledger).await;
    // Two searches go on after their drivers cancelled; one of them becomes a ride again.
    let [once, twice] = [app.matched(), app.matched()];
    for matched in [&once, &twice] {
        app.publish(&Event::MatchAccepted(matched.clone())).await;
        let ride = app.event(matched, RideStatus::Pickup).await;
        assert_eq!(app.cancel(ride.driver_id, ride.ride_id).await, "cancelled 2");
        app.event(matched, RideStatus::Cancelled).await;
    }
    let again = |of: &MatchAccepted| MatchAccepted {
        request_id: of.request_id,
        passenger_id: of.passenger_id,
        ..app.matched()
    };
    let (second, of_once, of_twice) = (again(&twice), again(&once), again(&twice));
    app.publish(&Event::MatchAccepted(second.clone())).await;
    let ride = app.event(&second, RideStatus::Pickup).await;
    assert!(app.cancel(ride.passenger_id, ride.ride_id).await.starts_with("cancelled"));
    app.settled().await;
    let store = backend.store(&app.platform.world, "test", "rides", &rides::MIGRATIONS).await;
    Audit::new(&app.platform.bus, &store, &app.platform.world).rebuild(Provider::Ledger).await.unwrap();
    let app = app.restarted_on(store).await;
    app.publish(&Event::MatchAccepted(of_once.clone())).await;
    app.event(&of_once, RideStatus::Pickup).await;
    let rides = app.trail().await.len();
    app.publish(&Event::MatchAccepted(of_twice.clone())).await;
    // Another driver had accepted before that ride began, and the acceptance is delivered only now, when it is over.
    let (request_id, passenger_id) = (matches[0].request_id, matches[0].passenger_id);
    let late = MatchAccepted { request_id, passenger_id, ..app.matched() };
    app.publish(&Event::MatchAccepted(late.clone())).await;
    app.settled().await;
    assert_eq!(app.all("MATCH_STREAM", "match.rejected").await.len(), 2);
    assert_eq!(app.trail().await.len(), rides, "no second ride");
    app.end().await;
}

fn desk(app: &TestApp) -> Asking {
    let rules = Rules { failures_max: 5, open_for: chrono::TimeDelta::seconds(1) };
    Asking::new(&app.platform, "desk", rules, RIDES_OPERATORS, 1)
}

fn ann() -> Operator {
    Operator { name: "ann".to_owned(), role: OperatorRole::Support }
}

async fn refunds_are_rebuilt_from_the_acts_of_operators(backend: Backend) {
    let (app, matches) = populated(backend, Provider::Ledger).await;
    let ride_id = app.event(&matches[0], RideStatus::Pickup).await.ride_id;
    let desk = desk(&app);
    for amount in [100, 50] {
        let act = ActHead { act_id: app.platform.world.id(), reason: Some("a detour".to_owned()) };
        let refund = RidesRequest::Refund { act, ride_id, amount: Money::usd(amount) };
        operators::ask((&app.platform, &app.tokens), &desk, &ann(), refund, ACT_WAIT).await.unwrap();
    }
    app.settled().await;
    while app.platform.bus.stream_info("ADMIN_STREAM").await.unwrap().messages < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let world = &app.platform.world;
    let store = backend.store(world, "test", "rides", &rides::MIGRATIONS).await;
    let audit = Audit::new(&app.platform.bus, &store, world);
    let rebuilt = audit.rebuild(Provider::Ledger).await.unwrap();
    assert_eq!(rebuilt.findings, Findings::default());
    let [before, after] = [app.audit.verify().await.unwrap(), audit.verify().await.unwrap()];
    assert_eq!((&before.findings, &after.findings), (&Findings::default(), &Findings::default()));
    assert_eq!(before.entries, after.entries, "four of them are of refunds");
    for account in ["platform:revenue", "cash:ledger"] {
        let balance = async |store: &Store<rides::Tables>| {
            ledger::rows::balance(&mut store.begin().await.unwrap(), account, Currency::USD).await.unwrap()
        };
        assert_eq!(balance(&store).await, balance(&app.store).await, "{account}");
    }
    app.end().await;
}

async fn no_table_is_rebuilt_from_an_unsound_stream(backend: Backend) {
    let (app, matches) = populated(backend, Provider::Ledger).await;
    let at = sequence(&app, &matches[0], 2).await;
    app.platform.bus.delete_message(STREAM, at).await.unwrap();
    let world = &app.platform.world;
    let store = Store::memory(world, &app.platform.pod);
    let audit = Audit::new(&app.platform.bus, &store, world);
    let rebuilt = audit.rebuild(Provider::Ledger).await.unwrap();
    assert_eq!((rebuilt.rides, rebuilt.events), (0, 0));
    let finding = rebuilt.findings.listed()[0].to_string();
    assert!(finding.contains("version 3 stands where version 2 belongs"), "{finding}");
    let report = audit.verify().await.unwrap();
    assert_eq!((report.rides, report.events), (0, 0), "nothing was written");
    app.stop.cancel();
}

/// As after a restore: the payment is pending, its outbox row says that it was published, and the work queue does not have it.
async fn a_recovery_requests_the_capture_of_what_is_pending(backend: Backend) {
    let mut app = TestApp::start(backend, Config { provider: Provider::Away, ..Config::default() }).await;
    let matched = app.matched();
    let ride = app.arrived(&matched).await;
    app.aggregate(ride.ride_id, ride.driver_id, 4_321.0, true).await;
    app.event(&matched, RideStatus::Completed).await;
    let mut captures =
        app.platform.bus.replay("PAYMENT_STREAM", Some("payment.capture"), ReplayStart::Sequence(1)).await.unwrap();
    let lost = captures.next(WINDOW).await.unwrap().expect("it is published");
    app.stopped().await;
    app.platform.bus.delete_message("PAYMENT_STREAM", lost.sequence).await.unwrap();
    assert_eq!(app.payment(ride.ride_id).await.unwrap().status, PaymentStatus::Pending);
    // The id of a request is by its time, and the clock of this test stands still between two steps.
    tokio::time::sleep(Duration::from_millis(1)).await;
    // It was captured after the backup, and refunded then.
    let (world, payment) = (&app.platform.world, app.payment(ride.ride_id).await.unwrap());
    let by = ("ann".to_owned(), OperatorRole::Support);
    let mut refunded = OperatorAct::new(world.id(), ActKind::RideRefunded, by, None, world.now());
    (refunded.ride_id, refunded.payment_id) = (Some(ride.ride_id), Some(payment.payment_id));
    refunded.amount = Some(Money::usd(100));
    app.publish(&Event::Act(Box::new(refunded))).await;
    let first = app.audit.recover(Provider::Ledger).await.unwrap();
    assert_eq!((first.events, first.rides, first.captures, first.entries), (0, 0, 1, 2), "of the refund");
    let again = app.audit.recover(Provider::Ledger).await.unwrap();
    assert_eq!((again.captures, again.entries), (0, 0), "it waits in the outbox already");
    let store = app.store.clone();
    let app = app.restarted_on(store).await;
    let captured = async {
        while app.payment(ride.ride_id).await.unwrap().status != PaymentStatus::Captured {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WINDOW, captured).await.expect("the capture is requested again");
    assert_eq!(app.audit.recover(Provider::Ledger).await.unwrap().captures, 0, "nothing is pending");
    assert_eq!(app.audit.verify().await.unwrap().findings, Findings::default());
    app.end().await;
}

async fn what_operators_say_of_a_ride_is_stored_for_a_year(backend: Backend) {
    let (app, matches) = populated(backend, Provider::Ledger).await;
    let ride_id = app.event(&matches[0], RideStatus::Pickup).await.ride_id;
    let desk = desk(&app);
    let ask = async |request| operators::ask((&app.platform, &app.tokens), &desk, &ann(), request, ACT_WAIT).await.unwrap();
    let act = || ActHead { act_id: app.platform.world.id(), reason: Some("a detour".to_owned()) };
    ask(RidesRequest::Refund { act: act(), ride_id, amount: Money::usd(100) }).await;
    ask(RidesRequest::Note { act: act(), ride_id, text: "she called".to_owned() }).await;
    let said = async || {
        let shown = ask(RidesRequest::Ride { ride_id }).await;
        let refund = &shown["refunds"][0];
        assert_eq!(refund["amount"]["amount"], 100, "{shown}");
        (refund["reason"].clone(), shown["notes"].as_array().unwrap().len())
    };
    assert_eq!(said().await, ("a detour".into(), 1));
    app.purge_later(chrono::Duration::days(364)).await;
    assert_eq!(said().await, ("a detour".into(), 1));
    app.purge_later(chrono::Duration::days(366)).await;
    assert_eq!(said().await, (serde_json::Value::Null, 0));
    app.end().await;
}

async fn an_edited_copy_is_reported_and_left_alone(backend: Backend) {
    let (app, matches) = populated(backend, Provider::Ledger).await;
    let ride = app.event(&matches[0], RideStatus::Pickup).await.ride_id;
    let copy = messages(&app).await;
    let bus = &app.platform.bus;
    bus.delete_stream(STREAM).await.unwrap();
    bus.apply(&app.platform.topology).await.unwrap();
    for mut message in copy {
        let body = String::from_utf8(message.payload.to_vec()).unwrap();
        if body.contains(&ride.to_string()) && message.subject == "ride.started" {
            message.payload = body.replacen("40.7484", "40.7485", 1).into();
        }
        bus.publish(message).await.unwrap();
    }
    let findings = found(&app).await;
    assert_eq!(findings.len(), 2, "{findings:?}");
    let place = format!("ride {ride} version 2 (sequence 2): ");
    assert!(findings[0].starts_with(&place) && findings[0].contains("the body was changed"), "{findings:?}");
    assert!(
        findings[1].starts_with(&place) && findings[1].contains("its body is not the database's from byte"),
        "{findings:?}"
    );
    let repaired = app.audit.repair().await.unwrap();
    assert_eq!((repaired.published, repaired.deleted, repaired.findings.count()), (0, 0, 1));
    assert!(repaired.findings.listed()[0].to_string().contains("left alone"));
    assert_eq!(found(&app).await, findings);
    app.stop.cancel();
}

async fn a_busy_platform_has_no_finding_at_any_moment(backend: Backend) {
    let app = TestApp::start(backend, Config::default()).await;
    let matches: Vec<MatchAccepted> = (0..60).map(|_| app.matched()).collect();
    let busy = async {
        for part in matches.chunks(6) {
            for matched in part {
                app.publish(&Event::MatchAccepted(matched.clone())).await;
            }
            for matched in part {
                let ride = app.event(matched, RideStatus::Pickup).await;
                app.start_ride(ride.driver_id, ride.ride_id).await;
                app.cancel(ride.passenger_id, ride.ride_id).await;
            }
        }
    };
    let mut busy = Box::pin(busy);
    let mut verified = 0;
    loop {
        // At each audit some events are committed and not yet published.
        let look = async { found(&app).await };
        tokio::select! {
            biased;
            () = &mut busy => break,
            findings = look => assert_eq!(findings, Vec::<String>::new(), "look {verified}"),
        }
        verified += 1;
    }
    drop(busy);
    assert!(verified > 0, "no audit ran while the platform was busy");
    let repaired = app.audit.repair().await.unwrap();
    assert_eq!((repaired.published - repaired.duplicates, repaired.deleted, repaired.findings.count()), (0, 0, 0));
    app.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_gap_in_the_middle_of_a_ride_is_repaired_in_order() {
    let (app, matches) = populated(Backend::Memory, Provider::Ledger).await;
    let of_ride = async || -> Vec<u32> {
        let trail = app.trail().await;
        trail.iter().filter(|e| e.match_id == matches[0].match_id).map(|e| e.version).collect()
    };
    let bus = &app.platform.bus;
    bus.delete_message(STREAM, sequence(&app, &matches[0], 2).await).await.unwrap();
    assert_eq!(of_ride().await, [1, 3, 4]);
    assert_eq!(found(&app).await.len(), 2, "version 3 in the place of 2, and 2 lost");
    // Within the duplicate window the stream refuses all four: none is stored again, and none may be deleted.
    let repaired = app.audit.repair().await.unwrap();
    assert_eq!((repaired.published, repaired.duplicates, repaired.deleted), (3, 3, 0));
    assert!(repaired.findings.listed()[0].to_string().contains("repair again in 5 minutes"), "{repaired:?}");
    assert_eq!(of_ride().await, [1, 3, 4]);

    tokio::time::advance(WINDOW).await;
    let repaired = app.audit.repair().await.unwrap();
    assert_eq!((repaired.published, repaired.duplicates, repaired.deleted), (3, 0, 2));
    assert_eq!(of_ride().await, [1, 2, 3, 4]);
    assert_eq!(found(&app).await, Vec::<String>::new());

    // The state after a process died between publishing and deleting: every event twice.
    tokio::time::advance(WINDOW).await;
    for message in messages(&app).await {
        bus.publish(message).await.unwrap();
    }
    let findings = found(&app).await;
    assert!(findings.iter().any(|t| t.contains("it stands 2 times in the stream")), "{findings:?}");
    let repaired = app.audit.repair().await.unwrap();
    assert_eq!((repaired.published, repaired.deleted, repaired.findings.count()), (0, 11, 0));
    assert_eq!(found(&app).await, Vec::<String>::new());
    app.end().await;
}

#[tokio::test(start_paused = true)]
async fn events_older_than_the_stream_keeps_are_not_missing() {
    let (app, matches) = populated(Backend::Memory, Provider::Ledger).await;
    let ride = app.event(&matches[3], RideStatus::Started).await;
    tokio::time::advance(Duration::from_secs(8 * 24 * 3_600)).await;
    assert_eq!(app.command(ride.driver_id, ride.ride_id, RideAction::Arrive).await, "arrived 3");
    app.event(&matches[3], RideStatus::Arrived).await;
    let report = app.audit.verify().await.unwrap();
    assert_eq!(report.findings, Findings::default());
    assert!(report.trimmed && report.events > report.messages, "{report:?}");
    let repaired = app.audit.repair().await.unwrap();
    assert_eq!(repaired.published, 0, "an expired event is not published again");
    // The stream no longer has the ride's beginning, so the ride cannot be rebuilt.
    let store = Store::memory(&app.platform.world, &app.platform.pod);
    let rebuilt = Audit::new(&app.platform.bus, &store, &app.platform.world).rebuild(Provider::Ledger).await.unwrap();
    assert_eq!((rebuilt.rides, rebuilt.begun_before, rebuilt.findings.count()), (0, 1, 0));
    app.stop.cancel();
}
