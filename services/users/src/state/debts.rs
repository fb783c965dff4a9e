//! What a user owes, as rides says: no service reads another's tables, and no event says it.

use streams::UserId;
use streams::debts::{DEBTS_WAIT, DebtView, DebtsRequest};

use crate::context::Context;

/// `None` if rides does not answer, or has been asked too much: a state does not wait for it for longer than [`DEBTS_WAIT`].
pub(crate) async fn of(context: &Context, user_id: UserId) -> Option<Vec<DebtView>> {
    context.debts.ask(&DebtsRequest { user_id }, DEBTS_WAIT).await
}
