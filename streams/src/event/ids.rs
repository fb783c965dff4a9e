//! Typed ids. Each is a UUID, and of version 7 if this system created it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    )+};
}

id!(
    /// A user: a passenger, a driver, or both.
    UserId,
    /// A sign-in of a user on one device.
    SignInId,
    /// A passenger's search for a driver.
    RequestId,
    /// One offer of a request to one driver.
    MatchId,
    /// The ride that an accepted match becomes.
    RideId,
    /// One capture of money; the same on every try.
    PaymentId,
    /// One act of an operator; the same on every try.
    ActId,
);
