//! `match.accept` and `match.reject`.

use platform::{Problem, Transaction};
use serde_json::{Value, json};
use streams::{MatchId, UserId};

use super::command::CommandError;
use crate::context::Context;
use crate::offer;
use crate::offer::{DriverAnswer, OfferState};
use crate::tables::Tables;

pub(crate) async fn answer(
    context: &Context,
    mut tx: Transaction<Tables>,
    driver: UserId,
    id: MatchId,
    answer: DriverAnswer,
) -> Result<Value, CommandError> {
    let offer = offer::rows::lock_of_driver(&mut tx, id, driver).await?.ok_or_else(|| Problem::not_found("offer"))?;
    if let Some((state, event)) = offer.answered(answer, context.platform.world.now())? {
        offer::rows::set_state(&mut tx, id, state).await?;
        context.publish(&mut tx, &event);
        tx.commit().await?;
        let outcome = if state == OfferState::Accepted { "accepted" } else { "declined" };
        context.platform.metrics.matches.with_label_values(&[outcome]).inc();
    }
    Ok(json!({"match_id": id}))
}
