//! Answers how far a ride has come, when it is cancelled: rides bills what was driven, and a client waits for the answer.
//!
//! A point counts once it is a row, in whichever process it waits. So the answer waits until the consumer has acknowledged what the
//! stream holds now, and asks all processes to write at once what waits. What is not a row after [`ROWS_WAIT`] is left out: the fare
//! is a little lower then, and the cancellation is not late.

use std::sync::Arc;
use std::time::Duration;

use platform::responder::{self, Endpoint, Reply};
use platform::{CancellationToken, Platform, Store, StoreError};
use streams::driven_distance::{DRIVEN_DISTANCE, DRIVEN_DISTANCE_WAIT, DrivenDistance, DrivenDistanceRequest};
use streams::fleet::FLEET_QUEUE_GROUP;
use streams::{Service, Subject};
use tokio::time::{sleep, timeout};

use crate::cache::Cache;
use crate::config::Config;
use crate::tables::Tables;
use crate::track::point_rows::{self, PointQuery};
use crate::track::{self, Point, RideTimes};
use crate::zones::exchange::Exchange;

/// Requests in hand at most; each reads the points of one ride.
const ACCEPTED_MAX: usize = 64;
/// How long an answer waits for points to become rows.
const ROWS_WAIT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub(crate) struct DrivenDistances {
    platform: Platform,
    store: Store<Tables>,
    config: Arc<Config>,
    cache: Arc<Cache>,
}

impl DrivenDistances {
    pub(crate) fn new(platform: &Platform, store: &Store<Tables>, config: &Arc<Config>, cache: &Arc<Cache>) -> Self {
        Self { platform: platform.clone(), store: store.clone(), config: config.clone(), cache: cache.clone() }
    }

    /// Answers until `stop`.
    pub(crate) async fn serve(self, stop: CancellationToken) {
        let endpoint = Endpoint {
            service: Some(Service::Location),
            name: "driven".to_owned(),
            subject: DRIVEN_DISTANCE.to_owned(),
            queue_group: Some(FLEET_QUEUE_GROUP.to_owned()),
            accepted_max: ACCEPTED_MAX,
            wait: DRIVEN_DISTANCE_WAIT,
            health_part: None,
        };
        responder::serve(self.platform.clone(), endpoint, stop, move |request| self.clone().reply(request)).await;
    }

    async fn reply(self, request: impl AsRef<[u8]>) -> Reply {
        let request: DrivenDistanceRequest = match serde_json::from_slice(request.as_ref()) {
            Ok(request) => request,
            Err(error) => return Reply::unreadable(&error),
        };
        if timeout(ROWS_WAIT, self.until_rows()).await.is_err() {
            tracing::info!(ride_id = %request.ride_id, "a cancelled ride is measured without its newest points");
        }
        match self.measure(&request).await {
            Ok(driven) => Reply::json(&driven),
            Err(error) => {
                tracing::warn!(%error, ride_id = %request.ride_id, "a cancelled ride cannot be measured");
                Reply::none("the store does not answer")
            }
        }
    }

    /// Waits until what LOCATION_STREAM holds now is in rows.
    async fn until_rows(&self) {
        let consumer = self.platform.topology.consumer(Subject::LocationUpdate, Service::Location);
        let Ok(stream) = self.platform.bus.stream_info(&consumer.stream).await else { return };
        let watermark = stream.last_sequence;
        self.cache.arrived_rides().set_needed_at_once(watermark, self.platform.world.now());
        Exchange::new(&self.platform, &self.cache).send_needed_at_once(watermark).await;
        loop {
            if let Ok(info) = self.platform.bus.consumer_info(&consumer.stream, &consumer.durable).await
                && (info.ack_floor >= watermark || info.pending == 0 && info.ack_pending == 0)
            {
                return;
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn measure(&self, request: &DrivenDistanceRequest) -> Result<DrivenDistance, StoreError> {
        let DrivenDistanceRequest { ride_id, driver_id, pickup, started_at, until } = *request;
        let mut tx = self.store.begin().await?;
        let rows = point_rows::read(&mut tx, &[PointQuery { ride_id, driver_id, after_version: 0 }]).await?;
        drop(tx);
        let points: Vec<Point> = rows.into_iter().map(|row| row.point).collect();
        // It never came to its dropoff.
        let ride = RideTimes { started_at, arrived_at: Some(until), pickup: Some(pickup), dropoff: None };
        let measured = track::measure(&points, &ride, self.config.max_speed_mps);
        Ok(DrivenDistance { distance_m: measured.summary.distance_m, covered: measured.covered })
    }
}
