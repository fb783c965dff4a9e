//! Asks location where the drivers are, when this process takes over. Nothing depends on the answer.

use geospatial::newest::Place;
use platform::Platform;
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
    let (mut request, mut count) = (FleetRequest::default(), 0);
    for _ in 0..PAGES_MAX {
        let left = deadline.saturating_duration_since(Instant::now()).min(FLEET_WAIT);
        let reply = match timeout(left, page(platform, &request)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                tracing::info!(error, "location did not say where the drivers are");
                break;
            }
            Err(_) => {
                tracing::info!("location did not say in time where the drivers are");
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
    tracing::info!(drivers = count, "positions of drivers, as location knows them");
    positions
}

async fn page(platform: &Platform, request: &FleetRequest) -> Result<FleetReply, String> {
    let body = serde_json::to_vec(request).map_err(|error| error.to_string())?;
    let reply = platform.bus.request(FLEET, body.into(), FLEET_WAIT).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&reply).map_err(|error| format!("the reply cannot be parsed: {error}"))
}
