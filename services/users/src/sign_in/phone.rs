//! Phone numbers: parsed from what people write, in the one form that is stored. Pure; it touches no rows and no logs.

use std::fmt;
use std::str::FromStr;

use phonenumber::metadata::DATABASE;
use phonenumber::{Metadata, Mode, Type};
use platform::Problem;

use platform::plain_text;

/// The most digits of a number as a client sends it.
const TEXT_MAX: usize = 32;
/// The most digits of an E.164 number, with the country code.
const DIGITS_MAX: usize = 15;

/// The region of satellites and of other networks without a country, in the numbering plans' metadata.
const NO_COUNTRY: &str = "001";
/// Kinds of numbers that get no codes.
const NO_SCREEN: [Type; 8] = [
    Type::PremiumRate,
    Type::SharedCost,
    Type::TollFree,
    Type::PersonalNumber,
    Type::Voip,
    Type::Pager,
    Type::Uan,
    Type::Voicemail,
];

/// The countries to whose numbers codes are sent: ISO regions (`US`) and calling codes (`49`); none named means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Countries {
    regions: Vec<String>,
    calling_codes: Vec<u16>,
}

impl FromStr for Countries {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut countries = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let wrong = || format!("`{part}` is no country: use ISO regions or calling codes, as in US,CA,49");
            match part.trim_start_matches('+').parse::<u16>() {
                Ok(code) if DATABASE.by_code(&code).is_some() => countries.calling_codes.push(code),
                Ok(_) => return Err(wrong()),
                Err(_) => {
                    let region = part.to_ascii_uppercase();
                    DATABASE.by_id(region.as_str()).ok_or_else(wrong)?;
                    countries.regions.push(region);
                }
            }
        }
        Ok(countries)
    }
}

impl Countries {
    /// `region` is unknown for a number of no known kind: then any region of its calling code will do.
    fn contain(&self, calling_code: u16, region: Option<&str>) -> bool {
        let is_named = |region: &str| self.regions.iter().any(|named| named == region);
        (self.regions.is_empty() && self.calling_codes.is_empty())
            || self.calling_codes.contains(&calling_code)
            || match region {
                Some(region) => is_named(region),
                None => DATABASE.region(&calling_code).unwrap_or_default().into_iter().any(is_named),
            }
    }
}

/// A phone number in E.164: `+` and at most 15 digits. Its debug form shows only the last four, so that it may be logged.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Phone(String);

impl Phone {
    /// Parses a number in international form, in the digits of any script, without its spaces, dots, hyphens and parentheses. Phones
    /// paste numbers of their address book between marks of direction, which are invisible.
    ///
    /// It checks only that the country code is assigned and that the country has numbers of this length. Numbering plans
    /// grow faster than any program's copy of them, and only a code that arrives proves that a number exists.
    ///
    /// # Errors
    /// A problem that names the field `phone`.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = || Problem::field("phone", "a phone number in E.164 is needed, such as +14155550132");
        // The bound before anything is done with the text: of a number in full-width digits each takes three bytes.
        if text.len() > 4 * TEXT_MAX {
            return Err(wrong());
        }
        let is_left_out = |c: &char| matches!(c, '.' | '(' | ')' | '\u{ff0e}' | '\u{ff08}' | '\u{ff09}');
        let code = plain_text::code(text);
        let plain = code.chars().filter(|c| !is_left_out(c)).map(|c| if c == '\u{ff0b}' { '+' } else { c });
        let plain: String = plain.collect();
        let digits = plain.strip_prefix('+').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        if digits.is_none_or(|digits| digits.len() > TEXT_MAX) {
            return Err(wrong());
        }
        let number = phonenumber::parse(None, plain).map_err(|_| wrong())?;
        let length = u16::try_from(number.national().to_string().len()).map_err(|_| wrong())?;
        let countries = DATABASE.by_code(&number.code().value()).unwrap_or_default();
        if !countries.iter().any(|country| has_length(country, length)) {
            return Err(wrong());
        }
        let normal = number.format().mode(Mode::E164).to_string();
        if normal.len() > 1 + DIGITS_MAX { Err(wrong()) } else { Ok(Self(normal)) }
    }

    /// Whether codes are sent to a number of this kind, in one of these countries. Pagers, premium rate and satellites cost whoever
    /// sends; a fixed line, a freephone number and a company's number have no screen. A number of no known kind is accepted, for
    /// the same reason as in [`parse`](Self::parse).
    ///
    /// # Errors
    /// A problem that names the field `phone`.
    pub(crate) fn check_receives_codes(&self, allowed: &Countries) -> Result<(), Problem> {
        let wrong = |what| Err(Problem::field("phone", format!("no code can be sent to {what}: use a mobile number")));
        let Ok(number) = phonenumber::parse(None, &self.0) else { return wrong("this number") };
        let (calling_code, national) = (number.code().value(), number.national().to_string());
        let regions = DATABASE.by_code(&calling_code).unwrap_or_default();
        let is = |kind: Type| {
            regions.iter().any(|region| region.descriptors().get(kind).is_some_and(|d| d.is_match(&national)))
        };
        if regions.iter().all(|region| region.id() == NO_COUNTRY) {
            return wrong("a satellite phone or a number of no country");
        }
        if NO_SCREEN.into_iter().any(is) {
            return wrong("a number of this kind");
        }
        if is(Type::FixedLine) && !is(Type::Mobile) {
            return wrong("a fixed line");
        }
        let region = number.country().id().map(|id| id.as_ref().to_owned());
        if allowed.contain(calling_code, region.as_deref()) { Ok(()) } else { wrong("numbers of this country") }
    }

    /// The country's calling code; of +14155550132 it is 1.
    pub(crate) fn calling_code(&self) -> u16 {
        phonenumber::parse(None, &self.0).map_or(0, |number| number.code().value())
    }

    /// The number without its last four digits: what numbers in a row have in common.
    pub(crate) fn prefix(&self) -> &str {
        self.0.get(..self.0.len().saturating_sub(4)).unwrap_or_default()
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
            ("+١ ٤١٥ ٥٥٥-٠١٣٢", "+14155550132"),
            ("＋１（４１５）５５５－０１３２", "+14155550132"),
            ("\u{202a}+1\u{a0}415\u{2011}555\u{2011}0132\u{202c}", "+14155550132"),
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

    fn refusal(phone: &str, countries: &str) -> Option<String> {
        let phone = Phone::parse(phone).unwrap_or_else(|problem| panic!("{phone}: {problem:?}"));
        phone.check_receives_codes(&countries.parse().unwrap()).err().map(|problem| problem.message)
    }

    #[test]
    fn codes_are_sent_to_mobile_numbers_only() {
        for mobile in [
            "+14155550132",
            "+12125550123",
            "+15550001234",
            "+4915112345678",
            "+447911123456",
            "+393123456789",
            "+5511987654321",
            "+919876543210",
            "+8613812345678",
            "+2348031234567",
            "+79161234567",
            "+818012345678",
            "+5491123456789",
            "+525512345678",
            "+33612345678",
            "+34612345678",
            "+41791234567",
            "+436641234567",
        ] {
            assert_eq!(refusal(mobile, ""), None, "{mobile}");
        }
        for (other, kind) in [
            ("+449098790000", "of this kind"),
            ("+19005550123", "of this kind"),
            ("+499001234567", "of this kind"),
            ("+33899123456", "of this kind"),
            ("+39899123456", "of this kind"),
            ("+34803123456", "of this kind"),
            ("+41900123456", "of this kind"),
            ("+43900123456", "of this kind"),
            ("+447012345678", "of this kind"),
            ("+18005550123", "of this kind"),
            ("+881612345678", "satellite"),
            ("+870773123456", "satellite"),
            ("+8821612345678", "satellite"),
            ("+88213000000", "satellite"),
            ("+442079460958", "fixed line"),
            ("+390612345678", "fixed line"),
            ("+4930123456", "fixed line"),
        ] {
            let refusal = refusal(other, "").unwrap_or_else(|| panic!("{other} gets a code"));
            assert!(refusal.contains(kind), "{other}: {refusal}");
        }
    }

    #[test]
    fn codes_are_sent_to_the_named_countries_only() {
        for (phone, countries, sent) in [
            ("+14155550132", "US", true),
            ("+14155550132", "1", true),
            ("+14155550132", "+1, 49", true),
            ("+14155550132", "de,at", false),
            ("+4915112345678", "de,at", true),
            ("+16135550123", "CA", true),
            ("+16135550123", "US", false),
            ("+447911123456", "US,CA,49", false),
            // Of no known kind: the country code decides.
            ("+15550001234", "US", true),
            ("+15550001234", "GB", false),
        ] {
            assert_eq!(refusal(phone, countries).is_none(), sent, "{phone} {countries}");
        }
        for wrong in ["Germany", "XX", "999", "U"] {
            assert!(wrong.parse::<Countries>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_in_a_row_have_a_prefix_in_common() {
        let phone = |text| Phone::parse(text).unwrap();
        assert_eq!(phone("+14155550132").prefix(), "+1415555");
        assert_eq!((phone("+14155550132").calling_code(), phone("+4915112345678").calling_code()), (1, 49));
    }

    #[test]
    fn the_debug_form_shows_the_last_four_digits_only() {
        assert_eq!(format!("{:?}", Phone::parse("+14155550132").unwrap()), "Phone(…0132)");
    }
}
