//! `rideshare audit` on a running platform: verify, replay, repair of a lost stream, verify of an edited copy, rebuild of tables.

use std::process::Output;
use std::time::Duration;

use platform::World;
use serde_json::{Value, json};
use sqlx::Connection;
use streams::bus::{ReplayStart, StoredMessage};
use streams::topology::{DEAD_LETTER_STREAM, Topology};
use streams::{Bus, Message, Service};

use crate::harness::client::{Person, Socket, http};
use crate::harness::nats::Nats;
use crate::harness::ride::{drive, online, trip};
use crate::harness::running::{Running, Shape};
use crate::harness::{rideshare, until};
use testing::database;

const STREAM: &str = "RIDE_STREAM";

/// A platform with one completed ride, one that was cancelled after its start, and one live ride.
struct Rides {
    running: Running,
    people: [Person; 2],
    live: Value,
    driver: Socket,
    passenger: Socket,
}

impl Rides {
    async fn start() -> Self {
        let running = Running::start(Shape::Nats, &["--track-max-speed-mps", "1000000"]).await;
        let people = [Person::driver(running.addr(), 1).await, Person::passenger(running.addr(), 2).await];
        let (mut driver, mut passenger) = (people[0].connect(None).await, people[1].connect(None).await);
        let found = offer(&mut driver, &mut passenger).await;
        drive(&mut driver, &mut passenger, &found, &World::real()).await;
        driver.event("ride.completed").await;
        passenger.event("ride.completed").await;
        let mut live = Value::Null;
        for n in 0..2 {
            let found = offer(&mut driver, &mut passenger).await;
            driver.ack("match.accept", json!({"match_id": found})).await;
            let pickup = passenger.event("ride.pickup").await["data"].clone();
            live = json!({"ride_id": pickup["ride_id"], "pin": pickup["pin"]});
            if n == 0 {
                driver.ack("ride.start", live.clone()).await;
                let cancel = json!({"ride_id": live["ride_id"], "reason": "a \"long, long\" way"});
                passenger.ack("ride.cancel", cancel).await;
                driver.event("ride.cancelled").await;
                passenger.event("ride.cancelled").await;
            }
        }
        running.settled().await;
        Self { running, people, live, driver, passenger }
    }

    fn bus(&self) -> &Bus {
        self.running.bus()
    }

    /// Mailbox entries of both people about rides.
    async fn ride_events_in_mailboxes(&self) -> i64 {
        let database = self.running.settings.database_url.as_deref().unwrap();
        let mut connection = sqlx::PgConnection::connect(database).await.unwrap();
        let count = "select count(*) from users.mailbox where event_id like 'ride.%'";
        sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap()
    }

    async fn stored(&self) -> Vec<StoredMessage> {
        stored(self.bus()).await
    }

    fn audit(&self, args: &[&str]) -> (i32, String) {
        let database = self.running.settings.database_url.clone().unwrap();
        on(self.running.nats(), &database, args)
    }
}

/// `rideshare audit …`; its status, and all that it printed.
fn on(nats: &Nats, database: &str, args: &[&str]) -> (i32, String) {
    let base = ["--database-url", database, "--log", "error"];
    let Output { status, stdout, stderr } = nats.rideshare(&[&["audit"], args, &base[..]].concat());
    let output = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (status.code().unwrap(), output)
}

async fn offer(driver: &mut Socket, passenger: &mut Socket) -> Value {
    online(driver, 40.751).await;
    passenger.ack("finder.update", trip()).await;
    driver.event("match.found").await["data"]["match_id"].clone()
}

async fn stored(bus: &Bus) -> Vec<StoredMessage> {
    let mut replay = bus.replay(STREAM, None, ReplayStart::Sequence(1)).await.unwrap();
    let mut all = Vec::new();
    while !replay.is_at_end() {
        all.extend(replay.batch(100, Duration::from_secs(10)).await.unwrap());
    }
    all
}

fn messages(stored: &[StoredMessage]) -> Vec<Message> {
    let of = |m: &StoredMessage| {
        let StoredMessage { subject, headers, payload, .. } = m.clone();
        Message { subject, headers, payload }
    };
    stored.iter().map(of).collect()
}

/// Every row of the tables of rides that follow from events, as text.
async fn dump(database: &str) -> Vec<(&'static str, Vec<String>)> {
    let mut connection = sqlx::PgConnection::connect(database).await.unwrap();
    let mut dump = Vec::new();
    // The times of attempts at payment follow from no event.
    for (table, rows) in [
        ("rides", "select to_jsonb(t)::text from rides.rides t order by 1"),
        ("events", "select to_jsonb(t)::text from rides.events t order by 1"),
        ("ledger_entries", "select to_jsonb(t)::text from rides.ledger_entries t order by 1"),
        ("payments", "select (to_jsonb(t) - 'tried_at')::text from rides.payments t order by 1"),
        ("debts", "select (to_jsonb(t) - 'at')::text from rides.debts t order by 1"),
    ] {
        dump.push((table, sqlx::query_scalar(rows).fetch_all(&mut connection).await.unwrap()));
    }
    dump
}

impl Rides {
    /// The republished events had no second effect: no further mailbox entry, nobody freed or locked, and the live ride goes on.
    async fn without_second_effects(mut self) {
        self.running.settled().await;
        assert_eq!(self.ride_events_in_mailboxes().await, 2 * 8);
        assert_eq!(self.bus().stream_info(DEAD_LETTER_STREAM).await.unwrap().messages, 0);
        let code = self.passenger.refused("finder.update", trip()).await;
        assert_eq!(code, "ride_live", "the passenger is still in the ride");
        self.driver.ack("ride.start", self.live.clone()).await;
        self.driver.ack("ride.arrive", json!({"ride_id": self.live["ride_id"]})).await;
        self.driver.event("ride.arrived").await;
        self.passenger.event("ride.arrived").await;
        self.running.settled().await;
        let (status, output) = self.audit(&["verify"]);
        assert!(status == 0 && output.contains("10 messages in the stream"), "{output}");
        drop((self.driver, self.passenger));
        self.running.stop().await;
    }

    fn published_again(&self) -> u64 {
        self.running.app(Service::Rides).platform.metrics.published_again.with_label_values(&["rides"]).get()
    }
}

#[tokio::test]
async fn the_ride_stream_is_deleted_and_published_again() {
    let mut rides = Rides::start().await;
    let before = rides.stored().await;
    assert_eq!(before.len(), 4 + 3 + 1);
    let (status, output) = rides.audit(&["verify"]);
    assert!(
        status == 0 && output.contains("8 messages in the stream; 3 rides in the database, 1 of them live"),
        "{output}"
    );

    // While no process runs that would recover it.
    let bus = rides.bus().clone();
    rides.running.pause().await;
    bus.delete_stream(STREAM).await.unwrap();
    bus.apply(&Topology::rideshare()).await.unwrap();
    let (status, output) = rides.audit(&["verify"]);
    assert!(status == 1 && output.contains("8 differences") && output.contains("not in the stream"), "{output}");
    let (status, output) = rides.audit(&["repair"]);
    assert!(status == 0 && output.contains("8 events published again (0 of them"), "{output}");
    assert_eq!(
        messages(&stored(&bus).await),
        messages(&before),
        "the same but for sequences: subjects, headers, bodies, order"
    );
    let (status, output) = rides.audit(&["verify"]);
    assert!(status == 0 && output.contains("all of it is sound"), "{output}");

    // Every consumer receives all of it again.
    rides.running.start_again().await;
    for person in &mut rides.people {
        person.addr = rides.running.addr();
    }
    rides.driver = rides.people[0].connect(None).await;
    rides.passenger = rides.people[1].connect(None).await;
    let again = rides.running.app(Service::Rides).platform.metrics.clone();
    rides.without_second_effects().await;
    assert_eq!(again.published_again.with_label_values(&["rides"]).get(), 0, "it was repaired");
}

#[tokio::test]
async fn a_ride_stream_lost_under_a_running_platform_is_published_again_by_it() {
    let rides = Rides::start().await;
    let before = rides.stored().await;
    rides.bus().delete_stream(STREAM).await.unwrap();
    rides.running.nats().apply_if_secured().await;
    until("the platform has published it again", async || {
        rides.bus().stream_info(STREAM).await.is_ok_and(|info| info.messages == 8)
    })
    .await;
    assert_eq!(
        messages(&rides.stored().await),
        messages(&before),
        "the same but for sequences: subjects, headers, bodies, order"
    );
    assert_eq!(rides.published_again(), 8);
    for (command, words) in
        [("verify", "all of it is sound"), ("repair", "0 events published again"), ("verify", "sound")]
    {
        let (status, output) = rides.audit(&[command]);
        assert!(status == 0 && output.contains(words), "{output}");
    }
    rides.without_second_effects().await;
}

#[tokio::test]
async fn missing_and_duplicated_events_are_repaired() {
    let mut rides = Rides::start().await;
    let (bus, before) = (rides.bus().clone(), rides.stored().await);
    rides.running.pause().await;
    // As after five minutes: no id is left in the duplicate window.
    let jetstream = async_nats::jetstream::new(rides.running.nats().client().await);
    let mut config = jetstream.get_stream(STREAM).await.unwrap().cached_info().config.clone();
    config.duplicate_window = Duration::from_millis(100);
    jetstream.update_stream(config).await.unwrap();
    let window_passes = async || tokio::time::sleep(Duration::from_secs(1)).await;
    window_passes().await;

    // Of the completed ride the second and third event, of the cancelled one the first; the completed one's last twice.
    for sequence in [2, 3, 5] {
        bus.delete_message(STREAM, sequence).await.unwrap();
    }
    bus.publish(messages(&before)[3].clone()).await.unwrap();
    // The copy's id too: repair sets the window back to five minutes and would find it there.
    window_passes().await;
    let (status, output) = rides.audit(&["verify"]);
    assert!(status == 1 && output.contains("not in the stream"), "{output}");
    let (status, output) = rides.audit(&["repair"]);
    assert!(status == 0 && output.contains("events published again (0 of them"), "{output}");
    let (status, output) = rides.audit(&["verify"]);
    assert!(
        status == 0 && output.contains("8 messages in the stream") && output.contains("all of it is sound"),
        "{output}"
    );
    let after = stored(&bus).await;
    let of = |stored: &[StoredMessage], ride: &Value| -> Vec<Message> {
        let is_of = |m: &Message| serde_json::from_slice::<Value>(&m.payload).unwrap()["ride_id"] == *ride;
        messages(stored).into_iter().filter(is_of).collect()
    };
    for message in messages(&before) {
        let ride = &serde_json::from_slice::<Value>(&message.payload).unwrap()["ride_id"];
        assert_eq!(of(&after, ride), of(&before, ride));
    }
    let (status, output) = rides.audit(&["repair"]);
    assert!(status == 0 && output.contains("0 events published again"), "{output}");
    rides.running.stop().await;
}

#[tokio::test]
async fn one_changed_byte_is_reported_with_ride_version_and_reason() {
    let rides = Rides::start().await;
    let original = rides.stored().await;
    let copy = Nats::start().await;
    let bus = copy.bus().await;
    let mut topology = Topology::rideshare();
    topology.streams.retain(|stream| stream.name == STREAM);
    topology.consumers.clear();
    bus.apply(&topology).await.unwrap();
    let edited: Value = serde_json::from_slice(&original[2].payload).unwrap();
    for (n, message) in messages(&original).into_iter().enumerate() {
        let mut body = message.payload.to_vec();
        if n == 2 {
            // The last digit of the dropoff's latitude.
            let at = body.windows(7).position(|part| part == b"\"lat\":4").unwrap() + 9;
            body[at] = if body[at] == b'1' { b'2' } else { b'1' };
        }
        bus.publish(Message { payload: body.into(), ..message }).await.unwrap();
    }
    let database = rides.running.settings.database_url.clone().unwrap();
    let (status, output) = on(&copy, &database, &["verify"]);
    let place = format!("ride {} version {} (sequence 3): ", edited["ride_id"].as_str().unwrap(), edited["version"]);
    assert_eq!(status, 1, "{output}");
    assert!(output.contains(&format!("{place}the body was changed: its hash is ")), "{output}");
    assert!(output.contains(&format!("{place}its body is not the database's from byte ")), "{output}");
    assert!(output.ends_with("2 differences\n"), "{output}");
    let (status, output) = on(&copy, &database::fresh().await, &["rebuild"]);
    assert!(status == 1 && output.contains("nothing was written"), "{output}");
    rides.running.stop().await;
}

#[tokio::test]
async fn rebuilt_tables_equal_the_live_ones_row_for_row() {
    let rides = Rides::start().await;
    let live = rides.running.settings.database_url.clone().unwrap();
    let nats = rides.running.nats();
    let fresh = database::fresh().await;
    let (status, output) = on(nats, &fresh, &["rebuild"]);
    assert!(status == 0 && output.contains("of 8 messages: 3 rides, 8 events and 10 ledger entries"), "{output}");
    let (rebuilt, running) = (dump(&fresh).await, dump(&live).await);
    assert_eq!(running.iter().map(|(_, rows)| rows.len()).collect::<Vec<_>>(), [3, 8, 10, 2, 0]);
    assert_eq!(rebuilt, running);
    let (status, output) = on(nats, &fresh, &["verify"]);
    assert!(status == 0 && output.contains("all of it is sound"), "{output}");
    for database in [&fresh, &live] {
        let (status, output) = on(nats, database, &["rebuild"]);
        assert!(status == 1 && output.contains("the table rides of the schema rides has rows already"), "{output}");
    }
    // A ledger entry changed by hand.
    let mut connection = sqlx::PgConnection::connect(&fresh).await.unwrap();
    sqlx::query("update rides.ledger_entries set amount = amount + 1 where account = 'platform:revenue'")
        .execute(&mut connection)
        .await
        .unwrap();
    let (status, output) = on(nats, &fresh, &["verify"]);
    assert!(status == 1 && output.contains("add up to 0.01 USD and not to 0"), "{output}");
    assert_eq!(dump(&live).await, running, "the live one was only read");
    rides.running.stop().await;
}

/// What a restore to an earlier moment leaves: one ride as it was after its second event, and nothing of the two after it.
#[tokio::test]
async fn recovered_tables_equal_the_live_ones_row_for_row() {
    let rides = Rides::start().await;
    let live = rides.running.settings.database_url.clone().unwrap();
    let nats = rides.running.nats();
    let fresh = database::fresh().await;
    let (status, output) = on(nats, &fresh, &["rebuild"]);
    assert_eq!(status, 0, "{output}");
    let mut connection = sqlx::PgConnection::connect(&fresh).await.unwrap();
    for statement in [
        "delete from rides.ledger_entries",
        "delete from rides.payments",
        "delete from rides.events where version > 2 or ride_id in (select ride_id from rides.rides where status <> 'completed')",
        "delete from rides.served where match_id in (select match_id from rides.rides where status <> 'completed')",
        "delete from rides.rides where status <> 'completed'",
        "update rides.rides set status = 'started', version = 2, fare = null, distance_m = null, arrived_at = null, last_hash = \
         (select hash from rides.events e where e.ride_id = rides.ride_id and version = 2)",
    ] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    let earlier = dump(&fresh).await;
    assert_eq!(earlier.iter().map(|(_, rows)| rows.len()).collect::<Vec<_>>(), [1, 2, 0, 0, 0]);
    let (status, output) = on(nats, &fresh, &["recover"]);
    let said = "of 8 messages the database lacked: 6 events of 3 rides; 10 ledger entries were written for them";
    assert!(status == 0 && output.contains(said), "{output}");
    assert_eq!(dump(&fresh).await, dump(&live).await);
    let (status, output) = on(nats, &fresh, &["verify"]);
    assert!(status == 0 && output.contains("all of it is sound"), "{output}");
    let (status, output) = on(nats, &fresh, &["recover"]);
    assert!(status == 0 && output.contains("0 events of 0 rides"), "{output}");

    // A service ran after the restore: a ride has another event in the place of the stream's. Nothing is written, also of other rides.
    for statement in [
        "update rides.events set hash = repeat('0', 64) where subject = 'ride.arrived'",
        "delete from rides.events where subject = 'ride.cancelled'",
    ] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    let forked = dump(&fresh).await;
    let (status, output) = on(nats, &fresh, &["recover"]);
    assert!(status == 1 && output.contains("the database has another event in its place"), "{output}");
    assert!(output.contains("nothing was written"), "{output}");
    assert_eq!(dump(&fresh).await, forked);
    rides.running.stop().await;
}

#[tokio::test]
async fn the_trail_of_people_whose_accounts_have_ended_is_sound_and_can_be_rebuilt() {
    let mut rides = Rides::start().await;
    let cancel = json!({"ride_id": rides.live["ride_id"], "reason": "changed_plans"});
    rides.passenger.ack("ride.cancel", cancel).await;
    rides.driver.event("ride.cancelled").await;
    rides.running.settled().await;
    for person in &rides.people {
        let (status, problem) = http(person.addr, "DELETE", "/v1/me", Some(&person.token), None).await;
        assert_eq!(status, 204, "{problem}");
    }
    rides.running.settled().await;
    let (status, output) = rides.audit(&["verify"]);
    assert!(status == 0 && output.contains("all of it is sound"), "{output}");
    let live = rides.running.settings.database_url.clone().unwrap();
    let fresh = database::fresh().await;
    let (status, output) = on(rides.running.nats(), &fresh, &["rebuild"]);
    assert!(status == 0 && output.contains("3 rides, 9 events"), "{output}");
    assert_eq!(dump(&fresh).await, dump(&live).await);
    // Rides name people by their ids; who they were is nowhere any more.
    let mut connection = sqlx::PgConnection::connect(&live).await.unwrap();
    let named: i64 = sqlx::query_scalar("select count(*) from users.users where phone is not null or name is not null")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(named, 0);
    drop((rides.driver, rides.passenger));
    rides.running.stop().await;
}

#[tokio::test]
async fn a_replay_shows_what_matches_and_touches_no_consumer() {
    let rides = Rides::start().await;
    let stored = rides.stored().await;
    let consumers = async || rides.bus().stream_info(STREAM).await.unwrap().consumers;
    // The stream may count more now: the ordered consumer that read `stored` is deleted after half a minute.
    let durables = Topology::rideshare().consumers;
    let durables = durables.iter().filter(|c| c.stream == STREAM).count() as u64;
    let (status, output) = rides.audit(&["replay", "--format", "json"]);
    assert_eq!(status, 0, "{output}");
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), stored.len());
    for (line, message) in lines.iter().zip(&stored) {
        assert_eq!(
            (line["sequence"].as_u64(), line["subject"].as_str()),
            (Some(message.sequence), Some(&*message.subject))
        );
        assert_eq!(line["data"], serde_json::from_slice::<Value>(&message.payload).unwrap());
        assert_eq!(line["headers"]["traceparent"], message.headers.find("traceparent").unwrap());
    }
    let ride = lines[0]["data"]["ride_id"].as_str().unwrap();
    for (args, count) in [
        (&["--ride", ride][..], 4),
        (&["--ride", "0190b7a0-0000-7000-8000-000000000001"], 0),
        (&["--subject", "ride.pickup"], 3),
        (&["--subject", "ride.cancelled"], 1),
        (&["--from-seq", "7"], 2),
        (&["--from-seq", "100"], 0),
        (&["--since", "1h"], 8),
        (&["--since", "2999-01-01T00:00:00Z"], 0),
        (&["--subject", "ride.pickup", "--from-seq", "2", "--ride", ride], 0),
    ] {
        let (status, output) = rides.audit(&[&["replay", "--format", "json"], args].concat());
        assert_eq!((status, output.lines().count()), (0, count), "{args:?}: {output}");
        let (_, output) = rides.audit(&[&["replay", "--format", "csv"], args].concat());
        assert_eq!(output.lines().count(), count + 1, "{args:?}: {output}");
    }
    let (_, output) = rides.audit(&["replay"]);
    assert!(output.lines().count() == 9 && output.contains("by passenger, 6.00 USD: a \"long, long\" way"), "{output}");
    let refused = rides.audit(&["replay", "--subject", "match.found"]);
    assert!(refused.0 == 2 && refused.1.contains("ride.completed"), "{}", refused.1);
    until("the readers are gone", async || consumers().await == durables).await;
    rides.running.stop().await;
}

#[tokio::test]
async fn a_replay_follows_until_it_is_interrupted() {
    let mut rides = Rides::start().await;
    let login = rides.running.nats().arguments("operator");
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_rideshare"))
        .args(["audit", "replay", "--follow", "--format", "json", "--log", "error"])
        .args(login)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(child.stdout.take().unwrap()));
    let mut next = async || {
        let line =
            tokio::time::timeout(crate::harness::client::WAIT, lines.next_line()).await.unwrap().unwrap().unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    for sequence in 1..=8 {
        assert_eq!(next().await["sequence"], sequence);
    }
    rides.driver.ack("ride.start", rides.live.clone()).await;
    let line = next().await;
    assert_eq!((&line["subject"], &line["data"]["ride_id"]), (&json!("ride.started"), &rides.live["ride_id"]));
    let id = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let status = tokio::time::timeout(crate::harness::client::WAIT, child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    drop((rides.driver, rides.passenger));
    rides.running.stop().await;
}

#[test]
fn commands_without_a_stream_are_refused_with_the_reason() {
    for (args, reason) in [
        (&["audit", "verify"][..], "QUEUE_TYPE=nats"),
        (&["audit", "replay"], "inside the process that runs it"),
        (&["audit", "repair", "--queue-type", "nats"], "DATABASE_URL"),
        (&["audit", "replay", "--since", "yesterday"], "how long ago"),
        (&["audit", "replay", "--since", "1h", "--from-seq", "3"], "cannot be used with"),
    ] {
        let output = rideshare(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(reason), "{args:?}: {error}");
    }
}
