//! Phone numbers: parsed from what people write, in the one form that is stored. Pure; it touches no rows and no logs.

use std::fmt;

use phonenumber::metadata::DATABASE;
use phonenumber::{Metadata, Mode, Type};
use platform::Problem;

/// The most bytes of a number as a client sends it.
const TEXT_MAX: usize = 32;
/// The most digits of an E.164 number, with the country code.
const DIGITS_MAX: usize = 15;

/// A phone number in E.164: `+` and at most 15 digits. Its debug form shows only the last four, so that it may be logged.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Phone(String);

impl Phone {
    /// Parses a number in international form, without its spaces, dots, hyphens and parentheses.
    ///
    /// It checks only that the country code is assigned and that the country has numbers of this length. Numbering plans
    /// grow faster than any program's copy of them, and only a code that arrives proves that a number exists.
    ///
    /// # Errors
    /// A problem that names the field `phone`.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = || Problem::field("phone", "a phone number in E.164 is needed, such as +14155550132");
        let text = text.trim();
        let well_formed = text.len() <= TEXT_MAX
            && text.starts_with('+')
            && text[1..].chars().all(|c| c.is_ascii_digit() || matches!(c, ' ' | '.' | '-' | '(' | ')'));
        if !well_formed {
            return Err(wrong());
        }
        let plain: String = text.chars().filter(|c| *c == '+' || c.is_ascii_digit()).collect();
        let number = phonenumber::parse(None, plain).map_err(|_| wrong())?;
        let length = u16::try_from(number.national().to_string().len()).map_err(|_| wrong())?;
        let countries = DATABASE.by_code(&number.code().value()).unwrap_or_default();
        if !countries.iter().any(|country| has_length(country, length)) {
            return Err(wrong());
        }
        let normal = number.format().mode(Mode::E164).to_string();
        if normal.len() > 1 + DIGITS_MAX { Err(wrong()) } else { Ok(Self(normal)) }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The last four digits, for places where the whole number must not appear.
    pub(crate) fn last_digits(&self) -> &str {
        self.0.get(self.0.len().saturating_sub(4)..).unwrap_or_default()
    }
}

/// Whether `country` has numbers of this many digits (without its code) of a kind that reaches a person.
fn has_length(country: &Metadata, digits: u16) -> bool {
    let kinds = [Type::Mobile, Type::FixedLine, Type::Voip, Type::PersonalNumber];
    kinds.iter().any(|kind| country.descriptors().get(*kind).is_some_and(|d| d.possible_length().contains(&digits)))
}

impl fmt::Debug for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Phone(…{})", self.last_digits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_form() {
        let cases = [
            ("+14155550132", "+14155550132"),
            (" +1 (415) 555-0132 ", "+14155550132"),
            ("+1.415.555.0132", "+14155550132"),
            // Numbers reserved for fiction are accepted: tests and simulations use them.
            ("+15550001234", "+15550001234"),
            ("+4915112345678", "+4915112345678"),
            ("+44 20 7946 0958", "+442079460958"),
            ("+39 06 1234 5678", "+390612345678"),
            ("+5511987654321", "+5511987654321"),
            ("+919876543210", "+919876543210"),
            ("+8613812345678", "+8613812345678"),
            ("+2348031234567", "+2348031234567"),
            ("+79161234567", "+79161234567"),
            ("+818012345678", "+818012345678"),
            ("+5491123456789", "+5491123456789"),
            ("+525512345678", "+525512345678"),
        ];
        for (text, expected) in cases {
            let phone = Phone::parse(text).unwrap_or_else(|p| panic!("{text}: {p:?}"));
            assert_eq!(phone.as_str(), expected, "{text}");
            assert_eq!(Phone::parse(phone.as_str()), Ok(phone), "{text}");
        }
    }

    #[test]
    fn a_malformed_number_is_refused_with_its_field() {
        let long = format!("+1{}", "4".repeat(400));
        let no_numbers = [
            "",
            "+",
            "x",
            "14155550132",
            "4155550132",
            "004915112345678",
            "+1",
            "+1415555",
            "+141555501321234",
            "+999123456789",
            "+1415555O132",
            "tel:+14155550132",
            "+14155550132 ext. 5",
            "+14155550132;ext=5",
            "+٤١٥٥٥٥٠١٣٢",
            "+1415555013\n2x",
            &long,
        ];
        for text in no_numbers {
            let problem = Phone::parse(text).expect_err(text);
            assert_eq!(problem.field.as_deref(), Some("phone"), "{text}");
        }
    }

    #[test]
    fn the_debug_form_shows_the_last_four_digits_only() {
        assert_eq!(format!("{:?}", Phone::parse("+14155550132").unwrap()), "Phone(…0132)");
    }
}
