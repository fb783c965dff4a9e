//! `mailbox.ack`.

use platform::{Transaction, kill_point};
use serde_json::{Value, json};
use streams::UserId;

use super::command::{CommandError, Refusal};
use crate::mailbox;
use crate::tables::Tables;

pub(crate) async fn ack(mut tx: Transaction<Tables>, user: UserId, seq: u64) -> Result<Value, CommandError> {
    if !mailbox::rows::ack(&mut tx, user, seq).await? {
        return Err(Refusal::field("seq", "is beyond the newest event of your mailbox").into());
    }
    kill_point::reached("mailbox.before_cursor");
    tx.commit().await?;
    Ok(json!({"seq": seq}))
}
