//! The table of the contract, and the streams and consumers that follow from it.

use std::time::Duration;

use super::config::{ADMIN_STREAM, Consumer, DEAD_LETTER_STREAM, Discard, Retention, Storage, Stream};
use crate::event::{Service, Subject};

/// Deliveries after which the consumer runtime gives a message up. The server's own limit, [`MAX_DELIVER`], is higher: if a
/// process dies during the last try, a delivery is left for dead-lettering the message.
pub const TRIES: u64 = 3;
/// Deliveries after which the server gives a message up.
pub const MAX_DELIVER: i64 = 5;
/// The stream of the server's max-deliveries advisories; see [`Topology::with_sweeper`].
pub const GIVEN_UP_STREAM: &str = "GIVEN_UP_STREAM";
/// The durable consumer of [`GIVEN_UP_STREAM`], which every process pulls.
pub const SWEEPER: &str = "sweeper";

const MIB: i64 = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);
const DUPLICATE_WINDOW: Duration = Duration::from_secs(300);

/// One row of [`TABLE`].
pub struct Row {
    /// Each subject has exactly one row.
    pub subject: Subject,
    /// The stream that captures the subject.
    pub stream: &'static str,
    /// The services that publish it.
    pub writers: &'static [Service],
    /// The services that have a durable consumer for it.
    pub readers: &'static [Service],
    /// The readers for which somebody waits: a core subscription brings them the event as well, as soon as it is published.
    pub fast: &'static [Service],
}

/// The table of the contract, section 2.
pub const TABLE: &[Row] = {
    use Service::{Location, Match, Rides, Users};
    const fn row(
        subject: Subject,
        stream: &'static str,
        writers: &'static [Service],
        readers: &'static [Service],
        fast: &'static [Service],
    ) -> Row {
        Row { subject, stream, writers, readers, fast }
    }
    &[
        // Location reads beacons too: no other event says that a driver went offline, and `nearby` shows free drivers only.
        row(Subject::UserBeacon, "USER_STREAM", &[Users], &[Users, Match, Location], &[Match]),
        row(Subject::UserFinder, "USER_STREAM", &[Users], &[Users, Match], &[Match]),
        row(Subject::MatchFound, "MATCH_STREAM", &[Match], &[Users], &[Users]),
        row(Subject::MatchRejected, "MATCH_STREAM", &[Match, Users, Rides], &[Users, Match], &[]),
        row(Subject::MatchAccepted, "MATCH_STREAM", &[Users], &[Users, Rides, Match], &[Rides]),
        row(Subject::RidePickup, "RIDE_STREAM", &[Rides], &[Users, Match], &[Users]),
        row(Subject::RideWaiting, "RIDE_STREAM", &[Rides], &[Users], &[]),
        row(Subject::RideStarted, "RIDE_STREAM", &[Rides], &[Users, Location], &[]),
        row(Subject::RideArrived, "RIDE_STREAM", &[Rides], &[Users, Location], &[]),
        row(Subject::RideCompleted, "RIDE_STREAM", &[Rides], &[Users, Match, Location], &[]),
        row(Subject::RideCancelled, "RIDE_STREAM", &[Rides], &[Users, Match, Location], &[]),
        row(Subject::LocationUpdate, "LOCATION_STREAM", &[Users], &[Location, Match], &[]),
        row(Subject::LocationAggregate, "LOCATION_STREAM", &[Location], &[Rides, Users], &[]),
        row(Subject::PaymentCapture, "PAYMENT_STREAM", &[Rides], &[Rides], &[]),
        // Nobody reads what operators did but operators.
        row(Subject::AdminRideEnded, "ADMIN_STREAM", &[Rides], &[], &[]),
        row(Subject::AdminRideRefunded, "ADMIN_STREAM", &[Rides], &[], &[]),
        row(Subject::AdminRideNoteAdded, "ADMIN_STREAM", &[Rides], &[], &[]),
        row(Subject::AdminUserLookedUp, "ADMIN_STREAM", &[Users], &[], &[]),
        row(Subject::AdminUserSignedOut, "ADMIN_STREAM", &[Users], &[], &[]),
        row(Subject::AdminDriverApproved, "ADMIN_STREAM", &[Users], &[], &[]),
        row(Subject::AdminDriverSuspended, "ADMIN_STREAM", &[Users], &[], &[]),
        row(Subject::AdminDriverDocumentsSet, "ADMIN_STREAM", &[Users], &[], &[]),
        row(Subject::AdminDeadLetterRequeued, "ADMIN_STREAM", &[Users], &[], &[]),
        row(Subject::AdminDeadLetterRemoved, "ADMIN_STREAM", &[Users], &[], &[]),
    ]
};

/// The name of the durable consumer of `subject` in `service`.
pub fn durable(subject: Subject, service: Service) -> String {
    format!("{}_{}", subject.as_str().replace('.', "_"), service.name())
}

/// Whether a core subscription brings the events of `filter`, a consumer's subject, to `service` as well.
pub fn is_fast(filter: &str, service: Service) -> bool {
    TABLE.iter().any(|row| row.subject.as_str() == filter && row.fast.contains(&service))
}

/// The streams and durable consumers that a server must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// In the order of creation.
    pub streams: Vec<Stream>,
    /// Created after all streams, in this order.
    pub consumers: Vec<Consumer>,
}

impl Topology {
    /// The system's streams and durable consumers, from [`TABLE`]. The default sizes of all of them, the sweeper's too, fit into a
    /// server that has 1 GiB of disk for JetStream, also if it has no memory for it. A deployment changes them by
    /// [`stream_mut`](Self::stream_mut).
    pub fn rideshare() -> Self {
        let stream = |name: &str, retention, storage, discard, max_age, mib: i64| Stream {
            name: name.to_owned(),
            subjects: match name {
                DEAD_LETTER_STREAM => vec!["dead_letter.>".to_owned()],
                ADMIN_STREAM => vec!["admin.>".to_owned()],
                _ => TABLE.iter().filter(|r| r.stream == name).map(|r| r.subject.as_str().to_owned()).collect(),
            },
            retention,
            storage,
            discard,
            max_age,
            max_bytes: mib * MIB,
            duplicate_window: DUPLICATE_WINDOW,
        };
        use Discard::{New, Old};
        use Retention::{Interest, Limits, WorkQueue};
        use Storage::{File, MemoryOrFile};
        let streams = vec![
            // The dead letters first: a message that fails while the others are created already has its stream.
            stream(DEAD_LETTER_STREAM, Limits, File, New, 30 * 24 * HOUR, 48),
            stream("USER_STREAM", Interest, File, New, 24 * HOUR, 96),
            stream("MATCH_STREAM", Interest, File, New, HOUR, 48),
            // At 4.7 KiB a ride, 125,000 rides in its 7 days.
            stream("RIDE_STREAM", Limits, File, New, 7 * 24 * HOUR, 576),
            stream("LOCATION_STREAM", Interest, MemoryOrFile, Old, 2 * HOUR, 192),
            stream("PAYMENT_STREAM", WorkQueue, File, New, 24 * HOUR, 32),
            // At 750 bytes an act, 22,000 acts in its year.
            stream(ADMIN_STREAM, Limits, File, New, 365 * 24 * HOUR, 16),
        ];
        let consumers = TABLE
            .iter()
            .flat_map(|row| {
                row.readers.iter().map(|&service| Consumer {
                    stream: row.stream.to_owned(),
                    durable: durable(row.subject, service),
                    filter: row.subject.as_str().to_owned(),
                    ack_wait: Duration::from_secs(30),
                    max_deliver: MAX_DELIVER,
                    max_ack_pending: match (row.subject, service) {
                        // Location lets the points of rides wait for others before it writes and acknowledges them: these are the
                        // points of 20 s at 13,000/s.
                        (Subject::LocationUpdate, Service::Location) => 262_144,
                        (Subject::LocationUpdate, _) => 65_536,
                        _ => 4_096,
                    },
                    backoff: Vec::new(),
                })
            })
            .collect();
        Self { streams, consumers }
    }

    /// This topology plus the stream of max-deliveries advisories and its consumer, the sweeper: what a running system has.
    ///
    /// The server sends an advisory when it has delivered a message as often as `max_deliver` allows and nobody acknowledged
    /// it. The advisory stream carries no event, and only the server and the consumer runtime use it. It is therefore not in
    /// [`TABLE`], the JSON files or the statistics of consumers, which are the contract's and list exactly what it lists.
    ///
    /// Its settings and why:
    /// - a work queue: an acknowledged advisory is done;
    /// - on disk: a restarted server must not lose it;
    /// - the age of the oldest message that the server may give up;
    /// - when full, it refuses new advisories, as the other streams do: some hundred thousand wait then, and the alarm about
    ///   stuck streams has long been on;
    /// - no limit of deliveries, because no second sweeper would handle what this one gives up: the age is the bound.
    pub fn with_sweeper(&self) -> Self {
        let subject = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>".to_owned();
        let stream = Stream {
            name: GIVEN_UP_STREAM.to_owned(),
            subjects: vec![subject.clone()],
            retention: Retention::WorkQueue,
            storage: Storage::File,
            discard: Discard::New,
            max_age: 7 * 24 * HOUR,
            max_bytes: 16 * MIB,
            duplicate_window: DUPLICATE_WINDOW,
        };
        let consumer = Consumer {
            stream: GIVEN_UP_STREAM.to_owned(),
            durable: SWEEPER.to_owned(),
            filter: subject,
            ack_wait: Duration::from_secs(60),
            max_deliver: -1,
            max_ack_pending: 256,
            backoff: Vec::new(),
        };
        let streams = std::iter::once(stream).chain(self.streams.iter().cloned()).collect();
        let consumers = std::iter::once(consumer).chain(self.consumers.iter().cloned()).collect();
        Self { streams, consumers }
    }

    /// The stream of that name, to change its limits before the topology is applied.
    pub fn stream_mut(&mut self, name: &str) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.name == name)
    }

    /// The consumers that `service` pulls, in the order of [`TABLE`].
    pub fn consumers_of(&self, service: Service) -> impl Iterator<Item = &Consumer> {
        let suffix = format!("_{}", service.name());
        self.consumers.iter().filter(move |c| c.durable.ends_with(&suffix))
    }

    /// The consumer of `subject` in `service`.
    ///
    /// # Panics
    /// If the table has none: an error in the program that any test finds.
    pub fn consumer(&self, subject: Subject, service: Service) -> &Consumer {
        let name = durable(subject, service);
        self.consumers.iter().find(|c| c.durable == name).expect("the table has a reader for every handler")
    }
}
