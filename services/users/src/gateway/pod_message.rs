//! What pods of users send each other on `users.pod.<pod id>` and `users.broadcast`: frames for the users with a socket there, and what the
//! limit of sockets a user needs. Pure.
//!
//! Anybody who reaches the bus can publish there. So a message is a signed text, and nothing else is believed. (The hash costs about
//! 2 µs at each end.)

use platform::Tokens;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use streams::{MatchId, UserId};
use uuid::Uuid;

use crate::signed_text;

/// All pods of users subscribe.
pub(crate) const BROADCAST: &str = "users.broadcast";
/// The subjects of processes of the version before, of which one `*` is the user.
pub(crate) const PREVIOUS_VERSION: &str = "users.session.*.notify";
/// The most frames of one message, and their bytes, which stay far below the largest message of a NATS server.
const FRAMES_MAX: usize = 100;
const BYTES_MAX: usize = 256 * 1024;

/// Where one pod receives.
pub(crate) fn pod_subject(pod: &str) -> String {
    format!("users.pod.{pod}")
}

/// The user in a subject like [`PREVIOUS_VERSION`].
pub(crate) fn user_of(subject: &str) -> Option<UserId> {
    subject.strip_prefix("users.session.")?.strip_suffix(".notify")?.parse().ok()
}

/// The frame of a new entry of a mailbox.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct UserFrame {
    pub(crate) user_id: UserId,
    /// Of the entry.
    pub(crate) seq: u64,
    /// Pushes of it wait for a socket to take it. A process of the version before sends none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_pushed: bool,
    /// Of the span that it follows from, if spans are recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) traceparent: Option<String>,
    /// As the client receives it, to the byte.
    #[schemars(with = "serde_json::Value")]
    pub(crate) frame: Box<RawValue>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PodMessage {
    /// In the order in which a user's sockets send them.
    Frames(Vec<UserFrame>),
    /// A request: the sockets of this user there. The reply is a list of [`SilentSocket`].
    SocketsOf(UserId),
    /// A request: close these sockets of the user, whose place newer ones took. The reply is an empty list.
    Displace(UserId, Vec<Uuid>),
    /// What others are shown of this user has changed.
    PersonChanged(UserId),
    /// The user has accepted this offer on this device, by a request over HTTP.
    Accepted(UserId, MatchId, String),
}

/// A socket at another pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct SilentSocket {
    pub(crate) session: Uuid,
    /// For how long its client has sent nothing.
    pub(crate) silence_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct SocketList {
    sockets: Vec<SilentSocket>,
}

const MESSAGE: &str = "users-pod-message";

impl PodMessage {
    pub(crate) fn sign(&self, tokens: &Tokens) -> String {
        let text = serde_json::to_string(self).expect("keys are texts");
        signed_text::sign(tokens, MESSAGE, &text)
    }

    /// `None` if no process of this platform wrote it.
    pub(crate) fn read(tokens: &Tokens, payload: &[u8]) -> Option<Self> {
        serde_json::from_str(&signed_text::verify(tokens, MESSAGE, payload)?).ok()
    }
}

/// The messages that carry `frames`, in their order.
pub(crate) fn in_messages(frames: Vec<UserFrame>) -> Vec<PodMessage> {
    let (mut messages, mut bytes) = (Vec::<Vec<UserFrame>>::new(), 0);
    for frame in frames {
        let more = frame.frame.get().len();
        match messages.last_mut().filter(|last| last.len() < FRAMES_MAX && bytes + more <= BYTES_MAX) {
            Some(last) => {
                bytes += more;
                last.push(frame);
            }
            None => {
                bytes = more;
                messages.push(vec![frame]);
            }
        }
    }
    messages.into_iter().map(PodMessage::Frames).collect()
}

/// The reply to a request about the sockets of `user`.
pub(crate) fn sign_sockets(tokens: &Tokens, user: UserId, sockets: Vec<SilentSocket>) -> String {
    let text = serde_json::to_string(&SocketList { sockets }).expect("keys are texts");
    signed_text::sign(tokens, &sockets_purpose(user), &text)
}

pub(crate) fn read_sockets(tokens: &Tokens, user: UserId, payload: &[u8]) -> Option<Vec<SilentSocket>> {
    let text = signed_text::verify(tokens, &sockets_purpose(user), payload)?;
    serde_json::from_str::<SocketList>(&text).ok().map(|list| list.sockets)
}

fn sockets_purpose(user: UserId) -> String {
    format!("users-pod-sockets-{user}")
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use platform::World;

    use super::*;

    fn tokens(seed: u8) -> Tokens {
        Tokens::new(&World::seeded(DateTime::UNIX_EPOCH, 1), &[seed; 32]).unwrap()
    }

    fn frame(user: u128, seq: u64, text: &str) -> UserFrame {
        let frame = RawValue::from_string(text.to_owned()).unwrap();
        UserFrame { user_id: UserId(Uuid::from_u128(user)), seq, is_pushed: false, traceparent: None, frame }
    }

    #[test]
    fn only_what_this_platform_wrote_is_believed_and_a_frame_stays_as_it_is() {
        let (ours, theirs) = (tokens(1), tokens(2));
        let text = r#"{"type":"ride.started","seq":7,"data":{"mac":"x","b":1.10}}"#;
        let sent = PodMessage::Frames(vec![frame(1, 7, text)]).sign(&ours);
        let Some(PodMessage::Frames(frames)) = PodMessage::read(&ours, sent.as_bytes()) else { panic!("{sent}") };
        assert_eq!((frames[0].seq, frames[0].frame.get()), (7, text));
        let unsigned = serde_json::to_string(&PodMessage::Frames(vec![frame(1, 7, text)])).unwrap();
        for (tokens, payload) in [
            (&theirs, sent.clone()),
            (&ours, sent.replace("7,\"f", "8,\"f")),
            (&ours, unsigned),
            (&ours, String::new()),
        ] {
            assert!(PodMessage::read(tokens, payload.as_bytes()).is_none(), "{payload}");
        }
        let (ann, bob) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let list = vec![SilentSocket { session: Uuid::from_u128(3), silence_ms: 4 }];
        let reply = sign_sockets(&ours, ann, list.clone());
        assert_eq!(read_sockets(&ours, ann, reply.as_bytes()), Some(list));
        assert_eq!(read_sockets(&ours, bob, reply.as_bytes()), None);
        assert!(PodMessage::read(&ours, reply.as_bytes()).is_none());
    }

    #[test]
    fn frames_go_in_messages_of_bounded_size_and_in_order() {
        let text = format!("\"{}\"", "x".repeat(BYTES_MAX / 4));
        let sizes = |count: u64, text: &str| -> Vec<usize> {
            let messages = in_messages((0..count).map(|n| frame(1, n, text)).collect());
            let seqs = messages.iter().flat_map(|message| match message {
                PodMessage::Frames(frames) => frames.iter().map(|frame| frame.seq).collect::<Vec<_>>(),
                _ => panic!("{message:?}"),
            });
            assert!(seqs.eq(0..count));
            let size = |message: &PodMessage| if let PodMessage::Frames(frames) = message { frames.len() } else { 0 };
            messages.iter().map(size).collect()
        };
        assert_eq!(sizes(0, "{}"), [0; 0]);
        assert_eq!(sizes(250, "{}"), [100, 100, 50]);
        assert_eq!(sizes(7, &text), [3, 3, 1]);
    }

    #[test]
    fn the_subject_of_the_version_before_names_a_user() {
        let ann = UserId(Uuid::from_u128(1));
        assert_eq!(user_of(&format!("users.session.{ann}.notify")), Some(ann));
        for subject in ["users.session.x.notify", "users.session", "users.session.notify", "users.pod.x"] {
            assert_eq!(user_of(subject), None, "{subject}");
        }
    }
}
