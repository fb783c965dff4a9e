//! Users, drivers and profiles: what a name and a vehicle may be, and what a user sees of themselves. Plates are in `plate`, and what an
//! operator, or another vehicle, does to a driver is in `standing`.
//!
//! Roles are not stored: everybody is a passenger, and a user with a row in `drivers` is a driver too.

pub(crate) mod deletion;
mod elsewhere;
pub(crate) mod export;
pub(crate) mod plate;
pub(crate) mod rows;
pub(crate) mod standing;
pub(crate) mod suspension;

use std::str::FromStr;

use chrono::{DateTime, Utc};
use platform::{Problem, StoreError};
use schemars::JsonSchema;
use serde::Serialize;
use streams::{UserId, VehicleType};

use platform::plain_text;

/// The most characters of a name.
const NAME_MAX: usize = 100;
/// The most characters of each word that describes a vehicle.
const WORD_MAX: usize = 40;

/// Whether a driver may be offered rides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DriverStatus {
    /// Not decided yet.
    Pending,
    Approved,
    /// Not any more. A ride under way ends as usual.
    Suspended,
}

impl DriverStatus {
    const ALL: [Self; 3] = [Self::Pending, Self::Approved, Self::Suspended];

    /// The name in the database and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Suspended => "suspended",
        }
    }

    pub(crate) fn parse(name: &str) -> Result<Self, StoreError> {
        let known = Self::ALL.into_iter().find(|status| status.as_str() == name);
        known.ok_or_else(|| StoreError::Other(format!("unknown status `{name}` of a driver")))
    }
}

/// A suspension: when it ends, `None` if it does not end by itself, and the status before it.
pub(crate) type Suspension = (Option<DateTime<Utc>>, DriverStatus);

/// Who decides about a new driver: `DRIVER_APPROVAL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriverApproval {
    /// Nobody: a new driver is approved.
    #[default]
    Auto,
    /// An operator: a new driver is pending.
    Manual,
}

impl FromStr for DriverApproval {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "manual" => Ok(Self::Manual),
            other => Err(format!("unknown approval `{other}`: use auto or manual")),
        }
    }
}

impl DriverApproval {
    pub(crate) fn of_new(self) -> DriverStatus {
        match self {
            Self::Auto => DriverStatus::Approved,
            Self::Manual => DriverStatus::Pending,
        }
    }
}

/// What a user drives, and whether they may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Driver {
    pub(crate) vehicle_type: VehicleType,
    /// As it is shown, see [`plate::normalize`].
    pub(crate) plate: String,
    pub(crate) make: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) color: Option<String>,
    pub(crate) status: DriverStatus,
}

impl Driver {
    pub(crate) fn new(vehicle_type: VehicleType, plate: String) -> Self {
        Self { vehicle_type, plate, make: None, model: None, color: None, status: DriverStatus::Approved }
    }

    /// Whether a registration with `other` is a repeat of the one that made this driver: words that it leaves out do not differ.
    pub(crate) fn is_registered_by(&self, other: &Self) -> bool {
        let same = |mine: &Option<String>, theirs: &Option<String>| theirs.is_none() || mine == theirs;
        self.vehicle_type == other.vehicle_type
            && plate::key(&self.plate) == plate::key(&other.plate)
            && same(&self.make, &other.make)
            && same(&self.model, &other.model)
            && same(&self.color, &other.color)
    }
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Passenger,
    Driver,
}

/// A user as that user sees it: the body of `/v1/me`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Profile {
    id: UserId,
    /// E.164.
    #[schemars(regex(pattern = "^\\+[1-9][0-9]{1,14}$"))]
    phone: String,
    name: Option<String>,
    roles: &'static [Role],
    /// Null for whoever is no driver.
    driver: Option<Driver>,
}

impl Profile {
    pub(crate) fn new(id: UserId, phone: String, name: Option<String>, driver: Option<Driver>) -> Self {
        let roles: &[Role] = if driver.is_some() { &[Role::Passenger, Role::Driver] } else { &[Role::Passenger] };
        Self { id, phone, name, roles, driver }
    }
}

/// `name` as others see it, see [`plain_text::line`].
///
/// # Errors
/// A problem with the field `name`.
pub(crate) fn validate_name(name: &str) -> Result<String, Problem> {
    line_of("name", name, NAME_MAX)
}

/// One of the words that describe a vehicle, as others see it.
///
/// # Errors
/// A problem with this field.
pub(crate) fn validate_word(field: &str, word: &str) -> Result<String, Problem> {
    line_of(field, word, WORD_MAX)
}

fn line_of(field: &str, text: &str, most: usize) -> Result<String, Problem> {
    let line = plain_text::line(text).filter(|line| line.chars().count() <= most);
    line.ok_or_else(|| Problem::field(field, format!("1 to {most} characters, at least one of which can be seen")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_and_bounded() {
        assert_eq!(validate_name("  Ann O'Hara \"Z\" ").as_deref(), Ok("Ann O'Hara \"Z\""));
        assert_eq!(validate_name(&"ß".repeat(NAME_MAX)), Ok("ß".repeat(NAME_MAX)));
        assert_eq!(validate_name("Ann\n\u{202e}Lee\u{200b}").as_deref(), Ok("Ann Lee"));
        assert_eq!(validate_name(&format!("{}\u{200b}", "a".repeat(NAME_MAX))), Ok("a".repeat(NAME_MAX)));
        for wrong in ["", "  ", "\u{0}\u{200b}", &"a".repeat(NAME_MAX + 1)] {
            assert_eq!(validate_name(wrong).unwrap_err().field.as_deref(), Some("name"), "{wrong:?}");
        }
    }
}
