//! What an audit finds; pure.

use std::fmt;

use streams::RideId;

use crate::hash_chain::ChainError;

/// Findings that are kept with their text; the others are only counted.
pub const LISTED_MAX: usize = 1_000;

/// One thing that is wrong, and where, as far as that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub ride_id: Option<RideId>,
    /// The version of the event.
    pub version: Option<u32>,
    /// The sequence of the message in the stream.
    pub sequence: Option<u64>,
    pub what: String,
}

impl Finding {
    pub(super) fn of_ride(ride_id: RideId, what: impl Into<String>) -> Self {
        Self { ride_id: Some(ride_id), version: None, sequence: None, what: what.into() }
    }

    pub(super) fn of_event(ride_id: RideId, version: u32, sequence: Option<u64>, what: impl Into<String>) -> Self {
        Self { ride_id: Some(ride_id), version: Some(version), sequence, what: what.into() }
    }

    pub(super) fn of_error(error: &ChainError, sequence: Option<u64>) -> Self {
        let (ride_id, version) = error.event();
        Self { ride_id, version, sequence, what: error.reason() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ride_id {
            Some(ride) => write!(f, "ride {ride}")?,
            None => f.write_str("unknown ride")?,
        }
        if let Some(version) = self.version {
            write!(f, " version {version}")?;
        }
        if let Some(sequence) = self.sequence {
            write!(f, " (sequence {sequence})")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// The first [`LISTED_MAX`] findings, and the number of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    listed: Vec<Finding>,
    count: u64,
}

impl Findings {
    pub(super) fn push(&mut self, finding: Finding) {
        self.count += 1;
        if self.listed.len() < LISTED_MAX {
            self.listed.push(finding);
        }
    }

    pub(super) fn append(&mut self, other: Self) {
        let unlisted = other.count - other.listed.len() as u64;
        other.listed.into_iter().for_each(|finding| self.push(finding));
        self.count += unlisted;
    }

    pub fn listed(&self) -> &[Finding] {
        &self.listed
    }

    /// The number of all findings, listed or not.
    pub fn count(&self) -> u64 {
        self.count
    }
}
