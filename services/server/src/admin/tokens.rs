//! The tokens of operators: ADMIN_TOKENS_FILE, or the one that an embedded process makes. Only their SHA-256 is here. The text is read
//! elsewhere; this is pure but for the lock.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use platform::limits::Key;
use platform::token::{hash_of, is_same_hash};
use streams::event::OperatorRole;
use streams::operators::Operator;

/// The most characters of a name.
const NAME_MAX: usize = 64;
/// The most lines with a token.
const TOKENS_MAX: usize = 1_000;
/// The shortest and the longest token, bytes. How long one should be is up to whoever makes it: only its hash is known here.
const TOKEN_LENGTH: std::ops::RangeInclusive<usize> = 1..=256;

/// The most tokens of addresses that are remembered as right; one that was forgotten is counted once more.
const ADMITTED_MAX: usize = 10_000;

#[derive(Clone, PartialEq, Eq)]
struct Entry {
    operator: Operator,
    hash: [u8; 32],
}

/// Who may act, by token.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OperatorTokens(Vec<Entry>);

impl fmt::Debug for OperatorTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OperatorTokens").field(&self.0.len()).finish()
    }
}

impl OperatorTokens {
    /// One token of one operator.
    pub fn one(operator: Operator, token: &str) -> Self {
        Self(vec![Entry { operator, hash: hash_of(token.as_bytes()) }])
    }

    /// Reads `name role sha256-of-token`, a line each. Empty lines and those that begin with `#` are left out. An operator may have
    /// several tokens, so that one can take the place of another.
    ///
    /// # Errors
    /// A sentence that names the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut entries, mut hashes): (Vec<Entry>, BTreeSet<[u8; 32]>) = Default::default();
        for (n, line) in text.lines().enumerate().map(|(n, line)| (n + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, role, hash] = words[..] else {
                return Err(format!("line {n}: use `name role sha256-of-token`, with spaces between them"));
            };
            let is_name = name.chars().count() <= NAME_MAX && !name.chars().any(char::is_control);
            if !is_name {
                return Err(format!("line {n}: a name has 1 to {NAME_MAX} characters"));
            }
            let role: OperatorRole = role.parse().map_err(|why| format!("line {n}: {why}"))?;
            let hash = hex::decode(hash).ok().and_then(|hash| <[u8; 32]>::try_from(hash).ok());
            // The line is not repeated: whoever wrote the token itself there must not find it in a log.
            let hash =
                hash.ok_or_else(|| format!("line {n}: the third word must be a SHA-256, 64 hexadecimal digits"))?;
            if !hashes.insert(hash) {
                return Err(format!("line {n}: this token stands in an earlier line too"));
            }
            if let Some(other) = entries.iter().find(|e| e.operator.name == name && e.operator.role != role) {
                let role = other.operator.role.as_str();
                return Err(format!("line {n}: `{name}` is {role} in an earlier line: a name has one role"));
            }
            entries.push(Entry { operator: Operator { name: name.to_owned(), role }, hash });
            if entries.len() > TOKENS_MAX {
                return Err(format!("line {n}: there are more than {TOKENS_MAX} tokens"));
            }
        }
        Ok(Self(entries))
    }

    /// Whose token it is. The time it takes says nothing of the tokens: every hash is compared, each in constant time.
    fn operator(&self, token: &str) -> Option<Operator> {
        if !TOKEN_LENGTH.contains(&token.len()) {
            return None;
        }
        let hash = hash_of(token.as_bytes());
        let mut found = None;
        for entry in &self.0 {
            if is_same_hash(&entry.hash, &hash) {
                found = Some(&entry.operator);
            }
        }
        found.cloned()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The tokens of now; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Current(Arc<RwLock<OperatorTokens>>);

impl Current {
    pub fn new(tokens: OperatorTokens) -> Self {
        Self(Arc::new(RwLock::new(tokens)))
    }

    pub fn replace(&self, tokens: OperatorTokens) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    pub(super) fn operator(&self, token: &str) -> Option<Operator> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).operator(token)
    }
}

/// The tokens that were right, each with the address that it came from.
#[derive(Debug, Default)]
pub(super) struct Admitted(Mutex<BTreeSet<(Key, [u8; 32])>>);

impl Admitted {
    fn locked(&self) -> MutexGuard<'_, BTreeSet<(Key, [u8; 32])>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has(&self, of: &(Key, [u8; 32])) -> bool {
        self.locked().contains(of)
    }

    pub(super) fn add(&self, of: (Key, [u8; 32])) {
        let mut admitted = self.locked();
        if admitted.len() >= ADMITTED_MAX {
            admitted.pop_first();
        }
        admitted.insert(of);
    }

    pub(super) fn remove(&self, of: &(Key, [u8; 32])) {
        self.locked().remove(of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, role: &str, token: &str) -> String {
        format!("{name} {role} {}\n", hex::encode(hash_of(token.as_bytes())))
    }

    #[test]
    fn a_token_is_found_by_its_hash_alone() {
        let (one, two, new) = ("a token of sixteen", "another token of it", "the next token of ann");
        let text = format!(
            "# operators\n\n{}{}  {}",
            line("ann", "admin", one),
            line("bob", "viewer", two),
            line("ann", "admin", new)
        );
        let tokens = OperatorTokens::parse(&text).unwrap();
        assert_eq!(tokens.len(), 3);
        let of = |token: &str| tokens.operator(token).map(|o| (o.name, o.role));
        assert_eq!(of(one), Some(("ann".to_owned(), OperatorRole::Admin)));
        assert_eq!(of(new), of(one));
        assert_eq!(of(two), Some(("bob".to_owned(), OperatorRole::Viewer)));
        let hash = hex::encode(hash_of(one.as_bytes()));
        for wrong in ["", "a token of sixteen ", "A token of sixteen", &hash, &"x".repeat(300)] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        let current = Current::new(tokens);
        assert!(current.operator(one).is_some());
        current.replace(OperatorTokens::default());
        assert!(current.operator(one).is_none());
    }

    #[test]
    fn a_mistake_is_named_by_its_line_and_no_token_is_repeated() {
        let good = line("ann", "admin", "a token of sixteen");
        for (text, reason) in [
            ("ann admin", "line 1: use `name role"),
            ("ann admin x y", "line 1: use `name role"),
            ("ann root 00", "line 1: unknown role `root`"),
            ("ann admin hunter2hunter2", "line 1: the third word must be a SHA-256"),
            (&*format!("{good}{good}"), "line 2: this token"),
            (&format!("{good}{}", line("ann", "viewer", "another token of it")), "line 2: `ann` is admin"),
            (&format!("{} viewer 00", "x".repeat(65)), "line 1: a name has"),
        ] {
            let error = OperatorTokens::parse(text).unwrap_err();
            assert!(error.starts_with(reason) && !error.contains("hunter2"), "{error}");
        }
        let many: String = (0..=TOKENS_MAX).map(|n| line("ann", "admin", &format!("a token of sixteen {n}"))).collect();
        assert!(OperatorTokens::parse(&many).unwrap_err().contains("more than 1000"));
    }
}
