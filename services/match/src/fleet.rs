//! Asks location where the drivers are, when this process takes over, and the pods of users if location does not answer: it may be starting
//! itself. Nothing depends on the answer.

use geospatial::newest::Place;
use platform::{Platform, connected_drivers};
use streams::Position;
use streams::fleet::{FLEET, FLEET_PAGE, FLEET_WAIT, FleetReply, FleetRequest};
use tokio::time::{Instant, timeout};

use crate::positions::DriverPositions;

/// The most time that a take-over waits for location.
const WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(1);
/// The most pages: more drivers than any city has.
const PAGES_MAX: usize = 500;

/// The newest positions as location knows them, of those that are `wanted`; what did not come in time is left out.
pub(crate) async fn positions(platform: &Platform, wanted: impl Fn(&Position) -> bool) -> DriverPositions {
    let mut positions = DriverPositions::default();
    let deadline = Instant::now() + WAIT_MAX;
    let left = || deadline.saturating_duration_since(Instant::now());
    let (mut request, mut count) = (FleetRequest::default(), 0);
    for _ in 0..PAGES_MAX {
        let reply = match timeout(left().min(FLEET_WAIT), page(platform, &request)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                tracing::info!(error, "location did not say where the drivers are");
                count += of_pods(platform, &mut positions, left(), &wanted).await;
                break;
            }
            Err(_) => {
                tracing::info!("location did not say in time where the drivers are");
                count += of_pods(platform, &mut positions, left(), &wanted).await;
                break;
            }
        };
        count += reply.drivers.len();
        let now = platform.world.now();
        request.after = reply.drivers.last().map(|driver| driver.user_id);
        for driver in reply.drivers.iter().take(FLEET_PAGE).filter(|driver| driver.location.is_valid()) {
            if !wanted(&driver.location) {
                continue;
            }
            let place = Place {
                position: driver.location,
                speed_mps: None,
                heading_deg: None,
                ride_id: None,
                ride_device: false,
                device_at: driver.device_at,
                recorded_at: driver.recorded_at,
                received_at: driver.received_at.min(now),
                is_beacon: driver.is_beacon,
            };
            positions.restore(driver.user_id, place, &driver.device);
        }
        if !reply.more || request.after.is_none() {
            break;
        }
    }
    tracing::info!(drivers = count, "positions of drivers, as others know them");
    positions
}

/// Adds what the pods of users know, in the time that is left. Returns how many drivers they named.
async fn of_pods(
    platform: &Platform,
    positions: &mut DriverPositions,
    left: std::time::Duration,
    wanted: impl Fn(&Position) -> bool,
) -> usize {
    let drivers = match connected_drivers::all(platform, left).await {
        Ok(drivers) => drivers,
        Err(error) => {
            tracing::info!(%error, "the pods of users did not say where the drivers are");
            return 0;
        }
    };
    let now = platform.world.now();
    let count = drivers.len();
    for driver in drivers.iter().filter(|d| d.position.location.is_valid() && wanted(&d.position.location)) {
        let place = Place::of_position(&driver.position, None);
        let place = Place { ride_device: false, received_at: place.received_at.min(now), ..place };
        positions.restore(driver.user_id, place, &driver.position.device);
    }
    count
}

async fn page(platform: &Platform, request: &FleetRequest) -> Result<FleetReply, String> {
    let body = serde_json::to_vec(request).map_err(|error| error.to_string())?;
    let reply = platform.bus.request(FLEET, body.into(), FLEET_WAIT).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&reply).map_err(|error| format!("the reply cannot be parsed: {error}"))
}
