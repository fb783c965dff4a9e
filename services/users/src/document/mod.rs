//! The papers of drivers, as operators record them, with the day on which each expires: then their driver is offered nothing, until an
//! operator records a new one (`expiry.rs`). A driver without any may drive: whether papers are asked for is not decided here. Pure.

pub(crate) mod expiry;
pub(crate) mod rows;

use chrono::NaiveDate;
use streams::operators::Document;
use streams::operators::shown::DriverDocument;

/// A document is valid through its last day.
pub(crate) fn is_expired(document: &Document, today: NaiveDate) -> bool {
    document.expires_on < today
}

pub(crate) fn view(documents: &[Document], today: NaiveDate) -> Vec<DriverDocument> {
    let one = |document: &Document| DriverDocument {
        kind: document.kind,
        number: document.number.clone(),
        expires_on: document.expires_on,
        expired: is_expired(document, today),
    };
    documents.iter().map(one).collect()
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
