//! `match.accept` and `match.reject`.

use platform::{Problem, Transaction};
use serde_json::{Value, json};
use streams::MatchId;

use super::command::{CommandError, Refusal};
use super::sender::{Sender, Via};
use crate::account::{self, DriverStatus};
use crate::context::Context;
use crate::gateway::pod_message::{BROADCAST, PodMessage};
use crate::offer;
use crate::offer::{DriverAnswer, OfferState};
use crate::tables::Tables;

pub(crate) async fn answer(
    context: &Context,
    mut tx: Transaction<Tables>,
    sender: &Sender,
    id: MatchId,
    answer: DriverAnswer,
) -> Result<Value, CommandError> {
    let offer =
        offer::rows::lock_of_driver(&mut tx, id, sender.user).await?.ok_or_else(|| Problem::not_found("offer"))?;
    if let Some((state, event)) = offer.answered(answer, context.platform.world.now())? {
        if state == OfferState::Accepted {
            // An offer that arrived after the driver was suspended.
            let driver = account::rows::driver_of(&mut tx, sender.user).await?;
            if let Some(status) = driver.map(|driver| driver.status).filter(|s| *s != DriverStatus::Approved) {
                return Err(Refusal::not_approved(status).into());
            }
        }
        // The device that accepts is the one whose positions are those of the ride.
        let device = (state == OfferState::Accepted).then_some(&sender.device_name);
        offer::rows::answer(&mut tx, id, state, device.map(|name| &**name)).await?;
        context.publish(&mut tx, &event);
        tx.commit().await?;
        if let Some(device) = device {
            sender.driver().set_accepted(id, device.clone());
            if sender.via == Via::Request {
                tell_pods(context, sender, id).await;
            }
        }
        let outcome = if state == OfferState::Accepted { "accepted" } else { "declined" };
        context.platform.metrics.matches.with_label_values(&[outcome]).inc();
    }
    Ok(json!({"match_id": id}))
}

/// The driver's sockets, wherever they are, send positions of the ride to come: their pods must know which device accepted it.
async fn tell_pods(context: &Context, sender: &Sender, id: MatchId) {
    let message = PodMessage::Accepted(sender.user, id, sender.device_name.to_string()).sign(&context.tokens);
    if let Err(error) = context.platform.bus.publish_core(BROADCAST, message.into()).await {
        tracing::debug!(%error, "other pods learn which device accepted an offer when its socket opens again");
    }
}
