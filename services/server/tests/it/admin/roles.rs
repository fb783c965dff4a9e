//! Who may do what: every route of operators by every role, and where the routes are.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{ADMIN, Desk, SUPPORT, TokensFile, VIEWER};
use crate::harness::client::{Person, http};
use crate::harness::on_both_shapes;
use crate::harness::running::{Running, Shape};

on_both_shapes!(every_admin_route_by_every_role);

/// Of nobody and nothing.
const UNKNOWN: &str = "0190b7a0-0000-7000-8000-000000000001";

/// The role that a route needs, and the body that it takes.
fn routes() -> BTreeMap<&'static str, (&'static str, Option<Value>)> {
    let why = || Some(json!({"reason": "a test"}));
    let money = json!({"amount": {"amount": 1, "currency": "USD"}, "reason": "a test"});
    BTreeMap::from([
        ("GET /admin/v1/me", ("viewer", None)),
        ("GET /admin/v1/rides", ("viewer", None)),
        ("GET /admin/v1/rides/{id}", ("viewer", None)),
        ("GET /admin/v1/users", ("viewer", None)),
        ("GET /admin/v1/users/{id}", ("viewer", None)),
        ("GET /admin/v1/drivers", ("viewer", None)),
        ("GET /admin/v1/drivers/{id}/documents", ("viewer", None)),
        ("GET /admin/v1/live", ("viewer", None)),
        ("GET /admin/v1/streams", ("viewer", None)),
        ("GET /admin/v1/consumers", ("viewer", None)),
        ("GET /admin/v1/dead-letters", ("viewer", None)),
        ("GET /admin/v1/dead-letters/{seq}", ("viewer", None)),
        ("GET /admin/v1/pods", ("viewer", None)),
        ("GET /admin/v1/acts", ("viewer", None)),
        ("GET /admin/v1/stream", ("viewer", None)),
        ("POST /admin/v1/rides/{id}/end", ("support", why())),
        ("POST /admin/v1/rides/{id}/refund", ("support", Some(money))),
        ("POST /admin/v1/rides/{id}/notes", ("support", Some(json!({"text": "a note"})))),
        ("POST /admin/v1/users/{id}/sign-out", ("support", None)),
        ("POST /admin/v1/dead-letters/{seq}/requeue", ("support", None)),
        ("POST /admin/v1/dead-letters/{seq}/remove", ("support", None)),
        ("POST /admin/v1/drivers/{id}/approve", ("admin", None)),
        ("POST /admin/v1/drivers/{id}/suspend", ("admin", why())),
        ("PUT /admin/v1/drivers/{id}/documents", ("admin", Some(json!({"documents": []})))),
    ])
}

async fn every_admin_route_by_every_role(shape: Shape) {
    let desk = Desk::start(shape).await;
    let addr = desk.running.addr();
    let user = Person::passenger(addr, 1).await.token;
    let mut rows = routes();
    let mut text = String::new();
    let listed = desk.running.apps[0].routes.iter().filter(|route| route.path.starts_with("/admin/"));
    let listed: Vec<String> = listed.map(|route| format!("{} {}", route.method, route.path)).collect();
    for route in listed {
        let (least, body) = rows.remove(route.as_str()).unwrap_or_else(|| panic!("{route} has no row"));
        let (method, path) = route.split_once(' ').unwrap();
        // A stream does not end: what follows the head is not read, and a wrong box ends before it.
        let query = if path.ends_with("/stream") { "?box=none" } else { "" };
        let path = format!("{}{query}", path.replace("{id}", UNKNOWN).replace("{seq}", "999"));
        let call = async |token: Option<&str>| http(addr, method, &path, token, body.clone()).await;
        writeln!(text, "{route} ({least})").unwrap();
        for token in [None, Some(""), Some("the token of nobody"), Some(user.as_str())] {
            let (status, problem) = call(token).await;
            assert_eq!((status, &problem["code"]), (401, &json!("unauthorized")), "{route} with {token:?}");
        }
        for (role, token) in [("viewer", VIEWER), ("support", SUPPORT), ("admin", ADMIN)] {
            let (status, problem) = call(Some(token)).await;
            let code = problem["code"].as_str().unwrap_or_default();
            assert_ne!((status, code), (401, "unauthorized"), "{route} by {role}");
            let order = |role: &str| ["viewer", "support", "admin"].iter().position(|one| *one == role);
            let is_refused = (status, code) == (403, "forbidden");
            assert_eq!(is_refused, order(role) < order(least), "{route} by {role}: {status} {code}");
            writeln!(text, "  {role}: {status} {code}").unwrap();
        }
    }
    assert!(rows.is_empty(), "rows without a route: {:?}", rows.keys());
    desk.stop().await;
    insta::assert_snapshot!("admin_routes_by_role", text);
}

#[tokio::test]
async fn wrong_tokens_of_an_address_are_limited_and_a_file_that_is_read_again_counts() {
    let file = TokensFile::new();
    let more = ["--admin-tokens-file", file.path(), "--limits", "admin_tokens_address=4/0.001"];
    let running = Running::start(Shape::Embedded, &more).await;
    let me = async |token| http(running.addr(), "GET", "/admin/v1/me", Some(token), None).await;
    assert_eq!(me(ADMIN).await, (200, json!({"name": "ann", "role": "admin"})));
    assert_eq!(running.apps[0].admin_token, None, "no token is made beside a file");
    file.write(&[("ann", "viewer", ADMIN), ("new", "support", "the token of another one")]);
    assert_eq!(me(ADMIN).await.1["role"], "admin");
    running.apps[0].reload(&running.settings);
    assert_eq!(me(ADMIN).await, (200, json!({"name": "ann", "role": "viewer"})));
    assert_eq!(me("the token of another one").await.1["name"], "new");
    // A mistake changes nothing.
    std::fs::write(file.path(), "ann root x\n").unwrap();
    running.apps[0].reload(&running.settings);
    assert_eq!(me(ADMIN).await.0, 200);
    // Two of the four were spent by tokens that are in order; the others are for two that are wrong.
    for _ in 0..2 {
        assert_eq!(me(VIEWER).await.0, 401);
    }
    let (status, problem) = me(VIEWER).await;
    assert_eq!((status, &problem["limit"]), (429, &json!("admin_tokens_address")));
    assert_eq!(me(ADMIN).await.0, 200, "who was let in from this address is not locked out by others");
    file.write(&[("ann", "viewer", ADMIN), ("vic", "viewer", VIEWER)]);
    running.apps[0].reload(&running.settings);
    assert_eq!(me(VIEWER).await.0, 429, "nobody learns any more whether a token is right");
    // A token that is taken back is a wrong one, for those too who were let in by it.
    file.write(&[("vic", "viewer", VIEWER)]);
    running.apps[0].reload(&running.settings);
    assert_eq!(me(ADMIN).await.0, 429);
    running.stop().await;
}

#[tokio::test]
async fn with_admin_addr_operators_routes_are_there_alone() {
    let file = TokensFile::new();
    let more = ["--admin-tokens-file", file.path(), "--admin-addr", "127.0.0.1:0"];
    let running = Running::start(Shape::Embedded, &more).await;
    let (public, admin) = (running.addr(), running.apps[0].admin_addr.unwrap());
    let status = async |addr, path| http(addr, "GET", path, Some(ADMIN), None).await.0;
    for (path, on_public, on_admin) in [
        ("/health/live", 200, 200),
        ("/health/ready", 200, 200),
        ("/metrics", 404, 200),
        ("/stats", 404, 200),
        ("/admin/v1/me", 404, 200),
        ("/v1/estimates?pickup=40,-73&dropoff=40.1,-73&vehicle_type=car", 200, 404),
        ("/v1/me", 401, 404),
    ] {
        assert_eq!((status(public, path).await, status(admin, path).await), (on_public, on_admin), "{path}");
    }
    let listed = |routes: &[platform::routes::Route]| routes.iter().filter(|r| r.path.starts_with("/admin/")).count();
    let (_, routes) = running.apps[0].admin.as_ref().unwrap();
    assert_eq!((listed(&running.apps[0].routes), listed(routes)), (0, self::routes().len()));
    running.stop().await;
}

#[tokio::test]
async fn without_a_file_nobody_is_an_operator_unless_embedded() {
    let running = Running::start(Shape::Nats, &[]).await;
    assert_eq!(running.apps[0].admin_token, None);
    assert_eq!(http(running.addr(), "GET", "/admin/v1/me", Some(ADMIN), None).await.0, 401);
    running.stop().await;
}

#[test]
fn an_embedded_process_prints_its_console_with_a_token_that_no_log_has() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rideshare"))
        .args(["--http-addr", "127.0.0.1:0", "--log", "trace"])
        .env_clear()
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut before = String::new();
    let line = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap).find(|line| {
        before.push_str(line);
        line.starts_with("console: ")
    });
    let line = line.expect("it prints the console");
    let _ = child.kill();
    let _ = child.wait();
    let (address, token) = line.strip_prefix("console: http://").unwrap().split_once("/console#token=").unwrap();
    assert!(token.len() == 64 && token.bytes().all(|b| b.is_ascii_hexdigit()), "{line}");
    assert!(address.parse::<std::net::SocketAddr>().unwrap().port() != 0, "{line}");
    assert_eq!(before.matches(token).count(), 1, "it is in this line alone");
}

#[tokio::test]
async fn the_token_that_is_made_is_an_admins() {
    let running = Running::start(Shape::Embedded, &[]).await;
    let token = running.apps[0].admin_token.clone().unwrap();
    let me = http(running.addr(), "GET", "/admin/v1/me", Some(&token), None).await;
    assert_eq!(me, (200, json!({"name": "console", "role": "admin"})));
    running.stop().await;
}
