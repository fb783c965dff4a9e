//! The simulator's city in a simulation: its people and their behaviour, from the seed; and, when its day is over, a roll call of
//! all of them. Nothing here knows more of the platform than the contract.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use serde_json::json;
use simulator::load::{Person, people_over};
use simulator::{Config, Faults, Observation, Position, Transport};
use streams::simulation::Dice;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::nemesis::LOOK_EVERY;
use crate::scene::Scene;

pub(crate) const DRIVERS: usize = 4;
pub(crate) const PASSENGERS: usize = 5;
/// The longest that people may take from the last fault until their rides are over.
pub(crate) const WIND_DOWN: Duration = Duration::from_secs(280);
/// Times as fast as real: a ride takes a quarter of a minute.
const SPEED: f64 = 20.0;
/// Positions are the most frequent command; a few for each ride suffice.
const POINT_EVERY: Duration = Duration::from_secs(3);
const CENTRE: Position = Position { lat: 40.7484, lng: -73.9857 };
/// The longest wait of a free driver for an offer when more passengers ask than there are drivers.
const OFFER_MAX: Duration = Duration::from_secs(60);

/// Connections to processes by their names.
pub(crate) fn transport(scene: &Arc<Scene>) -> Transport {
    let scene = scene.clone();
    Transport::Memory(Arc::new(move |authority| {
        let name = authority.split(':').next().unwrap_or_default();
        let process = scene.processes.iter().find(|process| *process.name == *name);
        process.ok_or(io::ErrorKind::NotFound)?.connect()
    }))
}

fn url(name: &str) -> String {
    format!("http://{name}:80")
}

fn one_of<T: Copy>(dice: &mut Dice, all: &[T]) -> T {
    all[usize::try_from(dice.below(all.len() as u64)).unwrap_or(0)]
}

/// A day in the city; for `open_for` people ask for rides.
pub(crate) fn config(
    scene: &Arc<Scene>,
    seed: u64,
    open_for: Duration,
    dice: &mut Dice,
    to: Sender<Observation>,
) -> Config {
    let seconds = Duration::from_secs;
    let mut share = |most: u64| dice.below(most) as f64 / 100.0;
    let faults = Faults {
        decline: share(25),
        ignore: share(15),
        cancel_search: share(20),
        cancel_ride: share(20),
        driver_cancel: share(10),
        cut: share(6),
        repeat: share(30),
        wrong_pin: share(30),
        bad_track: share(30),
        jump: share(3),
        future_fix: 0.02,
        frozen: share(5),
        held: share(20),
        standing: share(5),
        tablet: share(50),
        forbidden_command: share(30),
        reinstall: share(4) / 4.0,
    };
    let off = dice.percent(40);
    let slow_clock = if off { one_of(dice, &[50, 7_200, 20 * 3_600]) } else { 0 };
    let fast_clock = if off { one_of(dice, &[50, 3_600, 5 * 3_600]) } else { 0 };
    Config {
        billed_tolerance: None,
        urls: vec![url("users-1"), url("users-2")],
        rides_url: Some(url("rides-1")),
        drivers: DRIVERS,
        passengers: PASSENGERS,
        rides: usize::MAX,
        time_limit: open_for + WIND_DOWN.min(open_for / 2),
        wind_down: WIND_DOWN,
        seed,
        speed: SPEED,
        position_interval: POINT_EVERY,
        // Some drivers answer when the offer has all but expired.
        think_max: Duration::from_millis(one_of(dice, &[600, 4_000, 15_000])),
        faults,
        centres: vec![CENTRE],
        patience: seconds(60),
        run_id: Some(seed),
        // The faults of seed 32 leave no process of users, of match or of rides from second 49 to second 531.
        outage: seconds(480),
        slow_clock: seconds(slow_clock),
        fast_clock: seconds(fast_clock),
        observer: Some(to),
        transport: transport(scene),
        starts_at: Some(scene.world.now()),
        ..Config::default()
    }
}

/// Everybody connects once more and reads what they have missed; then all passengers, who are more than the drivers, search. If
/// each search is acked and each driver gets an offer, nobody is held by anything. The connections stay open.
pub(crate) async fn roll_call(scene: &Arc<Scene>, seed: u64) -> JoinSet<()> {
    let (transport, run_id, url) = (transport(scene), seed, url("users-1"));
    let mut here = JoinSet::new();
    let call = Arc::new(RollCall { scene: scene.clone(), over: AtomicBool::new(false), free: Free::default() });
    for (first, count) in [(0, DRIVERS), (DRIVERS, PASSENGERS)] {
        match people_over(&transport, &url, run_id, first, count, None).await {
            Ok(mut people) => {
                people.sort_by(|a, b| a.id.cmp(&b.id));
                for person in people {
                    here.spawn(call.clone().attend(person, if first == 0 { Role::Driver } else { Role::Passenger }));
                }
            }
            Err(error) => scene.log().violation(format!("cannot sign in any more: {error:#}")),
        }
    }
    let until = Instant::now() + OFFER_MAX;
    loop {
        let (offered, searching) = call.free.count();
        if (offered, searching) == (DRIVERS, PASSENGERS) {
            break;
        }
        if Instant::now() >= until {
            let what = format!(
                "not free: {searching} of {PASSENGERS} passengers can search, {offered} of {DRIVERS} drivers get an offer"
            );
            scene.log().violation(what);
            break;
        }
        sleep(LOOK_EVERY).await;
    }
    call.over.store(true, Ordering::Relaxed);
    here
}

/// The drivers who were offered a match, and the passengers whose search was acked.
#[derive(Debug, Default)]
struct Free(std::sync::Mutex<(BTreeSet<String>, BTreeSet<String>)>);

impl Free {
    fn count(&self) -> (usize, usize) {
        let free = self.0.lock().unwrap();
        (free.0.len(), free.1.len())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Driver,
    Passenger,
}

struct RollCall {
    scene: Arc<Scene>,
    over: AtomicBool,
    free: Free,
}

impl RollCall {
    async fn attend(self: Arc<Self>, person: Person, role: Role) {
        let user = person.id.clone();
        let mut last_seq = self.scene.log().received.get(&user).and_then(|all| all.last()).map_or(0, |event| event.seq);
        let (mut to, mut from, newest) = match person.resume(last_seq).await {
            Ok(open) => open,
            Err(error) => return self.scene.log().violation(format!("{user} cannot connect any more: {error:#}")),
        };
        if newest < last_seq {
            self.scene.log().violation(format!("{user}: the mailbox has {newest} events and had {last_seq}"));
        }
        let (kind, begin) = match role {
            Role::Driver => ("beacon.update", json!({"active": true, "location": CENTRE})),
            Role::Passenger => {
                let dropoff = Position { lat: CENTRE.lat + 0.01, ..CENTRE };
                ("finder.update", json!({"active": true, "pickup": CENTRE, "dropoff": dropoff, "vehicle_type": "car"}))
            }
        };
        let mut end = begin.clone();
        end["active"] = false.into();
        let _ = to.send(Some("begin"), kind, &begin).await;
        let mut ended = false;
        loop {
            let frame = tokio::select! {
                biased;
                frame = from.next() => frame,
                // (A `watch` would wake those who wait in random order.)
                () = sleep(LOOK_EVERY), if !ended => {
                    ended = self.over.load(Ordering::Relaxed);
                    if !ended {
                        continue;
                    }
                    let _ = to.send(Some("end"), kind, &end).await;
                    continue;
                }
            };
            let Some(frame) = frame else {
                return self.scene.log().violation(format!("{user}: the connection of the roll call is lost"));
            };
            if let Some(seq) = frame["seq"].as_u64() {
                if seq != last_seq + 1 {
                    self.scene.log().violation(format!("{user}: event {seq} comes after {last_seq}"));
                }
                last_seq = seq;
                let text = |name: &str| frame[name].as_str().unwrap_or_default().to_owned();
                let (user_id, event_id, kind, data) =
                    (user.to_string(), text("event_id"), text("type"), frame["data"].clone());
                // An event that was missed is no offer of now.
                if role == Role::Driver && seq > newest && kind == "match.found" {
                    self.free.0.lock().unwrap().0.insert(user.clone());
                }
                self.scene.log().observe(Observation::Event { user_id, seq, event_id, kind, data });
            } else if frame["type"] == "ack" {
                let (begins, user_id, answer) = (frame["id"] == "begin", user.to_string(), frame["data"].clone());
                if begins && role == Role::Passenger {
                    self.free.0.lock().unwrap().1.insert(user.clone());
                }
                let command_data = if begins { begin.clone() } else { end.clone() };
                self.scene.log().observe(Observation::Acked { user_id, kind, command_data, ack_data: answer });
            } else if frame["type"] != "location.live" {
                self.scene.log().violation(format!("{user}: {kind} was answered with {frame} in the roll call"));
            }
        }
    }
}
