//! Phone numbers: read from what people write, kept in one form. Pure; it never touches rows or logs.

use std::fmt;

use phonenumber::metadata::DATABASE;
use phonenumber::{Metadata, Mode, Type};
use platform::Problem;

/// The most characters that a number may be written with.
const WRITTEN_MAX: usize = 32;
/// The most digits of an E.164 number, the country's included.
const DIGITS_MAX: usize = 15;

/// A phone number in E.164: `+` and at most 15 digits. Its debug form shows the last four digits only, for logs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Phone(String);

impl Phone {
    /// Reads a number in international form; spaces, dots, hyphens and parentheses are left out.
    ///
    /// An assigned country code and a length that the country has are asked for, no more: numbering plans grow faster
    /// than any program's copy of them, and only the code that arrives there proves a number.
    ///
    /// # Errors
    /// A problem that names the field `phone`.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = || Problem::field("phone", "a phone number in E.164 is needed, such as +14155550132");
        let text = text.trim();
        let written = text.len() <= WRITTEN_MAX
            && text.starts_with('+')
            && text[1..].chars().all(|c| c.is_ascii_digit() || matches!(c, ' ' | '.' | '-' | '(' | ')'));
        if !written {
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

    /// The number in E.164.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The last four digits, to tell numbers apart where the whole must not stand.
    pub(crate) fn end(&self) -> &str {
        self.0.get(self.0.len().saturating_sub(4)..).unwrap_or_default()
    }
}

/// Whether a country has numbers of so many digits (without its code) of a kind that people are reached at.
fn has_length(country: &Metadata, digits: u16) -> bool {
    let kinds = [Type::Mobile, Type::FixedLine, Type::Voip, Type::PersonalNumber];
    kinds.iter().any(|kind| country.descriptors().get(*kind).is_some_and(|d| d.possible_length().contains(&digits)))
}

impl fmt::Debug for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Phone(…{})", self.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_form_and_keeps_it() {
        let cases = [
            ("+14155550132", "+14155550132"),
            (" +1 (415) 555-0132 ", "+14155550132"),
            ("+1.415.555.0132", "+14155550132"),
            // Fictional ones are numbers too: tests and simulations live on them.
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
    fn what_is_no_number_names_the_field() {
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
    fn a_log_never_has_the_whole_number() {
        assert_eq!(format!("{:?}", Phone::parse("+14155550132").unwrap()), "Phone(…0132)");
    }
}
