//! Users, drivers and profiles: what a name and a plate may be, and what a user sees of themselves.
//!
//! Roles are not stored: everybody is a passenger, and a user with a row in `drivers` is a driver too.

pub(crate) mod rows;

use platform::Problem;
use serde::Serialize;
use streams::{UserId, VehicleType};

/// The most characters of a name.
const NAME_MAX: usize = 100;
/// The fewest and the most characters of a plate.
const PLATE_MIN: usize = 2;
const PLATE_MAX: usize = 12;

/// What a user drives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Driver {
    pub(crate) vehicle_type: VehicleType,
    /// In upper case.
    pub(crate) plate: String,
    pub(crate) make: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) color: Option<String>,
}

impl Driver {
    pub(crate) fn new(vehicle_type: VehicleType, plate: String) -> Self {
        Self { vehicle_type, plate, make: None, model: None, color: None }
    }
}

/// A user as that user sees it: the body of `/v1/me`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Profile {
    id: UserId,
    phone: String,
    name: Option<String>,
    roles: &'static [&'static str],
    driver: Option<Driver>,
}

impl Profile {
    pub(crate) fn new(id: UserId, phone: String, name: Option<String>, driver: Option<Driver>) -> Self {
        let roles: &[&str] = if driver.is_some() { &["passenger", "driver"] } else { &["passenger"] };
        Self { id, phone, name, roles, driver }
    }
}

/// `name` without surrounding spaces.
///
/// # Errors
/// A problem with the field `name`.
pub(crate) fn validate_name(name: &str) -> Result<String, Problem> {
    let name = name.trim();
    if !(1..=NAME_MAX).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Err(Problem::field("name", format!("1 to {NAME_MAX} characters, none of them a control character")));
    }
    Ok(name.to_owned())
}

/// `plate` in its one form: upper case, without surrounding spaces.
///
/// # Errors
/// A problem with the field `plate`.
pub(crate) fn normalize_plate(plate: &str) -> Result<String, Problem> {
    let plate = plate.trim().to_ascii_uppercase();
    let allowed = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == ' ' || c == '-';
    let valid = (PLATE_MIN..=PLATE_MAX).contains(&plate.len())
        && plate.chars().all(allowed)
        && plate.chars().any(|c| c.is_ascii_alphanumeric());
    if !valid {
        let message = format!("{PLATE_MIN} to {PLATE_MAX} characters: letters A to Z, digits, spaces and hyphens");
        return Err(Problem::field("plate", message));
    }
    Ok(plate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_bounded() {
        assert_eq!(validate_name("  Ann O'Hara \"Z\" ").as_deref(), Ok("Ann O'Hara \"Z\""));
        assert_eq!(validate_name(&"ß".repeat(NAME_MAX)), Ok("ß".repeat(NAME_MAX)));
        for wrong in ["", "  ", "a\u{0}b", "a\nb", &"a".repeat(NAME_MAX + 1)] {
            assert_eq!(validate_name(wrong).unwrap_err().field.as_deref(), Some("name"), "{wrong:?}");
        }
    }

    #[test]
    fn a_plate_has_one_form() {
        assert_eq!(normalize_plate(" ab-12 3c ").as_deref(), Ok("AB-12 3C"));
        for wrong in ["", "A", "--", "ABCDEFGHIJKLM", "AB_12", "ÄB 12", "AB\t12"] {
            assert_eq!(normalize_plate(wrong).unwrap_err().field.as_deref(), Some("plate"), "{wrong:?}");
        }
    }
}
