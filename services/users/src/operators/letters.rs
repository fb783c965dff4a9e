//! Dead letters of any consumer, requeued or removed by operators. The letters are on the bus and no row has them, so the act is committed
//! first, and done after that: an act that is done is always on ADMIN_STREAM. If the process dies in between, or nobody handles the message,
//! the same request with the same key does it.

use platform::dead_letters::{self, DeadLetter, RequeueError, Requeued};
use platform::operators::acts::{self, ActError, Begun, begin};
use platform::operators::shown;
use platform::{Problem, Retry, Transaction, kill_point};
use serde_json::Value;
use streams::BusError;
use streams::event::ActKind;
use streams::operators::shown::{LetterDone, LetterOutcome};
use streams::operators::{ActHead, Asked, UsersRequest};
use streams::topology::DEAD_LETTER_STREAM;

use super::view::not_found;
use crate::context::Context;
use crate::tables::Tables;

type AskedUsers = Asked<UsersRequest>;

/// The letter, `None` if it is not there, or not any more.
async fn letter(context: &Context, sequence: u64) -> Result<Option<DeadLetter>, Problem> {
    match context.platform.bus.get_message(DEAD_LETTER_STREAM, sequence).await {
        Ok(stored) => Ok(Some(DeadLetter::parse(stored))),
        Err(BusError::NotFound(_)) => Ok(None),
        Err(error) => Err(unavailable(&error)),
    }
}

fn unavailable(error: &dyn std::fmt::Display) -> Problem {
    tracing::warn!(%error, "an act on a dead letter was not done; the same request does it");
    Problem::unavailable()
}

/// Commits the act. A letter that is not there is an error only if this is no repeat.
async fn record(
    context: &Context,
    asked: &AskedUsers,
    act: &ActHead,
    (kind, sequence, letter): (ActKind, u64, Option<&DeadLetter>),
) -> Result<Begun, Problem> {
    let of = (act, kind, sequence, letter);
    let begun = context.store.transact(Retry::Serialization, |tx| record_in(context, tx, asked, of)).await?;
    kill_point::reached("operator.after_record");
    Ok(begun)
}

async fn record_in(
    context: &Context,
    mut tx: Transaction<Tables>,
    asked: &AskedUsers,
    (act, kind, sequence, letter): (&ActHead, ActKind, u64, Option<&DeadLetter>),
) -> Result<Begun, ActError> {
    let begun = begin(&mut tx, asked, act).await?;
    if begun.is_repeated() {
        return Ok(begun);
    }
    let letter = letter.ok_or_else(|| not_found("dead letter"))?;
    let world = &context.platform.world;
    let mut event = acts::event(asked, act, kind, world.now());
    (event.sequence, event.consumer) = (Some(sequence), Some(letter.consumer.clone()));
    event.message_id = Some(letter.message_id.clone());
    acts::publish(&mut tx, world, event);
    tx.commit().await?;
    Ok(begun)
}

/// Has the message handled again by the consumer that failed it. The outcome of a repeat is `gone` if the letter is not there any more.
pub(super) async fn requeue(
    context: &Context,
    asked: &AskedUsers,
    act: &ActHead,
    sequence: u64,
) -> Result<Value, Problem> {
    let letter = letter(context, sequence).await?;
    let begun = record(context, asked, act, (ActKind::DeadLetterRequeued, sequence, letter.as_ref())).await?;
    let outcome = match &letter {
        Some(letter) => match dead_letters::requeue(&context.platform.bus, letter).await {
            Ok(Requeued::Done) => LetterOutcome::Requeued,
            Ok(Requeued::DoneBefore) => LetterOutcome::HandledBefore,
            Err(error @ (RequeueError::NobodyRuns(_) | RequeueError::Failed(_))) => {
                return Err(Problem::conflict("not_requeued", error.to_string()));
            }
            Err(error) => return Err(unavailable(&error)),
        },
        // A repeat. What became of the letter is not known here: it was handled, or somebody removed it.
        None => LetterOutcome::Gone,
    };
    Ok(shown(&LetterDone { act: begun.done(act), sequence, outcome }))
}

/// Removes a letter for good.
pub(super) async fn remove(
    context: &Context,
    asked: &AskedUsers,
    act: &ActHead,
    sequence: u64,
) -> Result<Value, Problem> {
    let letter = letter(context, sequence).await?;
    let begun = record(context, asked, act, (ActKind::DeadLetterRemoved, sequence, letter.as_ref())).await?;
    if let Some(letter) = &letter {
        match dead_letters::remove(&context.platform.bus, letter).await {
            Ok(()) | Err(BusError::NotFound(_)) => {}
            Err(error) => return Err(unavailable(&error)),
        }
    }
    Ok(shown(&LetterDone { act: begun.done(act), sequence, outcome: LetterOutcome::Removed }))
}
