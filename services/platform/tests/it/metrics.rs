//! The series of a service: there from its start, and measured by the clocks that their names say.

use chrono::TimeDelta;
use platform::service::ServiceTasks;
use platform::{CancellationToken, Platform, World, relay};
use streams::memory::MemoryBus;
use streams::{Bus, Service, VehicleType};
use testing::Backend;

use crate::accounts::store;
use crate::consumer::{Rig, beacon};

async fn platform() -> Platform {
    let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 7);
    let bus = Bus::Memory(MemoryBus::new(world.started_at(), 10_000));
    let platform = Platform::new(world, bus, "test");
    platform.bus.apply(&platform.topology).await.unwrap();
    platform
}

fn value(platform: &Platform, series: &str) -> Option<f64> {
    let text = platform.metrics.text(&platform.health);
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// A counter whose series begins with its first event has no increase at that event.
#[tokio::test(start_paused = true)]
async fn the_series_of_a_service_begin_with_0() {
    for (group, is_fast) in [(Some("city".into()), true), (None, false)] {
        let mut platform = platform().await;
        platform.core_queue_group = group;
        let store = store(Backend::Memory, &platform.world).await;
        let tasks = ServiceTasks::start(&platform, Service::Match, &store, &CancellationToken::new());
        for metric in ["taken", "handled", "failed", "duplicate"] {
            let of = |path: &str, subject: &str| {
                value(&platform, &format!("rideshare_events_{metric}_total{{path=\"{path}\",subject=\"{subject}\"}}"))
            };
            assert_eq!(of("jetstream", "user.finder"), Some(0.0), "{metric}");
            assert_eq!(of("jetstream", "location.update"), Some(0.0), "{metric}");
            assert_eq!(of("core", "user.finder"), is_fast.then_some(0.0), "{metric}");
            assert_eq!(of("core", "location.update"), None, "{metric}: it has no fast lane");
            assert_eq!(of("jetstream", "match.found"), None, "{metric}: match does not read it");
        }
        for series in [
            "rideshare_publish_failures_total{subject=\"match.found\"}",
            "rideshare_publishes_total{subject=\"match.found\"}",
            "rideshare_message_failures_total{consumer=\"user_finder_match\"}",
            "rideshare_dead_letters_total{consumer=\"user_finder_match\"}",
            "rideshare_core_messages_dropped_total",
            "rideshare_sos_total{outcome=\"failed\"}",
            "rideshare_spans_dropped_total{reason=\"queue\"}",
        ] {
            assert_eq!(value(&platform, series), Some(0.0), "{series}");
        }
        assert_eq!(value(&platform, "rideshare_publish_failures_total{subject=\"ride.pickup\"}"), None);
        drop(tasks);
    }
}

/// The time of an event may be that of a phone, an hour ago.
#[tokio::test(start_paused = true)]
async fn the_delay_of_an_event_counts_from_its_publish_and_its_age_from_its_own_time() {
    let mut rig = Rig::start(platform().await, Backend::Memory).await;
    let (event, world) = (beacon(1, VehicleType::Car, 1), rig.platform.world.clone());
    let measured_at = world.now() - TimeDelta::hours(1);
    let id = event.message_id(world.now());
    let message =
        relay::message(event.subject().as_str(), &id, "x", measured_at, "", Service::Users, event.body().into());
    rig.platform.bus.publish(message).await.unwrap();
    rig.done(1).await;
    let of = |metric: &str| {
        let labels = "{path=\"jetstream\",subject=\"user.beacon\"}";
        value(&rig.platform, &format!("rideshare_event_{metric}_seconds_sum{labels}")).unwrap()
    };
    assert!(of("delay") < 5.0, "{}", of("delay"));
    assert!((3_600.0..3_605.0).contains(&of("age")), "{}", of("age"));
}
