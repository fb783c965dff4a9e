//! What a user owes, as rides says: no service reads another's tables, and no event says it.

use streams::UserId;
use streams::debts::{DEBTS, DEBTS_WAIT, DebtView, DebtsRequest};

use crate::context::Context;

/// `None` if rides does not answer, or has been asked too much: a state does not wait for it for longer than [`DEBTS_WAIT`].
pub(crate) async fn of(context: &Context, user_id: UserId) -> Option<Vec<DebtView>> {
    // When many sockets open at once, rides is not asked about all of them.
    let _permit = context.debts_permits.try_acquire().ok()?;
    if !context.debts.admits() {
        return None;
    }
    let request = serde_json::to_vec(&DebtsRequest { user_id }).expect("ids are JSON");
    let reply = context.platform.bus.request(DEBTS, request.into(), DEBTS_WAIT).await.map_err(|e| e.to_string());
    match reply.and_then(|reply| serde_json::from_slice(&reply).map_err(|e| e.to_string())) {
        Ok(debts) => {
            context.debts.succeeded();
            Some(debts)
        }
        Err(error) => {
            context.debts.failed();
            tracing::debug!(error, "rides did not say what a user owes");
            None
        }
    }
}
