//! The papers of drivers, as operators record them, with the day on which each expires: then their driver is offered nothing, until an
//! operator records a new one. A driver without any may drive: whether papers are asked for is not decided here.

pub(crate) mod rows;

use chrono::NaiveDate;
use platform::{Retry, StoreError, Transaction};
use serde_json::{Value, json};
use streams::UserId;
use streams::operators::Document;

use crate::account::standing;
use crate::context::Context;
use crate::tables::Tables;

/// Drivers whom one transaction takes off duty.
const EXPIRED_MAX: u32 = 100;

/// A document is valid through its last day.
pub(crate) fn is_expired(document: &Document, today: NaiveDate) -> bool {
    document.expires_on < today
}

pub(crate) fn view(documents: &[Document], today: NaiveDate) -> Value {
    let one = |document: &Document| {
        json!({
            "kind": document.kind, "number": document.number, "expires_on": document.expires_on,
            "expired": is_expired(document, today),
        })
    };
    documents.iter().map(one).collect()
}

/// Takes drivers off duty whose papers have expired. Open offers of theirs are withdrawn; a ride under way ends as usual.
///
/// # Errors
/// [`StoreError`]; the next call does it.
pub(crate) async fn expire(context: &Context) -> Result<(), StoreError> {
    let today = context.platform.world.now().date_naive();
    let mut tx = context.store.begin().await?;
    let drivers = rows::on_duty_with_expired(&mut tx, today, EXPIRED_MAX).await?;
    drop(tx);
    for driver in drivers {
        context.store.transact(Retry::Serialization, |tx| stand_down(context, tx, driver)).await?;
        tracing::info!(user_id = %driver, "a driver is off duty: a document has expired");
    }
    Ok(())
}

async fn stand_down(context: &Context, mut tx: Transaction<Tables>, driver: UserId) -> Result<(), StoreError> {
    standing::stand_down(context, &mut tx, driver).await?;
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use streams::operators::DocumentKind;

    use super::*;

    #[test]
    fn a_document_is_valid_through_its_last_day() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        let document = Document { kind: DocumentKind::Licence, number: None, expires_on: day("2027-01-31") };
        let expired = |today| is_expired(&document, day(today));
        assert_eq!((expired("2027-01-30"), expired("2027-01-31"), expired("2027-02-01")), (false, false, true));
    }
}
