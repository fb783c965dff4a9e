//! Text as people type and paste it: codes in the digits of any script, and names without what cannot be seen. Pure.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// The zeros of the decimal digits of every script (Unicode 16, general category Nd): nine more digits follow each.
const ZEROS: [u32; 74] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0,
    0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620,
    0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x10d40, 0x11066, 0x110f0, 0x11136,
    0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x116d0, 0x116da, 0x11730, 0x118e0, 0x11950, 0x11bf0,
    0x11c50, 0x11d50, 0x11da0, 0x11f50, 0x16a60, 0x16ac0, 0x16b50, 0x16d70, 0x1ccf0, 0x1d7ce, 0x1d7d8, 0x1d7e2,
    0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e4f0, 0x1e5f1, 0x1e950,
];

/// Those of seven-segment displays come after all others.
const SEGMENTED_ZERO: u32 = 0x1fbf0;

/// The ASCII digit of the same value as a decimal digit of any script; any other character stays.
pub fn ascii_digit(c: char) -> char {
    let at = u32::from(c);
    let zero = match ZEROS.partition_point(|zero| *zero <= at) {
        _ if at >= SEGMENTED_ZERO => SEGMENTED_ZERO,
        0 => return c,
        after => ZEROS[after - 1],
    };
    char::from_digit(at - zero, 10).unwrap_or(c)
}

/// A hyphen or a dash of any form.
pub fn is_hyphen(c: char) -> bool {
    matches!(c, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}')
}

/// Whether nothing is shown for `c`: a control or format character (of zero width, or one that turns the direction of what follows),
/// a filler, or a selector of variants. Marks that a script shows around a number are format characters too, and are seen.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{13430}'..='\u{13440}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// A code of digits as it was made, from what somebody typed or pasted: without spaces, hyphens and what cannot be seen, with ASCII
/// digits. Anything else stays, and so a wrong code stays wrong.
pub fn code(text: &str) -> String {
    let is_left_out = |c: &char| c.is_whitespace() || is_hyphen(*c) || is_invisible(*c);
    text.chars().filter(|c| !is_left_out(c)).map(ascii_digit).collect()
}

/// `text` in one line as it is seen: composed (NFC), without what is invisible, with single spaces between words and none around them.
/// `None` if nothing is left to be seen.
pub fn line(text: &str) -> Option<String> {
    // A line break separates words; it is a control character as well.
    let visible = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(|c| !is_invisible(*c));
    let composed = visible.nfc().collect::<String>();
    let line = composed.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().any(|c| c != ' ' && !is_combining_mark(c)).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_in_order_and_ten_apart() {
        assert!(ZEROS.windows(2).all(|pair| pair[1] >= pair[0] + 10));
        for zero in ZEROS.into_iter().chain([SEGMENTED_ZERO]) {
            for n in 0..10 {
                let digit = char::from_u32(zero + n).unwrap();
                assert_eq!(ascii_digit(digit), char::from_digit(n, 10).unwrap(), "{digit:?}");
                assert!(digit.is_numeric(), "{digit:?}");
            }
        }
        for other in ['\u{65f}', '\u{66a}', '\u{b2}', '½', '①', 'Ⅷ', '一', 'x', '\u{1fbfa}', '\u{10ffff}', '\u{80}']
        {
            assert_eq!(ascii_digit(other), other);
        }
    }

    #[test]
    fn a_code_is_read_as_it_is_typed_or_pasted() {
        for text in [
            "123456",
            " 123 456\n",
            "123-456",
            "12\u{2011}34\u{2013}56",
            "١٢٣٤٥٦",
            "۱۲۳ ۴۵۶",
            "१२३४५६",
            "１２３－４５６",
            "𝟏𝟐𝟑𝟒𝟓𝟔",
            "\u{202a}123\u{a0}456\u{202c}",
            "1２3٤5६",
        ] {
            assert_eq!(code(text), "123456", "{text:?}");
        }
        for other in ["12345", "12345x", "123.456", "¹²³⁴⁵⁶", "①②③④⑤⑥", "", "+123456"] {
            assert_ne!(code(other), "123456", "{other:?}");
        }
    }

    #[test]
    fn a_line_has_nothing_that_cannot_be_seen() {
        for (text, line_of) in [
            ("  Ann O'Hara \"Z\" ", Some("Ann O'Hara \"Z\"")),
            ("Ann\u{a0}\t\r\n Lee\u{3000}", Some("Ann Lee")),
            ("A\u{200b}n\u{200d}n\u{feff}\u{ad}", Some("Ann")),
            ("\u{202e}nnA\u{202c}", Some("nnA")),
            ("\u{2067}Ann\u{2069}\u{61c}", Some("Ann")),
            ("Jose\u{301}", Some("José")),
            ("A\u{0}\u{1b}\u{7f}\u{9b}nn", Some("Ann")),
            ("A\u{200b} \u{200b} nn", Some("A nn")),
            ("Ann\u{e0041}\u{e0042}", Some("Ann")),
            ("李\u{3164}雷", Some("李雷")),
            ("Ли", Some("Ли")),
            ("عليّ", Some("عليّ")),
            ("😀\u{fe0f}", Some("😀")),
            ("", None),
            (" \u{a0}\n", None),
            ("\u{200b}\u{2060}", None),
            ("\u{3164}\u{115f}\u{2800}", None),
            ("\u{301}\u{302}", None),
        ] {
            assert_eq!(line(text).as_deref(), line_of, "{text:?}");
            if let Some(line_of) = line_of {
                assert_eq!(line(line_of).as_deref(), Some(line_of), "it stays so: {text:?}");
            }
        }
    }
}
