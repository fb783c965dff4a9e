//! The task that finds out when all points of an arrived ride are rows. It asks the bus how far the stream and this service's
//! consumer are; [`ArrivedRides`](crate::track::arrived_rides::ArrivedRides) draws the conclusion. Points that wait for others become
//! rows sooner: those in this process because it needs them, those in others because it tells them.

use std::sync::Arc;
use std::time::Duration;

use platform::{CancellationToken, Platform};
use streams::{Service, Subject};
use tokio::time::sleep;

use crate::cache::Cache;
use crate::zones::exchange::Exchange;

const POLL_INTERVAL: Duration = Duration::from_millis(250);

pub(crate) async fn run(platform: Platform, cache: Arc<Cache>, stop: CancellationToken) {
    let exchange = Exchange::new(&platform, &cache);
    let consumer = platform.topology.consumer(Subject::LocationUpdate, Service::Location);
    loop {
        let now = platform.world.now();
        let waiting = cache.arrived_rides().needs_stream_state(now);
        if waiting {
            if let Ok(stream) = platform.bus.stream_info(&consumer.stream).await {
                cache.arrived_rides().set_watermarks(now, stream.last_sequence);
            }
            if let Ok(info) = platform.bus.consumer_info(&consumer.stream, &consumer.durable).await {
                cache.arrived_rides().apply_consumer_info(&info);
            }
            let needed = cache.arrived_rides().needed_here();
            if needed > 0 {
                exchange.send_needed(needed).await;
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep(POLL_INTERVAL) => {}
        }
    }
}
