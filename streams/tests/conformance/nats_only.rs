//! What only a real server can show: watchers of all subjects, headers and subjects of foreign producers, and credentials.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use streams::bus::ReplayStart;
use streams::nats::{Login, NatsBus, NatsSettings};
use streams::topology::{Consumer, Retention, Storage, Topology};
use streams::{Bus, BusError, Headers, Message};
use testing::nats::Server;
use testing::shipped::Certificates;
use tokio::time::Instant;

use crate::fixture::{Fixture, receive, receive_and_ack, text, texts, topology};

/// Blocks of headers that async-nats cannot parse, or takes for the server's own.
const MALFORMED: [&[u8]; 12] = [
    b"NATS/1.0\r\nx-city: Z\xfcrich\r\n\r\n",
    b"NATS/1.0\r\nx-st\xc3\xa4dte: ok\r\n\r\n",
    b"NATS/1.0\r\nx city: ok\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\nx: a\rb\r\n\r\n",
    b"NATS/9.9\r\nx: y\r\n\r\n",
    b"NATS/1.0 junk\r\nx: y\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 404 No Messages\r\n\r\n",
    b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
    b"\x00\xff\xfe\r\n\r\n",
    b"garbage",
];

/// Publishes without a client: any bytes may be headers.
struct Raw(TcpStream);

impl Raw {
    fn connect(url: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(url.rsplit('/').next().context("an address")?)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"CONNECT {\"verbose\":false,\"headers\":true}\r\n")?;
        Ok(Self(stream))
    }

    fn publish(&mut self, subject: &[u8], headers: &[u8], body: &str) -> Result<()> {
        let mut frame = b"HPUB ".to_vec();
        frame.extend(subject);
        frame.extend(format!(" {} {}\r\n", headers.len(), headers.len() + body.len()).bytes());
        frame.extend(headers);
        frame.extend(body.bytes());
        frame.extend(b"\r\n");
        Ok(self.0.write_all(&frame)?)
    }

    /// Returns once the server has handled everything before.
    fn flush(&mut self) -> Result<()> {
        self.0.write_all(b"PING\r\n")?;
        let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
        while !read.windows(4).any(|w| w == b"PONG") {
            let n = self.0.read(&mut buffer)?;
            ensure!(n > 0, "closed: {}", String::from_utf8_lossy(&read));
            read.extend(&buffer[..n]);
        }
        ensure!(!read.windows(4).any(|w| w == b"-ERR"), "{}", String::from_utf8_lossy(&read));
        Ok(())
    }
}

async fn connect(url: &str) -> Result<Bus> {
    let settings = NatsSettings { urls: vec![url.to_owned()], ..NatsSettings::default() };
    Ok(Bus::Nats(NatsBus::connect(&settings).await?))
}

#[tokio::test]
async fn a_watcher_of_all_subjects_disturbs_nobody() -> Result<()> {
    let server = Server::new()?;
    let watcher = connect(&server.url).await?;
    let _all = watcher.subscribe(">", None).await?;
    let _inboxes = watcher.subscribe("_INBOX.>", None).await?;
    let bus = connect(&server.url).await?;
    let began_at = Instant::now();
    // Each of these asks the server for a round trip.
    let mut requests = bus.subscribe("work", Some("workers")).await?;
    let _second = watcher.subscribe("other", None).await?;
    let answered = bus.clone();
    tokio::spawn(async move {
        let request = requests.next().await.expect("the request");
        answered.publish_core(&request.reply.expect("a reply subject"), Bytes::from("yes")).await.expect("sent");
    });
    assert_eq!(bus.request("work", Bytes::new(), Duration::from_secs(5)).await?, "yes");
    ensure!(began_at.elapsed() < Duration::from_secs(2), "{:?}", began_at.elapsed());
    // Without anybody to answer it ends after its wait, and no later.
    let nobody = bus.request("nobody", Bytes::new(), Duration::from_millis(300)).await;
    assert!(matches!(nobody, Err(BusError::Unavailable(_))), "{nobody:?}");
    Ok(())
}

#[tokio::test]
async fn a_message_with_malformed_headers_costs_nobody_else_anything() -> Result<()> {
    let server = Server::new()?;
    let f = Fixture::at("malformed", &server.url).await?;
    let stream = f.stream("s", &["a", "b.>"], Retention::Limits);
    let consumer = f.consumer(&stream, "c", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    let mut puller = f.pull(&consumer).await?;
    let mut core = f.bus.subscribe(&f.subject("core.*"), None).await?;
    let (subject, core_subject) = (f.subject("a"), f.subject("core.x"));
    let mut raw = Raw::connect(&server.url)?;
    let mut expected = Vec::new();
    for (n, headers) in MALFORMED.iter().enumerate() {
        for (headers, body) in [(&b"NATS/1.0\r\nx: y\r\n\r\n"[..], format!("good {n}")), (headers, format!("bad {n}"))]
        {
            raw.publish(subject.as_bytes(), headers, &body)?;
            raw.publish(core_subject.as_bytes(), headers, &body)?;
            expected.push(body);
        }
    }
    // Subjects that are no UTF-8, or hold white space that only Unicode knows.
    raw.publish([f.subject("core.").as_bytes(), b"\xff"].concat().as_slice(), b"NATS/1.0\r\n\r\n", "subject")?;
    raw.publish(f.subject("core.\u{2003}").as_bytes(), b"NATS/1.0\r\n\r\n", "subject")?;
    raw.flush()?;

    let deliveries = receive_and_ack(&mut puller, expected.len()).await?;
    assert_eq!(texts(&deliveries), expected);
    for delivery in &deliveries {
        let message = &delivery.message;
        let block = text(message).strip_prefix("bad ").map(|n| n.parse::<usize>()).transpose()?.map(|n| MALFORMED[n]);
        // Newer servers remove a status from what they store; then nothing is wrong any more.
        if !block.is_some_and(|block| block.starts_with(b"NATS/1.0 ")) {
            let malformed = message.headers.malformed();
            assert_eq!(malformed.is_some(), block.is_some(), "{}: {:?}", text(message), message.headers);
        }
        assert_eq!(delivery.deliveries, 1);
        // What could be parsed can be sent again.
        f.bus
            .publish(Message { subject: f.subject("b.again"), headers: message.headers.clone(), payload: Bytes::new() })
            .await?;
    }
    for body in expected.iter().map(String::as_str).chain(["subject", "subject"]) {
        assert_eq!(core.next().await.context("a core message")?.payload, body);
    }
    let mut replay = f.bus.replay(&stream.name, Some(&subject), ReplayStart::Sequence(1)).await?;
    for body in &expected {
        assert_eq!(text(&replay.next(Duration::from_secs(5)).await?.context("a message")?), body);
    }
    assert_eq!(f.bus.reconnects(), 1, "the connection was lost");
    assert_eq!(f.bus.stream_info(&stream.name).await?.messages, 2 * expected.len() as u64);
    Ok(())
}

#[tokio::test]
async fn a_poisoned_header_among_a_thousand_delays_no_other() -> Result<()> {
    let server = Server::new()?;
    let f = Fixture::at("poisoned", &server.url).await?;
    let stream = f.stream("s", &["a"], Retention::Interest);
    let consumer = Consumer { max_ack_pending: 2_000, ..f.consumer(&stream, "c", "a") };
    f.apply(&[&stream], &[&consumer]).await?;
    let mut raw = Raw::connect(&server.url)?;
    raw.publish(f.subject("a").as_bytes(), MALFORMED[0], "bad")?;
    for _ in 0..1_000 {
        raw.publish(f.subject("a").as_bytes(), b"NATS/1.0\r\n\r\n", "good")?;
    }
    raw.flush()?;
    let mut puller = f.pull(&consumer).await?;
    let deliveries = receive(&mut puller, 1_001).await?;
    let bad: Vec<u64> =
        deliveries.iter().filter(|d| d.message.headers.malformed().is_some()).map(|d| d.message.sequence).collect();
    assert_eq!(bad, [1]);
    assert!(deliveries.iter().all(|d| d.deliveries == 1));
    assert_eq!(f.bus.reconnects(), 1);
    Ok(())
}

/// The client reports its first connection by a task of its own, which may run after the pull.
#[tokio::test]
async fn what_is_pulled_right_after_connecting_is_acknowledged() -> Result<()> {
    let server = Server::new()?;
    let f = Fixture::at("at-once", &server.url).await?;
    let stream = f.stream("s", &["a"], Retention::Interest);
    let consumer = f.consumer(&stream, "c", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    for n in 0..20 {
        f.publish("a", "at once").await?;
        let settings = NatsSettings { urls: vec![server.url.clone()], ..NatsSettings::default() };
        let bus = Bus::Nats(NatsBus::connect(&settings).await?);
        ensure!(bus.reconnects() == 1, "connection {n} is counted {} times", bus.reconnects());
        let mut puller = bus.pull(&consumer).await?;
        let delivery = puller.fetch(1, Duration::from_secs(30)).await?.remove(0);
        delivery.ack_confirmed().await?;
    }
    Ok(())
}

/// Each pull request is a call of JetStream's API, in each process and for each consumer.
#[tokio::test]
async fn an_idle_consumer_is_pulled_rarely_and_notices_a_message_an_end_and_a_lost_server() -> Result<()> {
    let wait = Duration::from_secs(5);
    let mut server = Server::new()?;
    let f = Fixture::at("idle", &server.url).await?;
    let stream = f.stream("s", &["a"], Retention::Interest);
    let consumer = f.consumer(&stream, "c", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    let mut calls = connect(&server.url).await?.subscribe("$JS.API.CONSUMER.MSG.NEXT.>", None).await?;
    let mut count = async || {
        let mut count = 0;
        while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(100), calls.next()).await {
            count += 1;
        }
        count
    };
    let mut puller = f.pull(&consumer).await?;
    for _ in 0..4 {
        ensure!(puller.fetch(10, wait).await?.is_empty());
    }
    ensure!(count().await == 2, "a short one, and one that is still open");
    // It takes a message at once, and the rest of a batch after it.
    for _ in 0..2 {
        f.publish("a", "now").await?;
        let began_at = Instant::now();
        let delivery = puller.fetch(10, wait).await?.remove(0);
        delivery.ack_confirmed().await?;
        ensure!(began_at.elapsed() < Duration::from_secs(1), "{:?}", began_at.elapsed());
    }
    ensure!(count().await == 0);
    let began_at = Instant::now();
    puller.close().await;
    ensure!(began_at.elapsed() < Duration::from_secs(3), "an end waits for no request: {:?}", began_at.elapsed());

    let mut puller = f.pull(&consumer).await?;
    for _ in 0..2 {
        ensure!(puller.fetch(10, wait).await?.is_empty());
    }
    server.kill();
    let began_at = Instant::now();
    while puller.fetch(10, wait).await.is_ok() {}
    ensure!(began_at.elapsed() < Duration::from_secs(8), "{:?}", began_at.elapsed());
    // And goes on by itself with the next connection. The stream was in memory.
    server.start()?;
    while f.apply(&[&stream], &[&consumer]).await.is_err() {
        ensure!(began_at.elapsed() < Duration::from_secs(60), "no server");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    f.publish("a", "after").await?;
    let began_at = Instant::now();
    loop {
        match puller.fetch(10, wait).await {
            Ok(deliveries) if !deliveries.is_empty() => return Ok(deliveries[0].ack_confirmed().await?),
            _ => ensure!(began_at.elapsed() < Duration::from_secs(20), "nothing came"),
        }
    }
}

/// So an operator replaces them, and starts nothing again.
#[tokio::test]
async fn certificates_are_read_again_whenever_a_connection_opens() -> Result<()> {
    let directory = std::env::temp_dir().join(format!("rideshare-certificates-{}", std::process::id()));
    let [before, after] = ["before", "after"].map(|when| Certificates::new(&directory.join(when)));
    let (before, after) = (before?, after?);
    let of_server = before.copy(&directory.join("server"))?;
    let of_client = before.copy(&directory.join("client"))?;
    let mut server = Server::configured(&of_server.of_server())?;
    let (urls, login) = (vec![server.url.replace("nats://", "tls://")], of_client.login());
    let bus = Bus::Nats(NatsBus::connect(&NatsSettings { urls, login, ..NatsSettings::default() }).await?);
    bus.check().await?;
    for one in [&of_server, &of_client] {
        one.trust(&after)?;
        one.show(&after)?;
    }
    server.kill();
    server.start()?;
    let until = Instant::now() + Duration::from_secs(30);
    while bus.reconnects() < 2 || bus.check().await.is_err() {
        ensure!(Instant::now() < until, "it has not connected with the new certificates in 30 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(std::fs::remove_dir_all(directory)?)
}

#[tokio::test]
async fn credentials_are_shown_as_set_and_in_the_address() -> Result<()> {
    let host = |server: &Server| server.url.replace("nats://", "");
    let some = |text: &str| Some(text.to_owned().into());
    let user = Server::configured("authorization { user: \"r@s\", password: \"se:cret\" }\n")?;
    let token = Server::configured("authorization { token: \"s3cret\" }\n")?;
    let named = Login { user: Some("r@s".to_owned()), password: some("se:cret"), ..Login::default() };
    let secret = Login { token: some("s3cret"), ..Login::default() };
    for (url, login) in [
        (format!("nats://r%40s:se%3Acret@{}", host(&user)), Login::default()),
        (user.url.clone(), named.clone()),
        (format!("nats://s3cret@{}", host(&token)), Login::default()),
        (token.url.clone(), secret.clone()),
    ] {
        let settings = NatsSettings { urls: vec![url], login, ..NatsSettings::default() };
        Bus::Nats(NatsBus::connect(&settings).await?).check().await?;
    }
    for (url, login, reason) in [
        (format!("nats://r%40s:hunter2@{}", host(&user)), Login::default(), "check the user and the password"),
        (user.url.clone(), Login::default(), "none are set: set NATS_USER"),
        (token.url.clone(), Login { token: some("hunter2"), ..Login::default() }, "check the token"),
        (token.url.clone(), Login { ca: Some("/no/such".into()), ..secret }, "NATS_CA /no/such"),
    ] {
        let settings = NatsSettings { urls: vec![url], login, ..NatsSettings::default() };
        let began_at = Instant::now();
        let error = NatsBus::connect(&settings).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(reason) && !error.contains("hunter2"), "{error}");
        assert!(began_at.elapsed() < Duration::from_secs(5), "{error}: {:?}", began_at.elapsed());
    }
    Ok(())
}

#[tokio::test]
async fn an_inbox_prefix_of_its_own_is_enough_for_everything() -> Result<()> {
    let allowed = "authorization { users: [ { user: \"users\", password: \"p\", permissions: {\n\
                     publish: { deny: [\"_INBOX.>\"] }, subscribe: { allow: [\"_INBOX_users.>\", \"work\"] } } },\n\
                     { user: \"admin\", password: \"p\" } ] }\n";
    let server = Server::configured(allowed)?;
    let url = |user: &str| vec![server.url.replace("nats://", &format!("nats://{user}:p@"))];
    let admin = NatsSettings { urls: url("admin"), ..NatsSettings::default() };
    let admin = Fixture::with("prefix", Bus::Nats(NatsBus::connect(&admin).await?));
    let stream = admin.stream("s", &["a"], Retention::Interest);
    let consumer = admin.consumer(&stream, "c", "a");
    admin.apply(&[&stream], &[&consumer]).await?;
    let settings =
        NatsSettings { urls: url("users"), inbox_prefix: "_INBOX_users".to_owned(), ..NatsSettings::default() };
    let bus = Bus::Nats(NatsBus::connect(&settings).await?);
    bus.check().await?;
    let _work = bus.subscribe("work", None).await?;
    bus.publish(Message { subject: admin.subject("a"), headers: Headers::default(), payload: Bytes::from("1") })
        .await?;
    let deliveries = receive(&mut bus.pull(&consumer).await?, 1).await?;
    deliveries[0].ack_confirmed().await?;
    let mut replay = bus.replay(&stream.name, None, ReplayStart::Sequence(1)).await?;
    assert!(replay.next(Duration::from_millis(200)).await?.is_none());
    for prefix in ["", "a b", "a.*", "a..b", ">"] {
        let settings = NatsSettings { inbox_prefix: prefix.to_owned(), ..settings.clone() };
        let error = NatsBus::connect(&settings).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("NATS_INBOX_PREFIX"), "{prefix}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_user_who_may_not_list_consumers_still_sees_the_topology() -> Result<()> {
    let server = Server::configured(
        "authorization { users: [ { user: \"users\", password: \"p\", permissions: {
           publish: { deny: [\"$JS.API.CONSUMER.LIST.*\"] } } }, { user: \"admin\", password: \"p\" } ] }\n",
    )?;
    let url = |user: &str| server.url.replace("nats://", &format!("nats://{user}:p@"));
    let (admin, users) = (connect(&url("admin")).await?, connect(&url("users")).await?);
    let topology = Topology::rideshare();
    admin.apply(&topology).await?;
    for expected in [Duration::from_secs(7), Duration::from_secs(2)] {
        let began_at = Instant::now();
        assert_eq!(users.observe(&topology).await?, admin.observe(&topology).await?);
        ensure!(began_at.elapsed() < expected, "{:?}", began_at.elapsed());
    }
    admin.delete_consumer("USER_STREAM", "user_beacon_match").await?;
    assert_eq!(users.observe(&topology).await?, admin.observe(&topology).await?);
    Ok(())
}

/// The server's chart has no memory storage by default, and a small volume has little of the other.
#[tokio::test]
async fn the_systems_topology_fits_a_small_server_and_what_does_not_fit_is_named() -> Result<()> {
    let topology = Topology::rideshare().with_sweeper();
    let small = Server::with_storage("max_file_store: 1GB, max_memory_store: 0")?;
    let bus = connect(&small.url).await?;
    bus.apply(&topology).await?;
    assert_eq!(bus.apply(&topology).await?, Vec::<String>::new(), "a stream on disk stays there");

    let too_small = Server::with_storage("max_file_store: 500MB, max_memory_store: 256MB")?;
    let bus = connect(&too_small.url).await?;
    let error = bus.apply(&topology).await.unwrap_err().to_string();
    for part in ["RIDE_STREAM needs 576 MiB of file storage", "RIDE_STREAM_MAX_BYTES", "max_file_store"] {
        ensure!(error.contains(part), "{error}");
    }
    let mut in_memory = topology.clone();
    in_memory.stream_mut("LOCATION_STREAM").expect("it is in the table").storage = Storage::Memory;
    let bus = connect(&small.url).await?;
    bus.delete_stream("LOCATION_STREAM").await?;
    let error = bus.apply(&in_memory).await.unwrap_err().to_string();
    for part in ["LOCATION_STREAM needs 192 MiB of memory", "LOCATION_STREAM_STORAGE=file", "max_memory_store"] {
        ensure!(error.contains(part), "{error}");
    }
    Ok(())
}

/// The streams of a start that failed were never opened, so that smaller settings help the next one. A stream that was opened may be empty
/// for a moment, and its limits stay.
#[tokio::test]
async fn a_start_that_failed_leaves_no_limits_behind() -> Result<()> {
    let topology = Topology::rideshare().with_sweeper();
    let server = Server::with_storage("max_file_store: 220MiB, max_memory_store: 0")?;
    let bus = connect(&server.url).await?;
    let error = bus.apply(&topology).await.unwrap_err().to_string();
    for part in ["RIDE_STREAM needs 576 MiB", "below 576 MiB", "All streams need 1024 MiB"] {
        ensure!(error.contains(part), "{error}");
    }
    let sized = |mib: [i64; 8]| {
        let mut sized = topology.clone();
        sized.streams.iter_mut().zip(mib).for_each(|(stream, mib)| stream.max_bytes = mib << 20);
        sized
    };
    // The third is RIDE_STREAM: all before it fit.
    let error = bus.apply(&sized([16, 40, 40, 110, 16, 8, 8, 8])).await.unwrap_err();
    ensure!(matches!(error, BusError::Refused(_)), "{error}");
    bus.apply(&sized([16, 16, 16, 64, 32, 8, 8, 8])).await?;
    ensure!(bus.stream_info("USER_STREAM").await?.max_bytes == 16 << 20);
    let changes = bus.apply(&sized([16, 8, 16, 64, 32, 8, 8, 8])).await?;
    ensure!(changes.is_empty(), "it was opened: {changes:?}");
    Ok(())
}

#[tokio::test]
async fn a_limit_of_an_account_or_a_server_is_named_or_kept_to() -> Result<()> {
    let topology = Topology::rideshare().with_sweeper();
    for (limits, parts) in [
        ("max_streams: 4", ["8 streams are needed", "may have 4", "max_streams"]),
        ("max_consumers: 5", ["RIDE_STREAM needs", "may have 5", "max_consumers"]),
        (
            "disk_max_stream_bytes: 100MB",
            ["RIDE_STREAM needs 576 MiB", "RIDE_STREAM_MAX_BYTES", "disk_max_stream_bytes"],
        ),
        ("max_file: 500MB", ["MiB more of file storage", "its limit of 500 MiB", "max_file"]),
    ] {
        let server = Server::configured(&format!(
            "accounts {{ A {{ jetstream {{ max_mem: 1GB, max_file: 2GB, {limits} }}, users [{{user: a, password: b}}] }} }}\n\
             no_auth_user: a"
        ))?;
        let bus = connect(&server.url).await?;
        let error = bus.apply(&topology).await.unwrap_err();
        ensure!(matches!(error, BusError::Refused(_)), "{limits}: {error}");
        for part in parts {
            ensure!(error.to_string().contains(part), "{limits}: {error}");
        }
        let first = &topology.streams[0].name;
        ensure!(bus.stream_info(first).await.is_err(), "{limits}: nothing is created");
    }
    let limits = "limits: { max_ack_pending: 10000, duplicate_window: \"2m\" }";
    let server = Server::with_storage(&format!("max_file_store: 2GB, max_memory_store: 1GB, {limits}"))?;
    let bus = connect(&server.url).await?;
    bus.apply(&topology).await?;
    assert_eq!(bus.apply(&topology).await?, Vec::<String>::new(), "the limits are remembered");
    assert_eq!(bus.observe(&topology).await?.differences, Vec::<String>::new());
    // Another process finds them by its own refusals.
    connect(&server.url).await?.apply(&topology).await?;
    Ok(())
}

/// A publisher does not wait until a stream that was lost is whole again: the client library sends what was under way as soon as it
/// is connected.
#[tokio::test]
async fn a_stream_stores_nothing_before_all_its_consumers_exist() -> Result<()> {
    let server = Server::new()?;
    let f = Fixture::at("opening", &server.url).await?;
    let stream = f.stream("s", &["a"], Retention::Interest);
    let consumers = ["c1", "c2", "c3", "c4", "c5", "c6"].map(|name| f.consumer(&stream, name, "a"));
    let topology = topology(&[&stream], &consumers.each_ref());
    for round in 0..5 {
        let publisher = {
            let (bus, message) = (connect(&server.url).await?, f.message("a", "x"));
            tokio::spawn(async move {
                for n in 0.. {
                    let mut message = message.clone();
                    message.headers.set("Nats-Msg-Id", format!("{round}-{n}"));
                    match bus.publish(message).await {
                        Ok(published) => return published,
                        Err(BusError::NotFound(_) | BusError::Unavailable(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                unreachable!()
            })
        };
        f.bus.apply(&topology).await?;
        publisher.await?;
        for consumer in &consumers {
            receive(&mut f.pull(consumer).await?, 1).await.with_context(|| format!("{round}: {}", consumer.durable))?;
        }
        f.bus.delete_stream(&stream.name).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_whose_creator_died_before_it_was_open_is_opened_by_the_next() -> Result<()> {
    let server = Server::new()?;
    let f = Fixture::at("closed", &server.url).await?;
    let stream = f.stream("s", &["a"], Retention::Interest);
    let consumer = f.consumer(&stream, "c", "a");
    let topology = topology(&[&stream], &[&consumer]);
    let mut closed = stream.to_json(1);
    closed["max_msg_size"] = 1.into();
    let subject = format!("$JS.API.STREAM.CREATE.{}", stream.name);
    f.bus.request(&subject, serde_json::to_vec(&closed)?.into(), Duration::from_secs(5)).await?;
    let mut message = f.message("a", "event");
    message.headers.set("Nats-Msg-Id", "1");
    let refused = f.bus.publish(message.clone()).await;
    assert!(matches!(refused, Err(BusError::Unavailable(_))), "{refused:?}");
    assert_eq!(f.bus.compare(&topology).await?.len(), 2);
    let changes = f.bus.apply(&topology).await?;
    let [created, opened] = &changes[..] else { panic!("{changes:?}") };
    assert!(created.ends_with("missing, created") && opened.contains("max_msg_size was 1"), "{changes:?}");
    assert!(!f.bus.publish(message).await?.duplicate);
    assert_eq!(texts(&receive(&mut f.pull(&consumer).await?, 1).await?), ["event"]);
    assert_eq!(f.bus.apply(&topology).await?, Vec::<String>::new());
    Ok(())
}
