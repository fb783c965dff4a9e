//! A driver's second device, which lies at the depot and sends where it is, as a tablet that nobody signed out does. A ride is measured by
//! the device that accepted it, and a driver is where the device is that went online: nothing of the tablet may show in a bill, in an
//! offer or on a passenger's map. What it acknowledges must stay in the phone's mailbox.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use crate::account::Account;
use crate::city::{City, Phase};
use crate::client::{Socket, SocketInput, TABLET};
use crate::clock;
use crate::frame::{self, Frame, rfc3339};

/// The pause before the tablet connects again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// How far the depot is from the first centre, metres to the north: no driver and no ride comes near.
const DEPOT_NORTH_M: f64 = 40_000.0;

/// Connects again and again until the phase is over.
pub(super) async fn run(city: Arc<City>, account: Arc<Account>, index: usize) {
    let mut phase = city.phase.clone();
    let sending = async {
        for attempt in index.. {
            let http = &city.users_clients[attempt % city.users_clients.len()];
            if let Ok((socket, _)) = Socket::open(http, &account, None, TABLET).await {
                let ended = send_positions(&city, socket).await;
                tracing::debug!(?ended, "the tablet's connection has ended");
            }
            sleep(RECONNECT_PAUSE).await;
        }
    };
    tokio::select! {
        biased;
        _ = phase.wait_for(|phase| *phase == Phase::Over) => {}
        () = sending => {}
    }
}

/// Sends the depot's place until the connection ends.
///
/// # Errors
/// The connection is lost.
async fn send_positions(city: &City, mut socket: Socket) -> Result<()> {
    let depot = city.config.centres[0].offset(DEPOT_NORTH_M, 0.0);
    let mut next_at: Instant = clock::now();
    loop {
        let incoming = tokio::select! {
            biased;
            incoming = socket.read() => incoming,
            () = sleep_until(next_at) => {
                next_at = clock::now() + city.config.position_interval * 2;
                let recorded_at = rfc3339(city.wall_clock.now());
                let data = json!({"location": depot, "accuracy_m": 12.0, "speed_mps": 0.0, "recorded_at": recorded_at});
                socket.send(frame::command(None, "location.update", &data)).await?;
                continue;
            }
        };
        match incoming {
            SocketInput::Text(text) => {
                if let Ok(Frame::Event(event)) = frame::parse(&text) {
                    let data = json!({"seq": event.seq});
                    socket.send(frame::command(None, "mailbox.ack", &data)).await?;
                }
            }
            SocketInput::Control => {}
            SocketInput::Closed(_) => return Ok(()),
        }
    }
}
