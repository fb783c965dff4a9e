//! What operators see of rides and do with them. The process that serves them by HTTP has checked who they are and what they may do
//! (`server/admin`), and asks here; an act is one transaction, with its event for ADMIN_STREAM.

mod acts;
mod desk;
mod lists;
mod rows;
mod view;

use std::sync::Arc;

use platform::operators::shown;
use platform::{CancellationToken, Platform, Problem, Store, Tokens, operators};
use serde_json::Value;
use streams::operators::shown::RideAlone;
use streams::operators::{Asked, RIDES_OPERATORS, RidesRequest};
use streams::{RideId, Service};

use self::desk::{Desk, not_found};
use crate::config::Config;
use crate::payment::rows::{debts_of, payments_of};
use crate::ride::requests;
use crate::tables::Tables;
use crate::{event_log, ledger, note, refund};

/// Answers until `stop`.
pub(crate) async fn answer(
    platform: Platform,
    store: Store<Tables>,
    (tokens, config): (Tokens, Arc<Config>),
    stop: CancellationToken,
) {
    let desk = Desk { platform: platform.clone(), store, config };
    operators::answer((platform, tokens), (Service::Rides, RIDES_OPERATORS), stop, move |asked| {
        let desk = desk.clone();
        async move { desk.answer(&asked).await }
    })
    .await;
}

impl Desk {
    async fn answer(&self, asked: &Asked<RidesRequest>) -> Result<Value, Problem> {
        match &asked.request {
            RidesRequest::Rides { status, user, market, after, limit } => {
                let filter = lists::Filter { status: status.as_deref(), user: *user, market: market.as_deref() };
                lists::page(&self.store, &filter, *after, *limit).await
            }
            RidesRequest::Ride { ride_id } => self.ride(*ride_id).await,
            RidesRequest::Debts { user_id } => {
                let mut tx = self.store.begin().await?;
                let debts = debts_of(&mut tx, *user_id).await?;
                Ok(shown(&debts.iter().take(100).map(view::debt).collect::<Vec<_>>()))
            }
            RidesRequest::Live { map } => lists::live(&self.store, map).await,
            RidesRequest::End { act, ride_id } => acts::end(self, asked, act, *ride_id).await,
            RidesRequest::Refund { act, ride_id, amount } => acts::refund(self, asked, act, *ride_id, *amount).await,
            RidesRequest::Note { act, ride_id, text } => acts::note(self, asked, act, *ride_id, text).await,
        }
    }

    /// All that rides has of a ride.
    async fn ride(&self, id: RideId) -> Result<Value, Problem> {
        let mut tx = self.store.begin().await?;
        let ride = rows::ride(&mut tx, id).await?.ok_or_else(not_found)?;
        let events = event_log::rows::events_of(&mut tx, id).await?;
        let payment = payments_of(&mut tx, &[id]).await?.pop();
        let entries = ledger::rows::entries_between(&mut tx, id, id).await?;
        let refunds = refund::rows::of_rides(&mut tx, &[id]).await?;
        let notes = note::rows::of_ride(&mut tx, id).await?;
        let request = match view::request_of(&events) {
            Some(request) => Some(request),
            None => requests::of_match(&mut tx, ride.match_id).await?,
        };
        drop(tx);
        let (events, chain) = view::events(&events);
        Ok(shown(&RideAlone {
            ride: view::whole(&ride, payment.as_ref(), request),
            events,
            chain,
            payment: payment.as_ref().map(|payment| view::payment(payment, &refunds)),
            ledger: entries.iter().map(view::entry).collect(),
            refunds: refunds.iter().map(view::refund).collect(),
            notes: notes.iter().map(view::note).collect(),
        }))
    }
}
