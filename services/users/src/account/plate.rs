//! Plates of any script: how one is shown, and which two are the same. Pure.

use platform::Problem;
use unicode_normalization::UnicodeNormalization;

use platform::plain_text::is_hyphen;

/// The most letters and digits of a plate, and its most characters with spaces and hyphens.
const LETTERS_MAX: usize = 16;
const CHARACTERS_MAX: usize = 32;

/// `plate` as it is shown: upper case, full-width and other forms of a character as the character itself (NFKC), single spaces and plain
/// hyphens.
///
/// # Errors
/// A problem with the field `plate`.
pub(crate) fn normalize(plate: &str) -> Result<String, Problem> {
    let wrong = || {
        let message =
            format!("1 to {LETTERS_MAX} letters or digits of any script, with spaces and hyphens between them");
        Problem::field("plate", message)
    };
    // The bound before anything is done with the text.
    if plate.chars().count() > 4 * CHARACTERS_MAX {
        return Err(wrong());
    }
    let upper = plate.nfkc().collect::<String>().to_uppercase();
    let plain = upper.nfkc().map(|c| if is_hyphen(c) { '-' } else { c }).collect::<String>();
    let shown = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    let is_allowed = |c: char| c.is_alphanumeric() || c == ' ' || c == '-';
    let letters = key(&shown).chars().count();
    let fits = (1..=LETTERS_MAX).contains(&letters) && shown.chars().count() <= CHARACTERS_MAX;
    if fits && shown.chars().all(is_allowed) { Ok(shown) } else { Err(wrong()) }
}

/// What two plates have in common that are the same: letters and digits without case, by their full case mapping, so that `ß`, `ẞ`
/// and `SS` are one.
pub(crate) fn key(plate: &str) -> String {
    let folded = plate.nfkc().collect::<String>().to_uppercase().to_lowercase().to_uppercase();
    folded.nfkc().filter(|c| c.is_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plate_is_shown_in_one_form() {
        for (plate, shown) in [
            (" ab-12 3c ", "AB-12 3C"),
            ("A", "A"),
            ("7", "7"),
            ("ab  \u{a0} 12", "AB 12"),
            ("ab\u{2010}12\u{2013}c", "AB-12-C"),
            ("\u{ff21}\u{ff22}\u{3000}\u{ff11}\u{ff12}", "AB 12"),
            ("м123ав 77", "М123АВ 77"),
            ("品川 500 さ 12-34", "品川 500 さ 12-34"),
            ("京A12345", "京A12345"),
            ("أ ب ج ١٢٣٤", "أ ب ج ١٢٣٤"),
            ("กข 1234", "กข 1234"),
            ("äb 12", "ÄB 12"),
            ("a\u{308}b 12", "ÄB 12"),
            ("ABCDEFGHIJ123456", "ABCDEFGHIJ123456"),
        ] {
            assert_eq!(normalize(plate).as_deref(), Ok(shown), "{plate:?}");
            assert_eq!(normalize(shown).as_deref(), Ok(shown), "it stays so: {plate:?}");
        }
        let long = "-".repeat(40);
        for wrong in [
            "",
            " ",
            "--",
            "ABCDEFGHIJ1234567",
            "AB_12",
            "AB;12",
            "AB\u{200b}12",
            "AB\u{202e}12",
            "AB\u{0}",
            "😀",
            "½",
            &long,
        ] {
            assert_eq!(normalize(wrong).unwrap_err().field.as_deref(), Some("plate"), "{wrong:?}");
        }
    }

    #[test]
    fn plates_that_look_the_same_are_the_same() {
        for same in [
            &["AB-123", "ab 123", "AB123", "a b 1-2-3", "\u{ff21}b\u{2011}123"][..],
            &["ß 1", "ẞ1", "SS-1", "ss1", "sS 1"],
            &["ΑΣ 1", "ας1", "ασ-1"],
            &["İ 1", "i\u{307}1"],
            &["\u{212a}1", "k1"],
            &["ﬁ1", "FI 1"],
            &["é1", "E\u{301}1"],
        ] {
            let keys: Vec<String> = same.iter().map(|plate| key(plate)).collect();
            assert!(keys.iter().all(|key| *key == keys[0]), "{same:?}: {keys:?}");
            assert_eq!(key(&keys[0]), keys[0]);
        }
        assert_ne!(key("AB 12"), key("ÄB 12"));
        assert_ne!(key("А1"), key("A1"), "another script");
    }
}
