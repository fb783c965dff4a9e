//! The documents of the interfaces against the program: every route is in them, every code, and everything that a whole city is sent.

use std::collections::BTreeSet;
use std::time::Duration;

use platform::api::codes::CODES;
use platform::routes::Route;
use server::api;
use simulator::Faults;

use crate::harness::running::{Running, Shape};
use crate::harness::tap::Tap;

fn names(routes: &[Route]) -> BTreeSet<String> {
    routes.iter().map(|route| format!("{} {}", route.method, route.path)).collect()
}

#[tokio::test]
async fn every_route_is_described() {
    let running = Running::start(Shape::Embedded, &[]).await;
    let (served, described) = (names(&running.apps[0].routes), names(&api::operations()));
    running.stop().await;
    assert_eq!(served, described, "api::operations lists what a process serves");
    for route in &api::operations() {
        let (operation, name) = (&route.operation, format!("{} {}", route.method, route.path));
        assert!(operation.summary.ends_with('.'), "{name} has no description: add .described(…) after the route");
        assert!(!operation.answers.is_empty(), "{name} has no answer: say it with .with(…), if its types do not");
        let in_path = route.path.matches('{').count();
        assert!(in_path == 0 || operation.path.is_some(), "{name}: nothing says what its path parameters are");
    }
    let document = api::openapi();
    let paths = document["paths"].as_object().unwrap();
    let operations: Vec<_> = paths.values().flat_map(|path| path.as_object().unwrap().values()).collect();
    let ids: BTreeSet<_> = operations.iter().map(|operation| operation["operationId"].as_str().unwrap()).collect();
    assert_eq!((operations.len(), ids.len()), (described.len(), described.len()), "each has an id of its own");
}

/// A code that nothing has any more misleads whoever handles it.
#[test]
fn every_code_is_in_the_sources() {
    let services = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut directories, mut sources) = (vec![services.clone(), services.join("../streams")], String::new());
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !["tests", "target"].contains(&&*name) {
                directories.push(path);
            } else if name.ends_with(".rs") && name != "codes.rs" && name != "tests.rs" {
                let source = std::fs::read_to_string(&path).unwrap();
                // The lists of operations name codes as well; the first argument of a call may have a line of its own.
                let before = std::iter::once("").chain(source.lines());
                let lines = source.lines().zip(before).filter(|(line, before)| {
                    let is_of_a_list = line.trim_start().starts_with('"') && !before.ends_with('(');
                    !is_of_a_list && !line.contains(".described(")
                });
                sources.extend(lines.flat_map(|(line, _)| [line, "\n"]));
            }
        }
    }
    let names: Vec<_> =
        CODES.iter().map(|code| code.name).filter(|name| !sources.contains(&format!("\"{name}\""))).collect();
    assert_eq!(names, Vec::<&str>::new(), "no source has these codes");
}

/// A city in which everything happens: people decline, cancel, lose connections, send nonsense and repeat themselves.
#[tokio::test(flavor = "multi_thread")]
async fn everything_that_a_city_is_sent_is_described() {
    const SPEED: f64 = 120.0;
    let limits = platform::limits::Limits::raised();
    let jump = (70.0 * SPEED).to_string();
    let running = Running::start(Shape::Embedded, &["--limits", &limits, "--track-max-speed-mps", &jump]).await;
    let tap = Tap::default();
    let config = simulator::Config {
        urls: vec![format!("http://{}", running.addr())],
        transport: tap.transport(running.addr()),
        drivers: 12,
        passengers: 12,
        rides: 20,
        time_limit: Duration::from_secs(60),
        faults: Faults { decline: 0.3, cancel_search: 0.2, cancel_ride: 0.3, driver_cancel: 0.2, ..Faults::default() },
        speed: SPEED,
        ..simulator::Config::default()
    };
    let summary = simulator::run(config).await.unwrap();
    assert!(summary.completed > 0, "{summary}");
    let counts = tap.check();
    let messages = running.watcher.as_ref().unwrap().seen.lock().unwrap().messages.checked.clone();
    running.stop().await;
    println!("{counts:#?}\n{messages:#?}");
    for kind in [
        "200 GET /v1/rides",
        "201 POST /v1/drivers",
        "202 POST /v1/auth/otp",
        "ack of beacon.update",
        "ack of finder.update",
        "ack of location.update",
        "ack of match.accept",
        "ack of match.reject",
        "ack of ride.arrive",
        "ack of ride.cancel",
        "ack of ride.start",
        "frame error",
        "frame location.aggregate",
        "frame location.live",
        "frame match.accepted",
        "frame match.found",
        "frame match.rejected",
        "frame ride.arrived",
        "frame ride.cancelled",
        "frame ride.completed",
        "frame ride.pickup",
        "frame ride.started",
        "frame user.beacon",
        "frame user.finder",
        "frame welcome",
    ] {
        assert!(counts.contains_key(kind), "the city has seen no {kind}: {counts:#?}");
    }
    for name in [
        "location.aggregate",
        "location.live.ride_id",
        "location.newest.reply",
        "location.progress",
        "location.update",
        "match.accepted",
        "match.found",
        "match.rejected",
        "payment.capture",
        "pods.heartbeat",
        "ride.arrived",
        "ride.cancelled",
        "ride.completed",
        "ride.pickup",
        "ride.started",
        "rides.command",
        "rides.command.reply",
        "rides.debts.reply",
        "rides.ratings.reply",
        "user.beacon",
        "user.finder",
        "users.broadcast",
        "users.pod.pod_id",
    ] {
        assert!(messages.contains_key(name), "the bus has seen no {name}: {messages:#?}");
    }
}
