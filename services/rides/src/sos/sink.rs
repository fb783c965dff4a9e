//! What goes to the operators' sink: each round of an alert until it is accepted, and positions while the alert is open. Signed as Standard
//! Webhooks have it, with an id that is the same on every try.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, Uri, header};
use bytes::Bytes;
use platform::breaker::Rules;
use platform::http_client::{HttpClient, Protocol, Purpose, Reach};
use platform::webhook::{self, Secret};
use platform::{CancellationToken, Platform, Store, StoreError, kill_point};
use serde_json::{Value, json};
use streams::contacts::{CONTACTS, CONTACTS_WAIT, Contacts, ContactsRequest};
use streams::event::rfc3339;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Alert, rows};
use crate::ride::Ride;
use crate::ride::rows::ride_of;
use crate::share::viewed::Whereabouts;
use crate::tables::Tables;

/// Another process may have died with an alert in hand: each looks for what is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// While so many alerts and positions are on their way no more are looked for; a look adds 32 at most.
const IN_HAND_MAX: usize = 32;
const CLIENT: Purpose = Purpose {
    name: "sos",
    wait: Duration::from_secs(2),
    // Every try is a try of the alert's row.
    tries: 1,
    circuit: Rules { failures_max: 5, open_for: chrono::Duration::seconds(1) },
    reach: Reach::Anywhere,
    protocol: Protocol::Any,
};

/// Where calls for help go: SOS_WEBHOOK and SOS_WEBHOOK_SECRET.
#[derive(Debug, Clone)]
pub struct SosSink {
    pub url: Uri,
    pub secret: Secret,
}

/// Sends alerts and positions; clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    platform: Platform,
    store: Store<Tables>,
    sink: SosSink,
    client: HttpClient,
    whereabouts: Arc<Whereabouts>,
}

fn count(platform: &Platform, outcome: &str) {
    platform.metrics.sos.with_label_values(&[outcome]).inc();
}

impl Sender {
    pub(crate) fn new(
        platform: &Platform,
        store: &Store<Tables>,
        sink: SosSink,
        whereabouts: Arc<Whereabouts>,
    ) -> Self {
        let client = HttpClient::new(platform, CLIENT);
        Self { platform: platform.clone(), store: store.clone(), sink, client, whereabouts }
    }

    /// Sends until `stop`; what is on its way then is given up, and sent by whoever looks next.
    pub(crate) async fn run(self, raised: Arc<Notify>, stop: CancellationToken) {
        let mut in_hand = JoinSet::new();
        loop {
            if in_hand.len() < IN_HAND_MAX
                && let Err(error) = self.send_due(&mut in_hand).await
            {
                tracing::warn!(%error, "calls for help could not be read");
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = raised.notified() => {}
                () = sleep(LOOK_EVERY) => {}
            }
            while in_hand.try_join_next().is_some() {}
        }
    }

    async fn send_due(&self, in_hand: &mut JoinSet<()>) -> Result<(), StoreError> {
        let now = self.platform.world.now();
        let mut tx = self.store.begin().await?;
        let due = rows::claim_due(&mut tx, now).await?;
        let positions = rows::claim_positions(&mut tx, now).await?;
        if due.is_empty() && positions.is_empty() {
            return Ok(());
        }
        tx.commit().await?;
        for alert in due {
            if alert.delivery.dead_at.is_some() {
                let Alert { sos_id, ride_id, .. } = alert;
                tracing::error!(%sos_id, %ride_id, "a call for help was not accepted for a day and is given up");
                count(&self.platform, "dead");
                continue;
            }
            let sender = self.clone();
            in_hand.spawn(async move { sender.send_alert(alert).await });
        }
        for alert in positions {
            let sender = self.clone();
            in_hand.spawn(async move { sender.send_position(alert).await });
        }
        Ok(())
    }

    async fn send_alert(&self, alert: Alert) {
        let Alert { sos_id, ride_id, .. } = alert;
        let sent = self.send_round(&alert).await;
        match sent {
            Ok(()) => {
                count(&self.platform, "accepted");
                tracing::info!(%sos_id, %ride_id, tries = alert.delivery.tries, "operators have a call for help");
            }
            Err(error) => {
                count(&self.platform, "failed");
                tracing::error!(%sos_id, %ride_id, error, tries = alert.delivery.tries, "a call for help was not accepted");
            }
        }
    }

    async fn send_round(&self, alert: &Alert) -> Result<(), String> {
        let body = self.raised(alert).await.map_err(|error| error.to_string())?;
        kill_point::reached("sos.before_send");
        self.post(&format!("sos_{}_{}", alert.sos_id, alert.round), &body).await?;
        kill_point::reached("sos.before_record");
        let mut tx = self.store.begin().await.map_err(|error| error.to_string())?;
        let stored = rows::lock(&mut tx, alert.sos_id).await.map_err(|error| error.to_string())?;
        if let Some(mut stored) = stored.filter(|stored| stored.round == alert.round) {
            stored.delivery.accepted_at = Some(self.platform.world.now());
            rows::put(&mut tx, &stored).await.map_err(|error| error.to_string())?;
            tx.commit().await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The body of a round. Who cannot be reached in time is left out: the call must go out.
    async fn raised(&self, alert: &Alert) -> Result<Value, StoreError> {
        let mut tx = self.store.begin().await?;
        let ride = ride_of(&mut tx, alert.ride_id, alert.user).await?;
        drop(tx);
        let Some(ride) = ride else { return Err(StoreError::Other(format!("no ride {}", alert.ride_id))) };
        let (contacts, newest) = tokio::join!(self.contacts(&ride), self.whereabouts.of(ride.driver_id));
        let (at, located_at) = (alert.place.map(|(at, _)| at), alert.place.map(|(_, at)| rfc3339::text(&at)));
        Ok(json!({
            "type": "sos.raised",
            "timestamp": rfc3339::text(&alert.raised_at),
            "data": {
                "sos_id": alert.sos_id, "round": alert.round, "ride_id": alert.ride_id,
                "raised_at": rfc3339::text(&alert.raised_at), "by": side(&ride, alert), "user_id": alert.user,
                "note": alert.note, "location": at, "located_at": located_at,
                "ride": {
                    "status": ride.status, "pickup": ride.pickup, "dropoff": ride.dropoff,
                    "vehicle_type": ride.vehicle_type, "created_at": rfc3339::text(&ride.created_at),
                },
                "driver": contacts.as_ref().and_then(|contacts| contacts.driver.clone()),
                "passenger": contacts.as_ref().and_then(|contacts| contacts.passenger.clone()),
                "vehicle": contacts.as_ref().and_then(|contacts| contacts.vehicle.clone()),
                "driver_location": newest.as_ref().map(|newest| newest.location),
                "driver_located_at": newest.as_ref().map(|newest| rfc3339::text(&newest.recorded_at)),
            },
        }))
    }

    async fn contacts(&self, ride: &Ride) -> Option<Contacts> {
        let request = ContactsRequest { driver_id: ride.driver_id, passenger_id: ride.passenger_id };
        let body = serde_json::to_vec(&request).expect("ids are JSON");
        let reply = self.platform.bus.request(CONTACTS, body.into(), CONTACTS_WAIT).await.map_err(|e| e.to_string());
        let read = reply.and_then(|reply| serde_json::from_slice(&reply).map_err(|e| e.to_string()));
        read.inspect_err(|error| tracing::warn!(error, "users did not say who the parties of a call for help are")).ok()
    }

    /// Sends where driver and caller are, if that is newer than what the sink has. It is not repeated: the next one says more.
    async fn send_position(&self, alert: Alert) {
        if let Err(error) = self.send_newest(&alert).await {
            count(&self.platform, "position_failed");
            tracing::warn!(sos_id = %alert.sos_id, error, "a position of a call for help was not accepted");
        }
    }

    async fn send_newest(&self, alert: &Alert) -> Result<(), String> {
        let mut tx = self.store.begin().await.map_err(|error| error.to_string())?;
        let ride = ride_of(&mut tx, alert.ride_id, alert.user).await.map_err(|error| error.to_string())?;
        drop(tx);
        let Some(ride) = ride else { return Ok(()) };
        let newest = self.whereabouts.of(ride.driver_id).await;
        let caller_at = alert.place.map(|(_, at)| at);
        let Some(position_of) = newest.as_ref().map(|newest| newest.recorded_at).max(caller_at) else { return Ok(()) };
        if alert.position_of.is_some_and(|sent| position_of <= sent) {
            return Ok(());
        }
        let body = json!({
            "type": "sos.position",
            "timestamp": rfc3339::text(&self.platform.world.now()),
            "data": {
                "sos_id": alert.sos_id, "round": alert.round, "ride_id": alert.ride_id, "by": side(&ride, alert),
                "location": alert.place.map(|(at, _)| at), "located_at": caller_at.as_ref().map(rfc3339::text),
                "driver_location": newest.as_ref().map(|newest| newest.location),
                "driver_heading_deg": newest.as_ref().and_then(|newest| newest.heading_deg),
                "driver_located_at": newest.as_ref().map(|newest| rfc3339::text(&newest.recorded_at)),
            },
        });
        self.post(&format!("sos_{}_{}_{}", alert.sos_id, alert.round, position_of.timestamp_micros()), &body).await?;
        count(&self.platform, "position");
        let mut tx = self.store.begin().await.map_err(|error| error.to_string())?;
        if let Some(mut stored) = rows::lock(&mut tx, alert.sos_id).await.map_err(|error| error.to_string())? {
            stored.position_of = stored.position_of.max(Some(position_of));
            rows::put(&mut tx, &stored).await.map_err(|error| error.to_string())?;
            tx.commit().await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    async fn post(&self, id: &str, body: &Value) -> Result<(), String> {
        let (body, now) = (Bytes::from(body.to_string()), self.platform.world.now());
        let request = Request::post(self.sink.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(webhook::ID, id)
            .header(webhook::TIMESTAMP, now.timestamp().to_string())
            .header(webhook::SIGNATURE, self.sink.secret.sign(id, now, &body))
            .body(body)
            .map_err(|error| error.to_string())?;
        let response = self.client.send(request).await.map_err(|error| format!("the sink {error}"))?;
        let status = response.status();
        if status.is_success() { Ok(()) } else { Err(format!("the sink answered {status}")) }
    }
}

fn side(ride: &Ride, alert: &Alert) -> &'static str {
    if alert.user == ride.driver_id { "driver" } else { "passenger" }
}
