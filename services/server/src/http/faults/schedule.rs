//! What goes wrong on purpose, by a seed. Pure: the same seed, name and number give the same fault.
//!
//! A name is a route (`POST /v1/auth/otp`), or the `device` of a socket; a number counts the requests or sockets of that name from 0. So
//! an app that does the same meets the same, also beside another app.
//!
//! Nothing here is against the contract: an answer is slow, or lost with its connection; a request is refused for now; a connection is cut
//! off, closed with 1001 or 1012, or falls silent; a frame comes late, and after a cut again.

/// Milliseconds by which an answer or a frame is late, at most. Less than the 5 s for which a session waits for a slow reader.
const LATE_MAX_MS: u64 = 2_500;
/// Frames, after the welcome, before which a socket ends at the latest, if it ends on purpose.
const FRAMES_MAX: u64 = 24;
/// Every so many requests of a name, and sockets of a name, one is left alone: whoever tries again succeeds.
const SPARED: u64 = 4;

/// A seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule(pub(super) u64);

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestFault {
    None,
    /// It is answered so many milliseconds later.
    Late(u64),
    /// 503 `unavailable` with a Retry-After in seconds; it is not executed.
    Unavailable(u64),
    /// 429 `too_many_requests` with a Retry-After in seconds; it is not executed.
    TooMany(u64),
    /// The connection is cut off before it is executed.
    CutBefore,
    /// It is executed, and the connection is cut off before the answer.
    AnswerLost,
}

/// How a socket ends on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Without a close frame.
    Cut,
    /// With this close code.
    Close(u16),
    /// Nothing more comes through, in either direction, and nobody says so.
    Silence,
}

/// What happens to one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SocketPlan {
    /// Instead of its frame of this number (the welcome is 1); that frame, and those after it, are lost.
    pub(super) end: Option<(u64, End)>,
    seed: u64,
}

impl Schedule {
    pub(super) fn request(self, name: &str, number: u64) -> RequestFault {
        let seed = self.of(name, number);
        if number % SPARED == SPARED - 1 {
            return RequestFault::None;
        }
        // Signing in is what people do in bad places.
        let refused = if name.contains("/v1/auth/") { 26 } else { 12 };
        match roll(seed, 0) % 100 {
            n if n < refused => RequestFault::Unavailable(1 + roll(seed, 1) % 2),
            n if n < refused + 6 => RequestFault::TooMany(1 + roll(seed, 1) % 2),
            n if n < refused + 12 => RequestFault::CutBefore,
            n if n < refused + 18 => RequestFault::AnswerLost,
            n if n < refused + 34 => RequestFault::Late(50 + roll(seed, 1) % LATE_MAX_MS),
            _ => RequestFault::None,
        }
    }

    pub(super) fn socket(self, device: &str, number: u64) -> SocketPlan {
        let seed = self.of(&format!("socket of {device}"), number);
        let at = 2 + roll(seed, 1) % FRAMES_MAX;
        let end = match roll(seed, 0) % 100 {
            _ if number % SPARED == SPARED - 1 => None,
            n if n < 40 => Some(End::Cut),
            n if n < 50 => Some(End::Close(1001)),
            n if n < 60 => Some(End::Close(1012)),
            n if n < 72 => Some(End::Silence),
            _ => None,
        };
        SocketPlan { end: end.map(|end| (at, end)), seed }
    }

    fn of(self, name: &str, number: u64) -> u64 {
        // FNV-1a of 64 bits.
        let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let name = name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, hash);
        roll(roll(self.0, name), number)
    }
}

impl SocketPlan {
    /// Milliseconds by which the frame of this number is late, and with it those behind it.
    pub(super) fn late_ms(&self, frame: u64) -> Option<u64> {
        let roll = roll(self.seed, frame.wrapping_add(1_000));
        (roll % 100 < 15).then(|| 20 + (roll >> 8) % LATE_MAX_MS)
    }
}

/// The `n`th number of a seed: the finalizer of SplitMix64 (Steele, Lea, Flood, 2014).
fn roll(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_is_a_schedule_and_another_seed_another_one() {
        let of = |seed| {
            let requests = (0..50).map(|n| format!("{:?}", Schedule(seed).request("GET /v1/me", n)));
            let sockets = (0..50).map(|n| Schedule(seed).socket("phone", n));
            let sockets = sockets
                .map(|plan| format!("{:?} {:?}", plan.end, (1..30).map(|n| plan.late_ms(n)).collect::<Vec<_>>()));
            requests.chain(sockets).collect::<Vec<_>>()
        };
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        assert_ne!(Schedule(7).socket("phone", 1), Schedule(7).socket("tablet", 1));
    }

    /// A published schedule: who has written down what seed 7 does to an app meets the same tomorrow.
    #[test]
    fn the_schedule_of_a_seed_does_not_change() {
        let requests: Vec<_> = (0..4).map(|n| Schedule(7).request("POST /v1/auth/otp", n)).collect();
        let sockets: Vec<_> = (0..4).map(|n| Schedule(7).socket("phone", n).end).collect();
        let expected =
            "[Unavailable(1), Unavailable(1), CutBefore, None] [Some((12, Cut)), None, Some((8, Cut)), None]";
        assert_eq!(format!("{requests:?} {sockets:?}"), expected);
    }

    #[test]
    fn every_fault_happens_and_whoever_tries_again_succeeds() {
        let mut kinds = BTreeSet::new();
        for seed in 0..200 {
            for n in 0..16 {
                let fault = Schedule(seed).request("POST /v1/auth/token", n);
                kinds.insert(format!("{fault:?}").split('(').next().unwrap().to_owned());
                let plan = Schedule(seed).socket("phone", n);
                kinds.insert(plan.end.map_or("whole".to_owned(), |(_, end)| format!("{end:?}")));
                assert!(plan.end.is_none_or(|(at, _)| (2..=FRAMES_MAX + 1).contains(&at)), "a welcome comes always");
                if n % SPARED == SPARED - 1 {
                    assert_eq!((fault, plan.end), (RequestFault::None, None));
                }
            }
        }
        let kinds: Vec<_> = kinds.iter().map(String::as_str).collect();
        let all = [
            "AnswerLost",
            "Close(1001)",
            "Close(1012)",
            "Cut",
            "CutBefore",
            "Late",
            "None",
            "Silence",
            "TooMany",
            "Unavailable",
            "whole",
        ];
        assert_eq!(kinds, all);
    }
}
