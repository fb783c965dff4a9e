//! Log lines of a socket: the spans that they carry.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use streams::RideId;
use testing::Backend;

use crate::pods::Cluster;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The line with this message, and the whole text.
    fn line(&self, message: &str) -> (Value, String) {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let line = lines.find(|line| line["fields"]["message"] == message).expect("the line was logged");
        (line, text)
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_line_of_a_command_names_its_socket_its_command_and_its_trace() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125550401").await;
    let mut client = pod.connect(user, None).await;
    let ride: RideId = cluster.world.id();
    // Nobody answers for rides, which is a warning.
    assert_eq!(client.refused("ride.arrive", json!({"ride_id": ride})).await, "unavailable -");
    pod.stop().await;
    drop(guard);

    let (line, text) = log.line("rides did not answer a command");
    assert_eq!(line["fields"]["ride_id"], ride.to_string());
    let spans = line["spans"].as_array().unwrap();
    let [socket, command] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((&socket["name"], &socket["user_id"]), (&json!("socket"), &json!(user)));
    assert!(socket["session_id"].is_string());
    assert_eq!(
        (&command["name"], &command["type"], &command["id"]),
        (&json!("command"), &json!("ride.arrive"), &json!("1"))
    );
    assert_eq!(command["trace_id"].as_str().map(str::len), Some(32));
    assert!(!text.contains("2125550401"), "a phone in a log: {text}");
}
