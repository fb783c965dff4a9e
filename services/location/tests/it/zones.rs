//! Owners of zones: each position is recorded by the process that read it and by the owner of its zone, and every process answers with
//! what owners know.

use std::time::Duration;

use serde_json::{Value, json};
use streams::fleet::{FLEET, FleetReply, FleetRequest};
use streams::newest_position::{NEWEST_POSITION, NewestPosition, NewestPositionRequest};
use streams::{Event, Position, UserId};
use tokio::time::{sleep, timeout};

use crate::harness::{ServiceHarness, place};

const WAIT: Duration = Duration::from_secs(30);
const EVERYONE: &str = "location.service.heard";

/// Drivers in cells of their own: a cell is 12.003 km wide on the equator, and these places are more than 5 km inside.
struct Drivers {
    ids: Vec<UserId>,
    /// How far east of their first place they are, in steps of 300 m.
    steps: u32,
}

impl Drivers {
    async fn online(harness: &ServiceHarness) -> Self {
        let ids: Vec<UserId> = (0..12).map(|_| harness.platform.world.id()).collect();
        for (n, id) in ids.iter().enumerate() {
            harness.go_online(*id, Self::east_m(n)).await;
        }
        Self { ids, steps: 0 }
    }

    fn east_m(n: usize) -> f64 {
        1_000.0 + 12_003.0 * n as f64
    }

    fn place(n: usize) -> Position {
        place(Self::east_m(n), 0.0)
    }

    /// A position of each, 300 m or 600 m from the first place.
    async fn drive(&mut self, harness: &ServiceHarness) {
        self.steps = 1 + self.steps % 2;
        for (n, id) in self.ids.iter().enumerate() {
            let point = harness.free_point(*id, Self::east_m(n) + self.east_of_place());
            harness.publish(&Event::LocationUpdate(point)).await;
        }
    }

    fn east_of_place(&self) -> f64 {
        300.0 * f64::from(self.steps)
    }

    /// Whether every process shows each driver at the newest place.
    async fn are_shown(&self, harness: &ServiceHarness) -> bool {
        for process in 0..harness.processes() {
            for n in 0..self.ids.len() {
                let shown = harness.nearby_of(process, Self::place(n)).await;
                // Where they are shown depends on the grid of 100 m.
                let [at] = shown[..] else { return false };
                if (at - self.east_of_place()).abs() > 100.0 {
                    return false;
                }
            }
        }
        true
    }

    /// Drives until every process shows each driver at the newest place: it takes as long as processes need to learn of each other.
    async fn drive_until_shown(&mut self, harness: &ServiceHarness) {
        let shown = async {
            loop {
                self.drive(harness).await;
                harness.all_handled().await;
                let soon = timeout(Duration::from_secs(2), until(async || self.are_shown(harness).await));
                if soon.await.is_ok() {
                    return;
                }
            }
        };
        timeout(WAIT, shown).await.expect("every process shows every driver");
    }
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    while !condition().await {
        sleep(Duration::from_millis(20)).await;
    }
}

/// How many positions all processes recorded, by how they came: read, for their zone, sent to all, with another zone.
fn recorded(harness: &ServiceHarness) -> [u64; 4] {
    let recorded = &harness.platform.metrics.positions_recorded;
    ["stream", "owner", "everyone", "zone"].map(|source| recorded.with_label_values(&[source]).get())
}

/// The core messages of a round: with more processes there are not more of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_is_recorded_by_its_reader_and_the_owner_of_its_zone_however_many_processes_there_are() {
    for processes in [2, 4] {
        let harness = ServiceHarness::start_on_nats(processes).await;
        let mut drivers = Drivers::online(&harness).await;
        drivers.drive_until_shown(&harness).await;
        let before = recorded(&harness);
        for _ in 0..10 {
            drivers.drive(&harness).await;
        }
        harness.all_handled().await;
        let shown = until(async || drivers.are_shown(&harness).await);
        timeout(WAIT, shown).await.expect("every process shows every driver");
        let after = recorded(&harness);
        let [read, of_zone, to_all, entered] = [0, 1, 2, 3].map(|n| after[n] - before[n]);
        assert!(read >= 120, "{read} of 120: {processes} processes");
        assert!(of_zone <= read, "{of_zone} of {read}: {processes} processes");
        assert_eq!((to_all, entered), (0, 0), "nobody is of another version, and nobody came into another zone");
        harness.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_process_finds_every_driver_also_after_an_owner_is_killed_and_after_others_come_and_go() {
    let mut harness = ServiceHarness::start_on_nats(3).await;
    let mut drivers = Drivers::online(&harness).await;
    drivers.drive_until_shown(&harness).await;
    harness.kill_process(1).await;
    // Nobody has to move: the others read some of the positions, and the rows of beacons.
    let found = until(async || {
        for process in 0..harness.processes() {
            for n in 0..drivers.ids.len() {
                if harness.nearby_of(process, Drivers::place(n)).await.len() != 1 {
                    return false;
                }
            }
        }
        true
    });
    timeout(WAIT, found).await.expect("every process finds each driver");
    drivers.drive_until_shown(&harness).await;
    harness.start_process().await;
    harness.start_process().await;
    drivers.drive_until_shown(&harness).await;
    // One that ends hands its zones over: nobody has to move, and nothing is lost.
    harness.stop_process(0).await;
    let shown = until(async || drivers.are_shown(&harness).await);
    timeout(WAIT, shown).await.expect("every process shows every driver");
    drivers.drive_until_shown(&harness).await;
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_who_leaves_a_zone_is_found_in_the_other_one_alone() {
    let harness = ServiceHarness::start_on_nats(4).await;
    let mut drivers = Drivers::online(&harness).await;
    drivers.drive_until_shown(&harness).await;
    // Each into the cell of the next one, and the last one into a new cell; then back.
    for (moved, shown_at_first) in [(1, 0), (0, 1)] {
        for (n, id) in drivers.ids.iter().enumerate() {
            let point = harness.free_point(*id, Drivers::east_m(n + moved));
            harness.publish(&Event::LocationUpdate(point)).await;
        }
        harness.all_handled().await;
        let shown = until(async || {
            for process in 0..harness.processes() {
                for n in 0..=drivers.ids.len() {
                    let here = if n == 0 {
                        shown_at_first
                    } else if n == drivers.ids.len() {
                        moved
                    } else {
                        1
                    };
                    if harness.nearby_of(process, Drivers::place(n)).await.len() != here {
                        return false;
                    }
                }
            }
            true
        });
        timeout(WAIT, shown).await.expect("every process shows every driver in one zone");
    }
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_over_four_zones_and_the_whole_fleet_are_put_together_from_their_owners() {
    let harness = ServiceHarness::start_on_nats(4).await;
    let mut drivers = Drivers::online(&harness).await;
    drivers.drive_until_shown(&harness).await;
    // Around the corner of four cells, 7,001 m east and 479 m north.
    let corner = [(6_500.0, 0.0), (7_500.0, 0.0), (6_500.0, 1_000.0), (7_500.0, 1_000.0)];
    for (n, (east_m, north_m)) in corner.into_iter().enumerate() {
        let location = place(east_m, north_m);
        let point = streams::event::LocationUpdate { location, ..harness.free_point(drivers.ids[n], 0.0) };
        harness.publish(&Event::LocationUpdate(point)).await;
    }
    harness.all_handled().await;
    let shown = until(async || {
        for process in 0..harness.processes() {
            if harness.nearby_of(process, place(7_001.0, 479.0)).await.len() != corner.len() {
                return false;
            }
        }
        true
    });
    timeout(WAIT, shown).await.expect("every process finds the four drivers");
    let request = async |subject: &str, request: Value| {
        let body = serde_json::to_vec(&request).unwrap();
        harness.platform.bus.request(subject, body.into(), Duration::from_secs(5)).await.unwrap()
    };
    // Any process answers.
    for _ in 0..8 {
        let reply = request(FLEET, json!(FleetRequest::default())).await;
        let FleetReply { drivers: fleet, more } = serde_json::from_slice(&reply).unwrap();
        let mut ids = drivers.ids.clone();
        ids.sort_unstable();
        assert_eq!((fleet.iter().map(|driver| driver.user_id).collect::<Vec<_>>(), more), (ids, false));
        for (driver_id, (east_m, north_m)) in drivers.ids.iter().zip(corner) {
            let found = fleet.iter().find(|driver| driver.user_id == *driver_id).unwrap();
            assert_eq!(found.location, place(east_m, north_m), "the owner knows the newest place");
            let reply = request(NEWEST_POSITION, json!(NewestPositionRequest { driver_id: *driver_id })).await;
            let newest: Option<NewestPosition> = serde_json::from_slice(&reply).unwrap();
            assert_eq!(newest.unwrap().location, place(east_m, north_m));
        }
    }
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_the_version_before_is_sent_every_position_until_it_is_gone() {
    let harness = ServiceHarness::start_on_nats(2).await;
    let bus = harness.platform.bus.clone();
    let mut sent_to_all = bus.subscribe(EVERYONE, None).await.unwrap();
    let mut drivers = Drivers::online(&harness).await;
    drivers.drive_until_shown(&harness).await;
    // Says what the version before says.
    let presence = "before\n{\"updates\":[],\"beacons\":[],\"needed_up_to\":0}";
    let here = async || bus.publish_core(EVERYONE, presence.into()).await.unwrap();
    here().await;
    let mut positions = async || {
        let mut seen = std::collections::BTreeSet::new();
        while let Ok(Some(message)) = timeout(Duration::from_millis(500), sent_to_all.next()).await {
            let text = String::from_utf8(message.payload.to_vec()).unwrap();
            let body: Value = serde_json::from_str(text.split_once('\n').unwrap().1).unwrap();
            let updates = body["updates"].as_array().expect("the version before needs it");
            assert!(body["beacons"].is_array());
            seen.extend(updates.iter().map(|update| update["user_id"].as_str().unwrap().to_owned()));
        }
        seen.len()
    };
    // One of the two may not have received that it is there.
    let all = async {
        loop {
            here().await;
            drivers.drive(&harness).await;
            harness.all_handled().await;
            if positions().await == drivers.ids.len() {
                return;
            }
        }
    };
    timeout(WAIT, all).await.expect("the old process is sent all positions");
    assert!(drivers.are_shown(&harness).await, "and so is every other one");
    // It is silent for 20 s.
    let none = async {
        loop {
            drivers.drive(&harness).await;
            harness.all_handled().await;
            if positions().await == 0 {
                return;
            }
        }
    };
    timeout(2 * WAIT, none).await.expect("positions go to owners alone again");
    drivers.drive_until_shown(&harness).await;
    harness.end().await;
}
