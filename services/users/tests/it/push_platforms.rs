//! Push by Web Push, FCM and APNs, each to a server of the test's own that speaks the same protocol and checks it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey as Peer, agree};
use aws_lc_rs::{digest, hmac};
use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{Request, Response, Version};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use platform::http_client::Reach;
use serde_json::{Value, json};
use streams::{RideId, RideStatus, UserId};
use testing::Backend;
use testing::jwt::SigningKey;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use users::{ApnsConfig, Config, FcmConfig, PushConfig, VapidConfig};

use crate::app::sign_in_directly;
use crate::pods::{Cluster, Pod};
use crate::push::{call, metric_of, real_time, until};

/// A request that a server received.
struct Taken {
    parts: Parts,
    body: Bytes,
}

impl Taken {
    fn header(&self, name: &str) -> &str {
        self.parts.headers.get(name).unwrap_or_else(|| panic!("no {name}: {:?}", self.parts)).to_str().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

struct Server {
    address: SocketAddr,
    from: mpsc::UnboundedReceiver<Taken>,
}

impl Server {
    /// Answers each request as `answer` says of its path.
    async fn new(version: Version, answer: fn(&str) -> (u16, Value)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (to, from) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let to = to.clone();
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let to = to.clone();
                    async move {
                        let (parts, body) = request.into_parts();
                        let (status, answer) = answer(parts.uri.path());
                        let body = body.collect().await.unwrap().to_bytes();
                        let _ = to.send(Taken { parts, body });
                        let response = Response::builder().status(status).body(Body::from(answer.to_string()));
                        Ok::<_, Infallible>(response.unwrap())
                    }
                });
                let socket = TokioIo::new(socket);
                if version == Version::HTTP_2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    tokio::spawn(async move { _ = server.serve_connection(socket, service).await });
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    tokio::spawn(async move { _ = server.serve_connection(socket, service).await });
                }
            }
        });
        Self { address, from }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn next(&mut self) -> Taken {
        tokio::time::timeout(Duration::from_secs(30), self.from.recv()).await.expect("a request in time").unwrap()
    }
}

/// A pod with this configuration, and its users: a passenger with a device, and a driver.
struct Scene {
    cluster: Cluster,
    pod: Pod,
    passenger: UserId,
    access: String,
    driver: UserId,
    device_id: Value,
}

impl Scene {
    async fn new(config: PushConfig, platform: &str, token: Value) -> Self {
        real_time(Backend::Memory);
        let cluster = Cluster::on(Backend::Memory).await;
        let push = PushConfig { reach: Reach::PublicOrLoopback, ..config };
        let mut pod = cluster.idle_pod("one", Config { push, ..Config::default() }).await;
        pod.run();
        let (passenger, access) = sign_in_directly(&pod.users, "+12125550851").await;
        let (driver, _) = sign_in_directly(&pod.users, "+12125550852").await;
        let body = json!({"platform": platform, "token": token});
        let device_id = call(&pod.users, "POST", "/v1/devices", &access, body).await["device_id"].clone();
        Self { cluster, pod, passenger, access, driver, device_id }
    }

    /// Publishes ride.pickup; the topic of its pushes.
    async fn pickup(&self) -> String {
        let cluster = &self.cluster;
        let offer = cluster.found(self.driver, self.passenger, cluster.world.id(), 60);
        let ride: RideId = cluster.world.id();
        cluster.publish(&cluster.ride(ride, &offer, 1, RideStatus::Pickup)).await;
        offer.match_id.to_string()
    }

    async fn until_gone(&self, platform: &str) {
        until(async || metric_of(&self.pod, platform, "gone") == 1).await;
        let left = call(&self.pod.users, "GET", "/v1/devices", &self.access, Value::Null).await;
        assert_eq!(left["devices"], json!([]));
    }
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

/// A browser reads its message, as RFC 8291 says.
fn decrypt(body: &[u8], private: &PrivateKey, auth: &[u8]) -> Value {
    let (salt, rest) = body.split_at(16);
    assert_eq!((u32::from_be_bytes(rest[..4].try_into().unwrap()), rest[4]), (4_096, 65));
    let (sender, record) = rest[5..].split_at(65);
    let own = private.compute_public_key().unwrap();
    let shared = agree(private, Peer::new(&ECDH_P256, sender), (), |shared| Ok(hmac_sha256(auth, shared))).unwrap();
    let info = [b"WebPush: info\0", own.as_ref(), sender, &[1]].concat();
    let random = hmac_sha256(salt, &hmac_sha256(&shared, &info));
    let key = hmac_sha256(&random, b"Content-Encoding: aes128gcm\0\x01");
    let nonce = hmac_sha256(&random, b"Content-Encoding: nonce\0\x01");
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key[..16]).unwrap());
    let mut record = record.to_vec();
    let nonce = Nonce::try_assume_unique_for_key(&nonce[..12]).unwrap();
    let plain = key.open_in_place(nonce, Aad::empty(), &mut record).unwrap();
    let (end, message) = plain.split_last().unwrap();
    assert_eq!(*end, 2, "the last record");
    serde_json::from_slice(message).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_browser_can_read_its_push_and_its_push_service_knows_who_sent_it() {
    let mut server = Server::new(Version::HTTP_11, |path| (if path == "/gone" { 410 } else { 201 }, Value::Null)).await;
    let own = SigningKey::p256();
    let vapid = VapidConfig::new(&own.pem, "mailto:ops@example.com").unwrap();
    let browser = PrivateKey::generate(&ECDH_P256).unwrap();
    let auth = [9; 16];
    let p256dh = URL_SAFE_NO_PAD.encode(browser.compute_public_key().unwrap().as_ref());
    let subscription = |path: &str| {
        let keys = json!({"p256dh": p256dh, "auth": URL_SAFE_NO_PAD.encode(auth)});
        json!({"endpoint": format!("{}/{path}", server.url()), "expirationTime": null, "keys": keys})
    };
    let (here, gone) = (subscription("browser"), subscription("gone"));
    let scene = Scene::new(PushConfig { vapid: Some(vapid), ..PushConfig::default() }, "webpush", here).await;
    let listed = call(&scene.pod.users, "GET", "/v1/devices", &scene.access, Value::Null).await;
    assert_eq!(listed["vapid_public_key"], URL_SAFE_NO_PAD.encode(&own.public));
    let topic = scene.pickup().await;
    let push = server.next().await;
    assert_eq!((push.parts.method.as_str(), push.parts.uri.path()), ("POST", "/browser"));
    assert_eq!((push.header("content-encoding"), push.header("urgency")), ("aes128gcm", "high"));
    assert!((1..=600).contains(&push.header("ttl").parse::<i64>().unwrap()));
    let topic: uuid::Uuid = topic.parse().unwrap();
    assert_eq!(push.header("topic"), URL_SAFE_NO_PAD.encode(topic.as_bytes()));
    let (token, key) = push.header("authorization").strip_prefix("vapid t=").unwrap().split_once(", k=").unwrap();
    assert_eq!(key, URL_SAFE_NO_PAD.encode(&own.public));
    let (header, claims) = own.verify(token).expect("a right signature");
    assert_eq!((&header["alg"], &claims["aud"]), (&json!("ES256"), &json!(server.url())));
    assert_eq!(claims["sub"], "mailto:ops@example.com");
    let life = claims["exp"].as_i64().unwrap() - scene.cluster.world.now().timestamp();
    assert!((1..=86_400).contains(&life), "{life}");
    let message = decrypt(&push.body, &browser, &auth);
    assert_eq!((&message["type"], &message["role"]), (&json!("ride.pickup"), &json!("passenger")), "{message}");
    until(async || metric_of(&scene.pod, "webpush", "sent") == 1).await;

    let path = format!("/v1/devices/{}", scene.device_id.as_str().unwrap());
    call(&scene.pod.users, "DELETE", &path, &scene.access, Value::Null).await;
    let body = json!({"platform": "webpush", "token": gone.to_string()});
    call(&scene.pod.users, "POST", "/v1/devices", &scene.access, body).await;
    scene.pickup().await;
    assert_eq!(server.next().await.parts.uri.path(), "/gone");
    scene.until_gone("webpush").await;
    let mut scene = scene;
    scene.pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn fcm_gets_a_message_with_a_token_of_the_service_account() {
    let mut server = Server::new(Version::HTTP_11, |path| match path {
        "/token" => (200, json!({"access_token": "ya29.x", "expires_in": 3_599, "token_type": "Bearer"})),
        _ => (200, json!({"name": "projects/demo/messages/1"})),
    })
    .await;
    let key = SigningKey::rsa();
    let account = json!({
        "type": "service_account", "project_id": "demo", "private_key_id": "k1", "private_key": key.pem,
        "client_email": "push@demo.example", "token_uri": format!("{}/token", server.url()),
    });
    let fcm = FcmConfig::new(&account.to_string(), &server.url()).unwrap();
    let scene = Scene::new(PushConfig { fcm: Some(fcm), ..PushConfig::default() }, "fcm", json!("phone:1")).await;
    let topic = scene.pickup().await;
    let grant = server.next().await;
    assert_eq!(grant.header("content-type"), "application/x-www-form-urlencoded");
    let form = String::from_utf8(grant.body.to_vec()).unwrap();
    let (kind, assertion) = form.split_once("&assertion=").unwrap();
    assert_eq!(kind, "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer");
    let (header, claims) = key.verify(assertion).expect("a right signature");
    assert_eq!((&header["alg"], &header["kid"]), (&json!("RS256"), &json!("k1")));
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("push@demo.example"), &account["token_uri"]));
    let push = server.next().await;
    assert_eq!(push.parts.uri.path(), "/v1/projects/demo/messages:send");
    assert_eq!(push.header("authorization"), "Bearer ya29.x");
    let message = &push.json()["message"];
    assert_eq!((&message["token"], &message["data"]["type"]), (&json!("phone:1"), &json!("ride.pickup")), "{message}");
    assert!(message["data"]["event_id"].as_str().unwrap().starts_with("ride.pickup-"));
    assert_eq!((&message["android"]["priority"], &message["android"]["collapse_key"]), (&json!("HIGH"), &json!(topic)));
    assert_eq!(message["notification"]["title"], "Driver on the way");
    until(async || metric_of(&scene.pod, "fcm", "sent") == 1).await;
    // The access token serves for the next one too.
    scene.pickup().await;
    assert_eq!(server.next().await.parts.uri.path(), "/v1/projects/demo/messages:send");
    let mut scene = scene;
    scene.pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn apns_gets_it_over_http_2_under_one_id_and_says_when_a_phone_is_gone() {
    let mut server = Server::new(Version::HTTP_2, |path| {
        if path.ends_with("0b") { (410, json!({"reason": "Unregistered"})) } else { (200, Value::Null) }
    })
    .await;
    let key = SigningKey::p256();
    let apns = ApnsConfig::new(&key.pem, "KEYID12345", "TEAMID1234", "com.example.rides", &server.url()).unwrap();
    let config = PushConfig { apns: Some(apns), ..PushConfig::default() };
    let scene = Scene::new(config, "apns", json!("0A".repeat(32))).await;
    let topic = scene.pickup().await;
    let push = server.next().await;
    assert_eq!(push.parts.version, Version::HTTP_2);
    assert_eq!(push.parts.uri.path(), format!("/3/device/{}", "0a".repeat(32)));
    let token = push.header("authorization").strip_prefix("bearer ").unwrap().to_owned();
    let (header, claims) = key.verify(&token).expect("a right signature");
    assert_eq!(
        (&header["alg"], &header["kid"], &claims["iss"]),
        (&json!("ES256"), &json!("KEYID12345"), &json!("TEAMID1234"))
    );
    for (name, value) in [
        ("apns-topic", "com.example.rides"),
        ("apns-push-type", "alert"),
        ("apns-priority", "10"),
        ("apns-collapse-id", &topic),
    ] {
        assert_eq!(push.header(name), value, "{name}");
    }
    let expires_at = push.header("apns-expiration").parse::<i64>().unwrap();
    assert!((1..=600).contains(&(expires_at - scene.cluster.world.now().timestamp())));
    let body = push.json();
    assert_eq!(
        (&body["aps"]["alert"]["title"], &body["type"]),
        (&json!("Driver on the way"), &json!("ride.pickup")),
        "{body}"
    );
    // Of the event and the device, so that it is the same on every try.
    let named = format!("{} {}", body["event_id"].as_str().unwrap(), scene.device_id.as_str().unwrap());
    let hash = digest::digest(&digest::SHA256, named.as_bytes());
    let id = uuid::Builder::from_custom_bytes(hash.as_ref()[..16].try_into().unwrap()).into_uuid();
    assert_eq!(push.header("apns-id"), id.to_string());
    until(async || metric_of(&scene.pod, "apns", "sent") == 1).await;

    let path = format!("/v1/devices/{}", scene.device_id.as_str().unwrap());
    call(&scene.pod.users, "DELETE", &path, &scene.access, Value::Null).await;
    let body = json!({"platform": "apns", "token": "0b".repeat(32)});
    call(&scene.pod.users, "POST", "/v1/devices", &scene.access, body).await;
    scene.pickup().await;
    assert_eq!(server.next().await.header("authorization"), format!("bearer {token}"), "not signed again");
    scene.until_gone("apns").await;
    let mut scene = scene;
    scene.pod.stop().await;
}
