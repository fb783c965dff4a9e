//! Notifications on the core subject of a user, as processes of the version before send and receive them. Pods of this version send each
//! other `gateway/pod_message`.
//!
//! Anybody who reaches the bus can publish there. So a notification is a signed text, for its user: a pod believes only what a
//! pod of the same platform wrote.

use platform::Tokens;
use serde::{Deserialize, Serialize};
use streams::UserId;
use uuid::Uuid;

use crate::signed_text;

/// The `type` of the notification that a socket was displaced; no frame has it.
const DISPLACED: &str = "socket.displaced";

#[derive(Serialize, Deserialize)]
struct Displaced {
    r#type: String,
    session_id: Uuid,
}

/// What a notification says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notification {
    /// The frame of a new entry.
    Event(String),
    /// This socket is to be closed, because newer ones of its user took its place.
    Displaced(Uuid),
    /// Not written by this platform.
    Unsigned,
}

/// The notification of a new entry: its frame, with the hash as one more field, which a process of the version before passes
/// to its client.
pub(crate) fn of_event(tokens: &Tokens, user: UserId, frame: &str) -> String {
    signed_text::sign(tokens, &purpose(user), frame)
}

/// As a process of the version before writes it.
#[cfg(test)]
fn of_displaced(tokens: &Tokens, user: UserId, session_id: Uuid) -> String {
    let displaced = Displaced { r#type: DISPLACED.to_owned(), session_id };
    let text = serde_json::to_string(&displaced).expect("a struct of texts is JSON");
    of_event(tokens, user, &text)
}

pub(crate) fn read(tokens: &Tokens, user: UserId, payload: &[u8]) -> Notification {
    let Some(text) = signed_text::verify(tokens, &purpose(user), payload) else {
        return Notification::Unsigned;
    };
    match serde_json::from_str::<Displaced>(&text) {
        Ok(displaced) if displaced.r#type == DISPLACED => Notification::Displaced(displaced.session_id),
        _ => Notification::Event(text),
    }
}

fn purpose(user: UserId) -> String {
    format!("mailbox-notification-{user}")
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use platform::World;

    use super::*;

    fn tokens(seed: u8) -> Tokens {
        Tokens::new(&World::seeded(DateTime::UNIX_EPOCH, 1), &[seed; 32]).unwrap()
    }

    #[test]
    fn only_what_this_platform_wrote_for_this_user_is_believed() {
        let (ours, theirs) = (tokens(1), tokens(2));
        let [ann, bob] = [1, 2].map(|n| UserId(Uuid::from_u128(n)));
        let frame = r#"{"type":"ride.started","seq":7,"data":{"mac":"x","b":1.10}}"#;
        let sent = of_event(&ours, ann, frame);
        assert!(serde_json::from_str::<serde_json::Value>(&sent).is_ok(), "an older process reads it as JSON: {sent}");
        assert_eq!(read(&ours, ann, sent.as_bytes()), Notification::Event(frame.to_owned()));
        let session = Uuid::from_u128(9);
        let displaced = of_displaced(&ours, ann, session);
        assert_eq!(read(&ours, ann, displaced.as_bytes()), Notification::Displaced(session));
        for (tokens, user, payload) in [
            (&theirs, ann, sent.clone()),
            (&ours, bob, sent.clone()),
            (&ours, bob, displaced.clone()),
            (&ours, ann, sent.replace("\"seq\":7", "\"seq\":8")),
            (&ours, ann, frame.to_owned()),
            (&ours, ann, sent.replace("\"}", "")),
            (&ours, ann, String::new()),
            (&ours, ann, r#","mac":""}"#.to_owned()),
        ] {
            assert_eq!(read(tokens, user, payload.as_bytes()), Notification::Unsigned, "{payload}");
        }
        assert_eq!(read(&ours, ann, b"\xff\xfe"), Notification::Unsigned);
    }
}
