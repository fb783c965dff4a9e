//! What every body is checked for beyond its types, and the error that says what is wrong.

use super::position::Position;
use super::subject::{Subject, UnknownSubject};

/// Why a message is not an event. Permanent: the same bytes will fail again.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The message's subject is none of [`Subject::ALL`].
    #[error(transparent)]
    UnknownSubject(#[from] UnknownSubject),
    /// The body is not JSON, or a field is missing or has another type.
    #[error("{subject}: {source}")]
    Body {
        /// The subject of the message.
        subject: Subject,
        /// serde's error, with line and column.
        source: serde_json::Error,
    },
    /// A field has a value outside its range.
    #[error("{subject}: field `{field}`: {problem}")]
    Field {
        /// The subject of the message.
        subject: Subject,
        /// The field, with dots for nesting.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The message has headers that cannot be parsed: it is not what its producer meant.
    #[error("its headers cannot be parsed: {0}")]
    Headers(String),
}

/// Checks single fields of the body of a message on this subject.
pub(super) struct Fields(pub(super) Subject);

impl Fields {
    pub(super) fn error(&self, field: &'static str, problem: &str) -> EventError {
        EventError::Field { subject: self.0, field, problem: problem.to_owned() }
    }

    pub(super) fn position(&self, field: &'static str, position: &Position) -> Result<(), EventError> {
        if position.is_valid() {
            return Ok(());
        }
        Err(self.error(field, "latitude must be within ±90 and longitude within ±180 degrees"))
    }

    /// A distance, duration, speed or the like, if there is one.
    pub(super) fn measure(&self, field: &'static str, value: Option<f64>) -> Result<(), EventError> {
        match value {
            Some(value) if !(value.is_finite() && value >= 0.0) => {
                Err(self.error(field, "must be a finite number, 0 or more"))
            }
            _ => Ok(()),
        }
    }
}
