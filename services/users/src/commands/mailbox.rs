//! `mailbox.ack`.

use platform::{Transaction, kill_point};
use streams::UserId;

use super::ack::MailboxAcked;
use super::command::{CommandError, Refusal};
use crate::context::Context;
use crate::mailbox::{self, Device};
use crate::tables::Tables;

pub(crate) async fn ack(
    context: &Context,
    mut tx: Transaction<Tables>,
    user: UserId,
    device: &Device,
    seq: u64,
) -> Result<MailboxAcked, CommandError> {
    if !mailbox::rows::ack(&mut tx, user, device, seq, context.platform.world.now()).await? {
        return Err(Refusal::field("seq", "is beyond the newest event of your mailbox").into());
    }
    kill_point::reached("mailbox.before_cursor");
    tx.commit().await?;
    Ok(MailboxAcked { seq })
}
