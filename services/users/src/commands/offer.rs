//! `match.accept` and `match.reject`.

use platform::{Problem, Transaction};
use streams::event::MatchAccepted;
use streams::{Event, MatchId};

use super::ack::OfferAck;
use super::command::{CommandError, Refusal};
use super::sender::Sender;
use crate::account::{self, standing};
use crate::context::Context;
use crate::gateway::pod_message::{BROADCAST, PodMessage};
use crate::offer::{Answered, DriverAnswer, Offered};
use crate::tables::Tables;
use crate::{document, offer};

pub(crate) async fn answer(
    context: &Context,
    mut tx: Transaction<Tables>,
    sender: &Sender,
    id: MatchId,
    answer: DriverAnswer,
) -> Result<OfferAck, CommandError> {
    let (offer, offered) =
        offer::rows::lock_of_driver(&mut tx, id, sender.user).await?.ok_or_else(|| Problem::not_found("offer"))?;
    match offer.answered(answer, context.platform.world.now())? {
        None => {}
        Some(Answered::Declined(event)) => {
            offer::rows::decline(&mut tx, &event).await?;
            context.publish(&mut tx, &Event::MatchRejected(event));
            tx.commit().await?;
            context.platform.metrics.matches.with_label_values(&["declined"]).inc();
        }
        Some(Answered::Accepted(event)) => {
            // An offer that arrived after the driver was suspended, or after a document expired. Whoever suspends, or records documents, locks
            // the driver's offers after that: this offer is locked, so that it is refused here or withdrawn there.
            let markets = context.config.markets.get();
            let market = markets.of(offered.market_id.as_deref(), &event.pickup);
            if let Some(driver) = account::rows::driver_of(&mut tx, sender.user).await?
                && let Some(status) = standing::refused_in(context, &mut tx, sender.user, &driver, market).await?
            {
                return Err(Refusal::not_approved(status).into());
            }
            let today = context.platform.world.now().date_naive();
            if document::rows::has_expired(&mut tx, sender.user, today).await? {
                return Err(Refusal::documents_expired().into());
            }
            // The device that accepts is the one whose positions are those of the ride.
            offer::rows::accept(&mut tx, id, &sender.device_name).await?;
            // The ride is of the market that was offered, and costs what it cost then.
            let Offered { market_id, terms } = offered;
            context.publish(&mut tx, &Event::MatchAccepted(MatchAccepted { market_id, terms, ..event }));
            tx.commit().await?;
            sender.driver().set_accepted(id, sender.device_name.clone());
            tell_pods(context, sender, id).await;
            context.platform.metrics.matches.with_label_values(&["accepted"]).inc();
        }
    }
    Ok(OfferAck { match_id: id })
}

/// The driver's sockets, wherever they are, send positions of the ride to come: their pods must know which device accepted it.
async fn tell_pods(context: &Context, sender: &Sender, id: MatchId) {
    let message = PodMessage::Accepted(sender.user, id, sender.device_name.to_string()).sign(&context.tokens);
    if let Err(error) = context.platform.bus.publish_core(BROADCAST, message.into()).await {
        tracing::debug!(%error, "other pods learn which device accepted an offer when its socket opens again");
    }
}
