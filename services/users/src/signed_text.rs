//! JSON objects that one pod writes for others, on core subjects where anybody who reaches the bus can publish: each carries a keyed
//! hash of its text and purpose as one more field, `mac`. Pure.

use platform::Tokens;

const MAC_FIELD: &str = r#","mac":""#;
const MAC_END: &str = r#""}"#;

/// `text`, a JSON object that is not empty, with its hash. To whoever does not know the hash it is an object with one more field.
pub(crate) fn sign(tokens: &Tokens, purpose: &str, text: &str) -> String {
    let open = text.strip_suffix('}').unwrap_or(text);
    let mac = hex::encode(tokens.keyed_hash(purpose, text));
    format!("{open}{MAC_FIELD}{mac}{MAC_END}")
}

/// The text without its hash, if a process of this platform signed it for this purpose.
pub(crate) fn verify(tokens: &Tokens, purpose: &str, payload: &[u8]) -> Option<String> {
    let payload = std::str::from_utf8(payload).ok()?;
    let (rest, sent) = payload.strip_suffix(MAC_END)?.rsplit_once(MAC_FIELD)?;
    let text = format!("{rest}}}");
    tokens.is_keyed_hash(purpose, text.as_bytes(), &hex::decode(sent).ok()?).then_some(text)
}
