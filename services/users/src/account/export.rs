//! All that is stored of a person, as that person may have it: what users has, and what rides says (`elsewhere`).

use platform::Problem;
use serde_json::{Value, json};
use streams::UserId;
use streams::event::rfc3339;

use super::{elsewhere, rows};
use crate::context::Context;
use crate::mailbox::{ENTRIES_MAX, Entry};
use crate::sign_in::SignIn;
use crate::tables::DeviceRow;
use crate::{document, mailbox, push, sign_in, state};

/// `None` if there is no such user.
///
/// # Errors
/// [`Problem`] `unavailable`.
pub(crate) async fn of(context: &Context, user: UserId) -> Result<Option<Value>, Problem> {
    let now = context.platform.world.now();
    let mut tx = context.store.begin().await?;
    let Some(profile) = rows::profile_of(&mut tx, user).await? else { return Ok(None) };
    let since = rows::since(&mut tx, user).await?;
    let is_reviewed = since.is_some() && rows::is_reviewed(&mut tx, user).await?;
    let documents = document::rows::of(&mut tx, user).await?;
    let sign_ins = sign_in::rows::of_user(&mut tx, user).await?;
    let devices = mailbox::device_rows::of_user(&mut tx, user).await?;
    let push_devices = push::rows::of_user(&mut tx, user).await?;
    let cursor = mailbox::rows::cursor(&mut tx, user).await?;
    let most = usize::try_from(ENTRIES_MAX).unwrap_or(usize::MAX);
    let entries = mailbox::rows::entries_after(&mut tx, user, 0, most).await?;
    drop(tx);
    let state = state::of(context, user).await?;
    let device = |(device, row): &(String, DeviceRow)| json!({"device": device, "acked_seq": row.acked_seq, "seen_at": rfc3339::text(&row.seen_at)});
    let mut export = json!({
        "exported_at": rfc3339::text(&now),
        "profile": profile,
        "created_at": since.map(|(created_at, _)| rfc3339::text(&created_at)),
        "driver_since": since.and_then(|(_, registered_at)| registered_at).as_ref().map(rfc3339::text),
        "driver_reviewed": is_reviewed,
        "driver_documents": document::view(&documents, now.date_naive()),
        "sign_ins": sign_ins.iter().map(sign_in_view).collect::<Vec<_>>(),
        "devices": devices.iter().map(device).collect::<Vec<_>>(),
        "push_devices": push_devices.iter().map(push::routes::view).collect::<Vec<_>>(),
        "mailbox": {
            "last_seq": cursor.last_seq,
            "acked_seq": cursor.acked_seq,
            "events": entries.iter().map(entry_view).collect::<Vec<_>>(),
        },
        "state": {
            "search": state["search"], "offer": state["offer"], "ride": state["ride"], "beacon": state["beacon"],
            "debts": state["debts"],
        },
        // They are of another service, which pages them.
        "rides": {"href": "/v1/rides"},
        "not_exported": [{
            "what": "operators' notes of your rides",
            "why": "they may speak of the other party: ask the operator, who reads them first",
        }],
    });
    for (field, value) in elsewhere::export(context, user).await? {
        export[field] = value;
    }
    Ok(Some(export))
}

fn sign_in_view(sign_in: &SignIn) -> Value {
    json!({
        "id": sign_in.id,
        "device": sign_in.device,
        "created_at": rfc3339::text(&sign_in.created_at),
        "seen_at": rfc3339::text(&sign_in.seen_at),
        "ends_at": rfc3339::text(&sign_in.ends_at),
        "ended_at": sign_in.ended_at.as_ref().map(rfc3339::text),
    })
}

/// As in the frame of the event, without the other party, who is somebody else.
fn entry_view(entry: &Entry) -> Value {
    let data = serde_json::from_str::<Value>(&entry.body).ok();
    json!({
        "type": entry.subject, "seq": entry.seq, "event_id": entry.event_id, "time": rfc3339::text(&entry.time),
        "data": data,
    })
}
