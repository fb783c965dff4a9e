//! The name of the device that a socket belongs to. Pure.

use std::sync::Arc;

/// The most characters of a name.
const NAME_MAX: usize = 64;

/// The installation that a socket belongs to, as its client names it with `?device=`. A socket without a name is of the
/// unnamed device, of which each user has one: nobody knows how many installations stand behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Device(Option<Arc<str>>);

impl Device {
    pub(crate) const UNNAMED: Self = Self(None);

    /// `None` unless the name has 1 to 64 visible characters: those of ASCII, and letters and digits of any script.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let is_visible = |c: char| c.is_ascii_graphic() || c.is_alphanumeric();
        let fits = !name.is_empty() && name.chars().count() <= NAME_MAX && name.chars().all(is_visible);
        fits.then(|| Self(Some(name.into())))
    }

    /// Empty for the unnamed device.
    pub(crate) fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_1_to_64_visible_characters() {
        for name in ["a", "pixel-8/1.2", "Ännes-Gerät", &"x".repeat(64), &"ü".repeat(64)] {
            assert_eq!(Device::named(name).unwrap().as_str(), name);
        }
        for wrong in ["", " ", "a b", "a\n", "\u{7f}", "a\u{200b}", "\u{202e}a", &"x".repeat(65)] {
            assert_eq!(Device::named(wrong), None, "{wrong:?}");
        }
        assert_eq!(Device::UNNAMED.as_str(), "");
    }
}
