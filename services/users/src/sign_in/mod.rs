//! Sign-in: from a phone's one-time code to an access token, and on by refresh tokens.
//!
//! A sign-in is one row: one user on one device, until it is ended, unused for 30 days, or as old as a sign-in may get. Its
//! refresh tokens are numbered, and each works once. The newest one but one also gets the newest again for 30 seconds: the answer
//! that carried the newest may have been lost. When any other used token comes again, either it was stolen or the thief used it
//! first. Nobody can tell which, so the whole sign-in ends.
//!
//! No refresh token is stored: it follows from the row and a key (`refresh_token`). Tokens, codes and phones reach no log.

pub(crate) mod delivery;
pub(crate) mod ended;
pub(crate) mod otp;
pub(crate) mod phone;
pub(crate) mod previous_version;
pub(crate) mod refresh_token;
pub(crate) mod routes;
pub(crate) mod rows;

use chrono::{DateTime, TimeDelta, Utc};
use streams::{SignInId, UserId};

/// A sign-in that is not refreshed for this long ends.
pub(crate) const IDLE_MAX: TimeDelta = TimeDelta::days(30);
/// How long the newest refresh token but one gets the newest again.
const GRACE: TimeDelta = TimeDelta::seconds(30);
/// Repeats of one token within this time are a burst, which no client makes whose answer was lost.
const BURST: TimeDelta = TimeDelta::milliseconds(250);
/// Live sign-ins of one user: a new one ends the one that was not seen for longest.
pub(crate) const SIGN_INS_MAX: usize = 100;
/// The most characters of a device's name.
const DEVICE_MAX: usize = 100;

/// The row of a sign-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignIn {
    pub(crate) id: SignInId,
    pub(crate) user: UserId,
    /// What the client calls itself.
    pub(crate) device: Option<String>,
    pub(crate) created_at: DateTime<Utc>,
    /// When it began or was refreshed last.
    pub(crate) seen_at: DateTime<Utc>,
    /// When it ends, however often it is refreshed.
    pub(crate) ends_at: DateTime<Utc>,
    /// When it was ended before its time.
    pub(crate) ended_at: Option<DateTime<Utc>>,
    /// The number of the newest refresh token; [`PREVIOUS_VERSION`] before there is any of this version.
    pub(crate) number: i64,
    /// What its refresh tokens depend on besides the key.
    pub(crate) salt: Vec<u8>,
    /// When the newest refresh token was made.
    pub(crate) rotated_at: DateTime<Utc>,
    /// How often the newest token but one came again since `repeats_since`.
    pub(crate) repeats: i32,
    pub(crate) repeats_since: DateTime<Utc>,
}

/// The number of the one live refresh token that the version before this one made, see [`previous_version`].
pub(crate) const PREVIOUS_VERSION: i64 = -1;

/// What becomes of a refresh token that a client presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refresh {
    /// It was the newest: now there is a newer one, which the client gets.
    Rotated,
    /// The client gets the newest again, unless this is one of a burst.
    Repeated,
    /// It was used before: the sign-in ends.
    Reused,
    /// The client must sign in again.
    Invalid,
}

impl SignIn {
    /// A new sign-in that lasts `life` at most; `salt` is random.
    pub(crate) fn new(
        id: SignInId,
        user: UserId,
        device: Option<String>,
        salt: Vec<u8>,
        life: TimeDelta,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            id,
            user,
            device,
            created_at: now,
            seen_at: now,
            ends_at: now + life,
            ended_at: None,
            number: 0,
            salt,
            rotated_at: now,
            repeats: 0,
            repeats_since: now,
        }
    }

    /// Whether it is over at `now`, for whichever reason.
    pub(crate) fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.ended_at.is_some() || self.ends_at <= now || self.seen_at + IDLE_MAX <= now
    }

    /// A client presents the refresh token with this number. The row changes if the result is `Rotated` or `Repeated`.
    pub(crate) fn refresh(&mut self, number: i64, device: Option<String>, now: DateTime<Utc>) -> Refresh {
        let is_repeat = number == self.number - 1 && now <= self.rotated_at + GRACE && !self.is_over(now);
        if number < self.number && !is_repeat {
            return Refresh::Reused;
        }
        if number > self.number || self.is_over(now) {
            return Refresh::Invalid;
        }
        self.seen_at = now;
        self.device = device.or(self.device.take());
        if is_repeat {
            if self.repeats == 0 || now > self.repeats_since + BURST {
                (self.repeats, self.repeats_since) = (0, now);
            }
            self.repeats += 1;
            return Refresh::Repeated;
        }
        self.number += 1;
        (self.rotated_at, self.repeats) = (now, 0);
        Refresh::Rotated
    }

    /// Whether the token of a repeat was presented again at about the same time. Thieves who race for the successor do so.
    pub(crate) fn is_burst(&self) -> bool {
        self.repeats > 1
    }

    /// When an access token issued at `now` expires: after `life`, but with the sign-in at the latest.
    pub(crate) fn access_until(&self, life: TimeDelta, now: DateTime<Utc>) -> DateTime<Utc> {
        self.ends_at.min(now + life)
    }
}

/// The name of a device, from the client's `User-Agent`.
pub(crate) fn device(user_agent: &str) -> Option<String> {
    let name: String = user_agent.chars().filter(|c| !c.is_control()).take(DEVICE_MAX).collect();
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests;
