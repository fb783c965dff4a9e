//! What a simulation can make go wrong, and what it can switch off.

/// What can go wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The stream never sees the publish.
    PublishRefused,
    /// The stream stores the message, and its acknowledgement is lost.
    PublishUnanswered,
    /// The publish arrives up to 4 s later.
    PublishSlow,
    /// The message is delivered up to 45 s later, behind others.
    DeliveryLate,
    /// The message is delivered, and redelivered within 1 s whether it is acknowledged or not.
    DeliveryTwice,
    /// A batch arrives in another order.
    DeliveryShuffled,
    /// A batch arrives up to 5 s later.
    DeliverySlow,
    /// The consumer never sees the acknowledgement.
    AckLost,
    /// No subscriber gets the core message, or one does not get the copy of a message that a stream stores.
    CoreMessageLost,
    /// Nobody gets the request.
    RequestLost,
    /// The request is answered, and the answer is lost.
    RequestUnanswered,
    /// No connection to the database.
    BeginRefused,
    /// The commit changes nothing.
    CommitRefused,
    /// The commit fails with a serialization failure.
    CommitConflict,
    /// The commit succeeds, and its answer is lost.
    CommitUnanswered,
    /// The relay's reads and marks fail.
    RelayRefused,
}

impl Fault {
    /// All, in the order of declaration.
    pub const ALL: [Self; 16] = [
        Self::PublishRefused,
        Self::PublishUnanswered,
        Self::PublishSlow,
        Self::DeliveryLate,
        Self::DeliveryTwice,
        Self::DeliveryShuffled,
        Self::DeliverySlow,
        Self::AckLost,
        Self::CoreMessageLost,
        Self::RequestLost,
        Self::RequestUnanswered,
        Self::BeginRefused,
        Self::CommitRefused,
        Self::CommitConflict,
        Self::CommitUnanswered,
        Self::RelayRefused,
    ];
}

/// Parts of the platform that a test switches off, to see that its checks notice. For the current thread only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sabotage {
    /// A message that the inbox has is handled again.
    pub no_inbox: bool,
    /// match offers drivers and passengers that another offer holds.
    pub no_hold: bool,
    /// Readers let an older version of a ride replace a newer one.
    pub no_version_check: bool,
    /// The store accepts a second live ride of a driver or passenger.
    pub no_unique_live_ride: bool,
    /// A zone of match does not look at the rides of other zones.
    pub no_ride_check: bool,
    /// All processes share one lock, which each transaction holds as long as it takes. Only a simulation with costs notices.
    pub one_transaction_at_a_time: bool,
    /// What a stream delivers to one process reaches all others as well, and is thrown away there. Only a simulation with costs notices.
    pub all_positions_to_all: bool,
}

impl Sabotage {
    /// Everything works.
    pub const NONE: Self = Self {
        no_inbox: false,
        no_hold: false,
        no_version_check: false,
        no_unique_live_ride: false,
        no_ride_check: false,
        one_transaction_at_a_time: false,
        all_positions_to_all: false,
    };
}
