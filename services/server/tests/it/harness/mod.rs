//! What the tests of the whole platform share: platforms that run, clients that speak only the contract, and the steps of a ride.

pub(crate) mod client;
pub(crate) mod collector;
pub(crate) mod described;
mod front;
pub(crate) mod nats;
pub(crate) mod ride;
pub(crate) mod running;
pub(crate) mod tap;
mod watcher;

use std::process::{Command, Output};
use std::time::Duration;

use streams::Bus;
use streams::topology::Topology;

/// Two tests of each function, `embedded::NAME` and `nats::NAME`; the function takes a [`Shape`](running::Shape).
macro_rules! on_both_shapes {
    ($($name:ident),+ $(,)?) => {
        crate::harness::on_shapes!(embedded: Embedded, nats: Nats; $($name),+);
    };
}

/// The same, and `secured::NAME`.
macro_rules! on_all_shapes {
    ($($name:ident),+ $(,)?) => {
        crate::harness::on_shapes!(embedded: Embedded, nats: Nats, secured: Secured; $($name),+);
    };
}

macro_rules! on_shapes {
    ($module:ident: $shape:ident; $($name:ident),+) => {
        mod $module {
            $(#[tokio::test] async fn $name() { super::$name(crate::harness::running::Shape::$shape).await })+
        }
    };
    ($module:ident: $shape:ident, $($others:ident: $shapes:ident),+; $($name:ident),+) => {
        crate::harness::on_shapes!($module: $shape; $($name),+);
        crate::harness::on_shapes!($($others: $shapes),+; $($name),+);
    };
}

pub(crate) use {on_all_shapes, on_both_shapes, on_shapes};

/// Runs the program without settings from the environment.
pub(crate) fn rideshare(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rideshare")).args(args).env_clear().output().unwrap()
}

/// Waits until `holds`, at most 90 s.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..900 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not in 90 s: {what}");
}

/// Waits until every consumer has handled and acknowledged all that was published.
pub(crate) async fn settled(bus: &Bus) {
    let topology = Topology::rideshare();
    until("every consumer has handled everything", async || {
        for consumer in &topology.consumers {
            match bus.consumer_info(&consumer.stream, &consumer.durable).await {
                Ok(info) if info.pending + info.ack_pending == 0 => {}
                _ => return false,
            }
        }
        true
    })
    .await;
}
