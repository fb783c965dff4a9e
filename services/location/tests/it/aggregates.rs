//! Aggregates: how far a ride went, from its events and points.

use std::collections::BTreeSet;
use std::time::Duration;

use streams::driven_distance::{DRIVEN_DISTANCE, DRIVEN_DISTANCE_WAIT, DrivenDistance, DrivenDistanceRequest};
use streams::event::{LocationAggregate, LocationUpdate};
use streams::{BusError, Event, RideStatus};
use testing::{Backend, on_both_stores};

use crate::harness::{ServiceHarness, TestRide, place};

on_both_stores!(
    a_ride_has_one_final_aggregate_whatever_arrives_late_twice_or_out_of_order,
    events_of_a_ride_may_arrive_in_any_order_and_twice,
    a_ride_without_points_has_a_final_aggregate_of_0_m,
    points_that_arrive_just_after_ride_arrived_still_count,
    a_buffer_that_comes_after_the_final_distance_is_counted,
    a_cancelled_ride_has_no_final_aggregate,
    a_new_process_continues_from_the_rows,
    a_cancelled_ride_is_measured_with_what_waits_in_every_process,
);

#[tokio::test(flavor = "multi_thread")]
async fn a_ride_has_one_final_aggregate_on_nats() {
    one_final_aggregate(ServiceHarness::start_on_nats(2).await).await;
}

async fn a_ride_has_one_final_aggregate_whatever_arrives_late_twice_or_out_of_order(backend: Backend) {
    one_final_aggregate(ServiceHarness::start(backend, 2).await).await;
}

#[track_caller]
fn assert_driven(aggregate: &LocationAggregate, metres: f64, points: u64) {
    assert!((aggregate.distance_m - metres).abs() < 0.1, "{metres} m: {aggregate:?}");
    assert_eq!(aggregate.points, points, "{aggregate:?}");
}

async fn one_final_aggregate(harness: ServiceHarness) {
    let began_at = harness.platform.world.now();
    let rides: Vec<TestRide> = (0..8).map(|_| TestRide::new(&harness)).collect();
    // Points on the way to the pickup have the ride's id too; they are not billed.
    for ride in &rides {
        for second in 1..20 {
            harness.publish(&Event::LocationUpdate(ride.point(&harness, -f64::from(second)))).await;
        }
        ride.publish(&harness, RideStatus::Started, 0.0).await;
    }
    let mut seconds: Vec<u32> = (0..=60).collect();
    for i in 0..seconds.len() {
        let other = i + harness.platform.world.below((seconds.len() - i) as u32) as usize;
        seconds.swap(i, other);
    }
    let mut published = BTreeSet::new();
    for half in seconds.chunks(31) {
        for &second in half {
            for ride in &rides {
                ride.drive(&harness, [second, second % 7]).await;
            }
        }
        published.extend(half.iter().flat_map(|second| [*second, *second % 7]));
        for ride in &rides {
            harness.aggregate_has(ride.id, published.len() as u64).await;
        }
    }
    for ride in &rides {
        ride.drive(&harness, 61..70).await;
        ride.publish(&harness, RideStatus::Arrived, 60.0).await;
    }
    for ride in &rides {
        let aggregate = harness.final_aggregate(ride.id).await;
        assert_driven(&aggregate, 900.0, 61);
        assert_eq!(aggregate.last.unwrap().recorded_at, harness.second(60.0));
        assert_eq!(aggregate.covered, Some(1.0));
    }
    // Nothing follows the final aggregate, neither before nor after the end of the ride.
    for ride in &rides {
        ride.drive(&harness, [3, 59, 60]).await;
        ride.publish(&harness, RideStatus::Arrived, 60.0).await;
        ride.publish(&harness, RideStatus::Completed, 61.0).await;
        ride.drive(&harness, [4, 5]).await;
    }
    harness.all_handled().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    // One in each interval at most, and the final one.
    let passed = harness.platform.world.now() - began_at;
    let most = (passed.num_milliseconds() / harness.config.aggregate_every.num_milliseconds()) as usize + 2;
    let by_ride = harness.end().await;
    assert_eq!(by_ride.len(), rides.len());
    for aggregates in by_ride.values() {
        assert!((2..=most).contains(&aggregates.len()), "at most {most}: {aggregates:?}");
        // The final one leaves out what was driven after the arrival, which an earlier one may have counted.
        let running: Vec<_> = aggregates.iter().filter(|aggregate| !aggregate.is_final).collect();
        assert!(running.windows(2).all(|w| w[0].points <= w[1].points), "cumulative: {aggregates:?}");
    }
}

async fn events_of_a_ride_may_arrive_in_any_order_and_twice(backend: Backend) {
    let harness = ServiceHarness::start(backend, 2).await;
    let ride = TestRide::new(&harness);
    ride.drive(&harness, 0..=60).await;
    ride.publish(&harness, RideStatus::Arrived, 60.0).await;
    harness.all_handled().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(harness.aggregates().await, [], "the start is not known yet");
    ride.publish(&harness, RideStatus::Started, 0.0).await;
    ride.publish(&harness, RideStatus::Started, 0.0).await;
    ride.publish(&harness, RideStatus::Arrived, 60.0).await;
    assert_driven(&harness.final_aggregate(ride.id).await, 900.0, 61);
    let ended_first = TestRide::new(&harness);
    ended_first.publish(&harness, RideStatus::Completed, 61.0).await;
    harness.all_handled().await;
    ended_first.drive(&harness, 0..=60).await;
    ended_first.publish(&harness, RideStatus::Started, 0.0).await;
    ended_first.publish(&harness, RideStatus::Arrived, 60.0).await;
    harness.all_handled().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let by_ride = harness.end().await;
    assert_eq!(by_ride.keys().copied().collect::<Vec<_>>(), [ride.id], "a ride that has ended stays ended");
}

async fn a_ride_without_points_has_a_final_aggregate_of_0_m(backend: Backend) {
    let harness = ServiceHarness::start(backend, 1).await;
    let ride = TestRide::new(&harness);
    ride.publish(&harness, RideStatus::Started, 0.0).await;
    ride.publish(&harness, RideStatus::Arrived, 60.0).await;
    let aggregate = harness.final_aggregate(ride.id).await;
    assert_driven(&aggregate, 0.0, 0);
    assert_eq!((aggregate.last, aggregate.covered), (None, Some(0.0)));
    harness.end().await;
}

async fn points_that_arrive_just_after_ride_arrived_still_count(backend: Backend) {
    let harness = ServiceHarness::start(backend, 2).await;
    let ride = TestRide::new(&harness);
    ride.publish(&harness, RideStatus::Started, 0.0).await;
    ride.drive(&harness, 0..=30).await;
    ride.publish(&harness, RideStatus::Arrived, 60.0).await;
    harness.all_handled().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    ride.drive(&harness, 31..=60).await;
    assert_driven(&harness.final_aggregate(ride.id).await, 900.0, 61);
    harness.end().await;
}

/// It carries no ride, because that has ended; or the next one's.
async fn a_buffer_that_comes_after_the_final_distance_is_counted(backend: Backend) {
    let harness = ServiceHarness::start(backend, 2).await;
    let (ride, next) = (TestRide::new(&harness), TestRide::new(&harness));
    let next = TestRide { driver: ride.driver, ..next };
    ride.publish(&harness, RideStatus::Started, -100.0).await;
    let buffered = |seconds: std::ops::RangeInclusive<i32>, ride_id| {
        let point = |second: i32| LocationUpdate { ride_id, ..ride.point(&harness, f64::from(second)) };
        seconds.map(point).collect::<Vec<_>>()
    };
    let (sent, held, last) =
        (buffered(-100..=-70, Some(ride.id)), buffered(-69..=-55, None), buffered(-54..=-40, Some(next.id)));
    let publish = async |points: Vec<LocationUpdate>| {
        for point in points {
            harness.publish(&Event::LocationUpdate(point)).await;
        }
        harness.all_handled().await;
    };
    publish(sent).await;
    ride.publish(&harness, RideStatus::Arrived, -40.0).await;
    // It has waited for the phone. Half of the way is seen.
    let aggregate = harness.final_aggregate(ride.id).await;
    assert_driven(&aggregate, 450.0, 31);
    assert!((aggregate.covered.unwrap() - 0.5).abs() < 0.02, "{aggregate:?}");
    ride.publish(&harness, RideStatus::Completed, -39.0).await;
    next.publish(&harness, RideStatus::Started, -10.0).await;
    publish(held).await;
    publish(last).await;
    let counted = harness.platform.metrics.distances_late.with_label_values(&["location"]);
    for _ in 0..400 {
        if counted.get() > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!((1..=2).contains(&counted.get()), "{}", counted.get());
    let by_ride = harness.end().await;
    assert_eq!(by_ride[&ride.id].iter().filter(|aggregate| aggregate.is_final).count(), 1);
}

async fn a_cancelled_ride_has_no_final_aggregate(backend: Backend) {
    let harness = ServiceHarness::start(backend, 1).await;
    let ride = TestRide::new(&harness);
    ride.publish(&harness, RideStatus::Started, 0.0).await;
    harness.all_handled().await;
    ride.publish(&harness, RideStatus::Cancelled, 10.0).await;
    harness.all_handled().await;
    ride.drive(&harness, 0..=10).await;
    harness.all_handled().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(harness.end().await.is_empty());
}

async fn a_new_process_continues_from_the_rows(backend: Backend) {
    let mut harness = ServiceHarness::start(backend, 2).await;
    let (under_way, arrived) = (TestRide::new(&harness), TestRide::new(&harness));
    for ride in [under_way, arrived] {
        ride.publish(&harness, RideStatus::Started, 0.0).await;
        ride.drive(&harness, 0..=30).await;
    }
    arrived.drive(&harness, 31..=60).await;
    arrived.publish(&harness, RideStatus::Arrived, 60.0).await;
    harness.all_handled().await;
    harness.stop_processes().await;
    under_way.drive(&harness, 31..=60).await;
    harness.start_process().await;
    assert_driven(&harness.final_aggregate(arrived.id).await, 900.0, 61);
    under_way.publish(&harness, RideStatus::Arrived, 60.0).await;
    assert_driven(&harness.final_aggregate(under_way.id).await, 900.0, 61);
    harness.end().await;
}

mod never {
    use super::*;

    on_both_stores!(a_noisy_gps_point_of_100_km_is_billed, a_stranger_adds_points_to_anothers_ride);

    async fn a_noisy_gps_point_of_100_km_is_billed(backend: Backend) {
        let harness = ServiceHarness::start(backend, 2).await;
        let ride = TestRide::new(&harness);
        ride.publish(&harness, RideStatus::Started, 0.0).await;
        ride.drive(&harness, 0..=30).await;
        let mut noise = ride.point(&harness, 30.5);
        noise.location = place(0.0, 100_000.0);
        harness.publish(&Event::LocationUpdate(noise)).await;
        ride.drive(&harness, 31..=60).await;
        ride.publish(&harness, RideStatus::Arrived, 60.0).await;
        assert_driven(&harness.final_aggregate(ride.id).await, 900.0, 61);
        harness.end().await;
    }

    async fn a_stranger_adds_points_to_anothers_ride(backend: Backend) {
        let harness = ServiceHarness::start(backend, 1).await;
        let ride = TestRide::new(&harness);
        let stranger = TestRide { driver: harness.platform.world.id(), ..ride };
        // Before ride.started says whose ride it is, and at the same times as the driver's points; and afterwards.
        for second in 0..=10 {
            let mut point = stranger.point(&harness, f64::from(second));
            point.location = place(f64::from(second) * 15.0, 60.0 * f64::from(second));
            harness.publish(&Event::LocationUpdate(point)).await;
        }
        ride.publish(&harness, RideStatus::Started, 0.0).await;
        harness.all_handled().await;
        stranger.drive(&harness, 20..=59).await;
        ride.drive(&harness, 0..=10).await;
        ride.publish(&harness, RideStatus::Arrived, 10.0).await;
        assert_driven(&harness.final_aggregate(ride.id).await, 150.0, 11);
        harness.end().await;
    }
}

/// Asks how far the ride came until `second`, as rides does when it is cancelled.
async fn driven_until(harness: &ServiceHarness, ride: TestRide, second: f64) -> DrivenDistance {
    let (started_at, until) = (harness.second(0.0), harness.second(second));
    let request =
        DrivenDistanceRequest { ride_id: ride.id, driver_id: ride.driver, pickup: place(0.0, 0.0), started_at, until };
    let body = serde_json::to_string(&request).unwrap();
    let asked = async {
        loop {
            match harness.platform.bus.request(DRIVEN_DISTANCE, body.clone().into(), DRIVEN_DISTANCE_WAIT).await {
                // A process has only just started, and does not listen yet.
                Err(BusError::NoResponders(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                reply => return reply.unwrap(),
            }
        }
    };
    let reply = tokio::time::timeout(Duration::from_secs(30), asked).await.expect("location answers");
    serde_json::from_slice(&reply).unwrap()
}

async fn a_cancelled_ride_is_measured_with_what_waits_in_every_process(backend: Backend) {
    let mut harness = ServiceHarness::start(backend, 0).await;
    // Longer than the answer may take: points become rows because the answer needs them.
    harness.config.points_wait = chrono::Duration::seconds(20);
    harness.start_process().await;
    harness.start_process().await;
    let [ride, other, empty] = [(); 3].map(|()| TestRide::new(&harness));
    ride.publish(&harness, RideStatus::Started, 0.0).await;
    ride.drive(&harness, (0..=40).rev()).await;
    ride.drive(&harness, [7, 7, 30]).await;
    other.drive(&harness, 0..=10).await;
    let driven = driven_until(&harness, ride, 40.0).await;
    assert!((driven.distance_m - 600.0).abs() < 1.0 && driven.covered > 0.99, "{driven:?}");
    // It is the same without the ride's start, which may not have arrived: the request says when it was.
    let driven = driven_until(&harness, other, 10.0).await;
    assert!((driven.distance_m - 150.0).abs() < 1.0 && driven.covered > 0.99, "{driven:?}");
    // What came before the start and after the end is no part of it.
    let until_20 = driven_until(&harness, ride, 20.0).await;
    assert!((until_20.distance_m - 300.0).abs() < 1.0, "{until_20:?}");
    let nothing = driven_until(&harness, empty, 40.0).await;
    assert!(nothing.distance_m < 1.0 && nothing.covered < 0.01, "{nothing:?}");
    // A request that cannot be read, and a driver who is not the ride's.
    let wait = DRIVEN_DISTANCE_WAIT;
    let unreadable = harness.platform.bus.request(DRIVEN_DISTANCE, "{}".into(), wait).await;
    assert!(unreadable.is_err() || serde_json::from_slice::<DrivenDistance>(&unreadable.unwrap()).is_err());
    let strange = driven_until(&harness, TestRide { driver: other.driver, ..ride }, 40.0).await;
    assert!(strange.distance_m < 1.0, "{strange:?}");
    harness.end().await;
}
