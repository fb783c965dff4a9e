//! What an operator did: `admin.*`. It has the ids of the people concerned and nothing else of them.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{ActId, PaymentId, RideId, UserId};
use super::money::Money;
use super::rfc3339;
use super::subject::Subject;
use super::validation::{EventError, Fields};

/// What an operator may do; each may also do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OperatorRole {
    /// Reads.
    Viewer,
    /// Helps people: ends rides, refunds, signs out, requeues.
    Support,
    /// Decides who may drive.
    Admin,
}

impl OperatorRole {
    /// From the smallest to the greatest.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Support, Self::Admin];

    /// The name in ADMIN_TOKENS_FILE and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Support => "support",
            Self::Admin => "admin",
        }
    }
}

impl std::str::FromStr for OperatorRole {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|role| role.as_str() == text);
        known.ok_or_else(|| format!("unknown role `{text}`: use viewer, support or admin"))
    }
}

macro_rules! acts {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $subject:ident;)+) => {
        /// What was done; also the last part of the event's subject.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub enum ActKind { $($(#[$doc])* #[serde(rename = $text)] $name),+ }

        impl ActKind {
            /// Every act, in the order of the subjects.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The name on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            /// The subject of its event.
            pub const fn subject(self) -> Subject {
                match self { $(Self::$name => Subject::$subject),+ }
            }
        }
    };
}

acts! {
    /// A stuck ride was ended.
    RideEnded = "ride_ended", AdminRideEnded;
    /// A part of what was captured was refunded.
    RideRefunded = "ride_refunded", AdminRideRefunded;
    /// A note was added to a ride. Its text is in no event.
    RideNoteAdded = "ride_note_added", AdminRideNoteAdded;
    /// A user was looked for by phone. The phone is in no event.
    UserLookedUp = "user_looked_up", AdminUserLookedUp;
    /// All sign-ins of a user were ended.
    UserSignedOut = "user_signed_out", AdminUserSignedOut;
    /// A driver was approved.
    DriverApproved = "driver_approved", AdminDriverApproved;
    /// A driver was suspended.
    DriverSuspended = "driver_suspended", AdminDriverSuspended;
    /// The documents of a driver were replaced. What they say is in no event.
    DriverDocumentsSet = "driver_documents_set", AdminDriverDocumentsSet;
    /// A dead letter was to be handled again.
    DeadLetterRequeued = "dead_letter_requeued", AdminDeadLetterRequeued;
    /// A dead letter was removed.
    DeadLetterRemoved = "dead_letter_removed", AdminDeadLetterRemoved;
}

/// An act of an operator: who, what, why and the ids. What does not apply is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OperatorAct {
    /// The entity of the message id.
    pub act_id: ActId,
    /// What was done.
    pub act: ActKind,
    /// The operator, as ADMIN_TOKENS_FILE names them.
    pub by: String,
    /// With which role.
    pub role: OperatorRole,
    /// Why, in the operator's words; null where none were given.
    #[serde(deserialize_with = "Option::deserialize")]
    pub reason: Option<String>,
    /// When it was committed.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub acted_at: DateTime<Utc>,
    /// The ride concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ride_id: Option<RideId>,
    /// The user concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// The driver concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_id: Option<UserId>,
    /// The payment of which a part was refunded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_id: Option<PaymentId>,
    /// What was refunded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Money>,
    /// The end of a suspension, if it has one.
    #[serde(default, with = "rfc3339::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    pub until: Option<DateTime<Utc>>,
    /// The status of the ride or of the driver before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_status: Option<String>,
    /// The dead letter: its sequence in DEAD_LETTER_STREAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The consumer that failed its message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// The id of its message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// How many users were found, or sign-ins ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<u32>,
}

impl OperatorAct {
    /// An act of which only who did what, when and why is known.
    pub fn new(
        act_id: ActId,
        act: ActKind,
        (by, role): (String, OperatorRole),
        reason: Option<String>,
        acted_at: DateTime<Utc>,
    ) -> Self {
        Self {
            act_id,
            act,
            by,
            role,
            reason,
            acted_at,
            ride_id: None,
            user_id: None,
            driver_id: None,
            payment_id: None,
            amount: None,
            until: None,
            previous_status: None,
            sequence: None,
            consumer: None,
            message_id: None,
            found: None,
        }
    }

    pub(super) fn validate(&self, fields: &Fields) -> Result<(), EventError> {
        let subject = fields.0;
        if self.act.subject() != subject {
            return Err(fields.error("act", &format!("`{}` does not belong to {subject}", self.act.as_str())));
        }
        if self.by.is_empty() {
            return Err(fields.error("by", "is empty"));
        }
        Ok(())
    }
}
