//! All that is stored of a person, as that person may have it: what users has, and what rides says (`elsewhere`).

use chrono::{DateTime, Utc};
use platform::Problem;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use streams::debts::DebtView;
use streams::event::{UserFinder, rfc3339};
use streams::operators::shown::DriverDocument;
use streams::{SignInId, UserId};

use super::elsewhere::{self, Elsewhere};
use super::{Profile, rows};
use crate::context::Context;
use crate::mailbox::{ENTRIES_MAX, Entry};
use crate::push::routes::DeviceView;
use crate::shown::{MailboxData, StateOffer, StateRide};
use crate::sign_in::SignIn;
use crate::state::{BeaconView, StateView};
use crate::tables::DeviceRow;
use crate::{document, mailbox, push, sign_in, state};

/// All that is stored of a person.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Export {
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    exported_at: DateTime<Utc>,
    profile: Profile,
    #[serde(with = "rfc3339::optional")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    created_at: Option<DateTime<Utc>>,
    #[serde(with = "rfc3339::optional")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    driver_since: Option<DateTime<Utc>>,
    /// Whether an operator has approved the driver.
    driver_reviewed: bool,
    driver_documents: Vec<DriverDocument>,
    sign_ins: Vec<ExportedSignIn>,
    /// Installations of the app that have read the mailbox.
    devices: Vec<ExportedDevice>,
    push_devices: Vec<DeviceView>,
    mailbox: ExportedMailbox,
    state: ExportedState,
    rides: ExportedRides,
    #[serde(flatten)]
    elsewhere: Elsewhere,
}

#[derive(Serialize, JsonSchema)]
struct ExportedSignIn {
    id: SignInId,
    device: Option<String>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    created_at: DateTime<Utc>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    seen_at: DateTime<Utc>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    ends_at: DateTime<Utc>,
    #[serde(with = "rfc3339::optional")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    ended_at: Option<DateTime<Utc>>,
}

#[derive(Serialize, JsonSchema)]
struct ExportedDevice {
    device: String,
    acked_seq: u64,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    seen_at: DateTime<Utc>,
}

#[derive(Serialize, JsonSchema)]
struct ExportedMailbox {
    last_seq: u64,
    acked_seq: u64,
    events: Vec<ExportedEvent>,
}

/// As in the frame of the event, without the other party, who is somebody else.
#[derive(Serialize, JsonSchema)]
struct ExportedEvent {
    r#type: String,
    seq: u64,
    event_id: String,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    time: DateTime<Utc>,
    #[schemars(with = "MailboxData")]
    data: Option<Value>,
}

#[derive(Serialize, JsonSchema)]
struct ExportedState {
    search: Option<UserFinder>,
    #[schemars(with = "Option<StateOffer>")]
    offer: Value,
    #[schemars(with = "Option<StateRide>")]
    ride: Value,
    beacon: Option<BeaconView>,
    debts: Option<Vec<DebtView>>,
}

/// They are of another service, which pages them.
#[derive(Serialize, JsonSchema)]
struct ExportedRides {
    href: &'static str,
}

/// `None` if there is no such user.
///
/// # Errors
/// [`Problem`] `unavailable`.
pub(crate) async fn of(context: &Context, user: UserId) -> Result<Option<Export>, Problem> {
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
    let StateView { search, offer, ride, beacon, debts, .. } = state;
    Ok(Some(Export {
        exported_at: now,
        profile,
        created_at: since.map(|(created_at, _)| created_at),
        driver_since: since.and_then(|(_, registered_at)| registered_at),
        driver_reviewed: is_reviewed,
        driver_documents: document::view(&documents, now.date_naive()),
        sign_ins: sign_ins.into_iter().map(exported_sign_in).collect(),
        devices: devices.into_iter().map(exported_device).collect(),
        push_devices: push_devices.iter().map(push::routes::view).collect(),
        mailbox: ExportedMailbox {
            last_seq: cursor.last_seq,
            acked_seq: cursor.acked_seq,
            events: entries.into_iter().map(exported_event).collect(),
        },
        state: ExportedState { search, offer, ride, beacon, debts },
        rides: ExportedRides { href: "/v1/rides" },
        elsewhere: elsewhere::export(context, user).await?,
    }))
}

fn exported_sign_in(sign_in: SignIn) -> ExportedSignIn {
    let SignIn { id, device, created_at, seen_at, ends_at, ended_at, .. } = sign_in;
    ExportedSignIn { id, device, created_at, seen_at, ends_at, ended_at }
}

fn exported_device((device, row): (String, DeviceRow)) -> ExportedDevice {
    ExportedDevice { device, acked_seq: row.acked_seq, seen_at: row.seen_at }
}

fn exported_event(entry: Entry) -> ExportedEvent {
    let data = serde_json::from_str(&entry.body).ok();
    ExportedEvent { r#type: entry.subject, seq: entry.seq, event_id: entry.event_id, time: entry.time, data }
}
