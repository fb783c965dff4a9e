//! What operators are shown: the answers of `/admin/v1` and the parts of them that their owners make. An answer passes the process that
//! serves it as JSON, so that an owner of another version may show more or less.
#![expect(missing_docs, reason = "the names say it; a field is described where its name does not")]

use chrono::{DateTime, NaiveDate, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::DocumentKind;
use crate::event::ids::{ActId, MatchId, PaymentId, RequestId, RideId, SignInId, UserId};
use crate::event::{
    Currency, Fare, Money, OperatorAct, OperatorRole, Party, Position, RejectReason, RideStatus, VehicleType, rfc3339,
};
use crate::pods::{Heartbeat, PartHealth, Status};

// A doc comment would be shown with each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct At(
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub DateTime<Utc>,
);

impl From<DateTime<Utc>> for At {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time)
    }
}

/// The operator whose token it is.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorProfile {
    pub name: String,
    pub role: OperatorRole,
    /// TRACE_URL, an address with `{trace_id}` in it; null if it is not set.
    pub trace_url: Option<String>,
}

/// A list of the map.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct MapRows<T> {
    pub rows: Vec<T>,
    /// There are more than were asked for.
    pub truncated: bool,
}

// Of users.

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsUser {
    pub user_id: UserId,
    pub phone: String,
    pub name: Option<String>,
    pub created_at: At,
    /// Null if the user is no driver.
    pub driver: Option<OperatorsDriver>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsDriver {
    pub user_id: UserId,
    pub name: Option<String>,
    #[schemars(extend("enum" = ["pending", "approved", "suspended"]))]
    pub status: &'static str,
    /// Null if the suspension has no end, or there is none.
    pub suspended_until: Option<At>,
    /// Whether an operator has decided on the driver.
    pub reviewed: bool,
    pub registered_at: At,
    pub vehicle_type: VehicleType,
    pub plate: String,
    pub make: Option<String>,
    pub model: Option<String>,
    pub color: Option<String>,
    /// Null before the first beacon.
    pub on_duty: Option<bool>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct DriverOfRide {
    pub user_id: UserId,
    pub name: Option<String>,
    pub phone: String,
    pub plate: Option<String>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PassengerOfRide {
    pub user_id: UserId,
    pub name: Option<String>,
    pub phone: String,
}

/// Who drives and who rides; null whose account has ended.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PeopleOfRide {
    pub driver: Option<DriverOfRide>,
    pub passenger: Option<PassengerOfRide>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsSignIn {
    pub id: SignInId,
    /// What the client called itself.
    pub device: Option<String>,
    pub created_at: At,
    /// When it last got new tokens.
    pub seen_at: At,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsSearch {
    pub request_id: RequestId,
    pub user_id: UserId,
    pub pickup: Position,
    pub dropoff: Position,
    pub vehicle_type: VehicleType,
    pub began_at: At,
    pub expires_at: At,
}

/// To whom a search was offered, and what came of it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsOffer {
    pub match_id: MatchId,
    pub driver_id: UserId,
    pub found_at: Option<At>,
    /// From the driver to the pickup when the offer was made; null if nobody knows.
    pub pickup_distance_m: Option<f64>,
    pub pickup_eta_s: Option<f64>,
    pub expires_at: At,
    #[schemars(extend("enum" = ["open", "accepted", "declined", "expired", "closed"]))]
    pub state: &'static str,
    /// Why it ended without a ride; null if it did not, or nobody knows.
    #[schemars(with = "Option<RejectReason>")]
    pub reason: Option<String>,
    pub rejected_at: Option<At>,
}

/// A document as operators and its driver see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DriverDocument {
    pub kind: DocumentKind,
    pub number: Option<String>,
    pub expires_on: NaiveDate,
    pub expired: bool,
}

/// What users has of a user.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct UserAlone {
    pub user: OperatorsUser,
    /// Those that have not ended.
    pub sign_ins: Vec<OperatorsSignIn>,
    /// Processes that have sockets of the user.
    pub sockets: usize,
    pub search: Option<OperatorsSearch>,
    pub live_ride_ids: Vec<RideId>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct UserScreen {
    #[serde(flatten)]
    pub of_users: UserAlone,
    /// At most 100, the oldest first; null if rides did not answer.
    pub debts: Option<Vec<OperatorsDebt>>,
    pub unavailable: Unavailable,
}

/// The owners that did not answer: what they have is null or empty.
pub type Unavailable = Vec<Owner>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Owner {
    Users,
    Rides,
    Location,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct UsersFound {
    pub act_id: ActId,
    /// None or one.
    pub users: Vec<OperatorsUser>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct DriverPage {
    /// In the order of their ids.
    pub drivers: Vec<OperatorsDriver>,
    pub next_cursor: Option<UserId>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct DriverDocuments {
    pub documents: Vec<DriverDocument>,
}

/// What every act answers.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct ActDone {
    pub act_id: ActId,
    /// It was done before by a request with the same key, and nothing was done now.
    pub repeated: bool,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SignedOut {
    #[serde(flatten)]
    pub act: ActDone,
    pub user_id: UserId,
    /// Sign-ins that were ended now.
    pub ended: usize,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct DriverStatusChanged {
    #[serde(flatten)]
    pub act: ActDone,
    pub user_id: UserId,
    #[schemars(extend("enum" = ["pending", "approved", "suspended"]))]
    pub status: &'static str,
    #[schemars(extend("enum" = ["pending", "approved", "suspended"]))]
    pub previous_status: &'static str,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct DriverSuspended {
    #[serde(flatten)]
    pub change: DriverStatusChanged,
    /// Null if the suspension has no end.
    pub until: Option<At>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct DriverDocumentsSet {
    #[serde(flatten)]
    pub act: ActDone,
    pub user_id: UserId,
    pub documents: Vec<DriverDocument>,
}

/// What became of a dead letter.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LetterOutcome {
    Requeued,
    /// The consumer had handled the message already.
    HandledBefore,
    Removed,
    /// A repeat of a request: somebody removed the letter, or it was handled.
    Gone,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct LetterDone {
    #[serde(flatten)]
    pub act: ActDone,
    pub sequence: u64,
    pub outcome: LetterOutcome,
}

// Of rides.

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsRide {
    pub ride_id: RideId,
    pub match_id: MatchId,
    pub driver_id: UserId,
    pub passenger_id: UserId,
    pub status: RideStatus,
    pub version: u32,
    pub pickup: Position,
    pub dropoff: Position,
    pub vehicle_type: VehicleType,
    /// Null for a ride of a version before markets.
    pub market_id: Option<String>,
    pub created_at: At,
    pub updated_at: At,
    pub waiting_at: Option<At>,
    pub started_at: Option<At>,
    pub arrived_at: Option<At>,
    pub cancelled_by: Option<Party>,
    pub cancel_reason: Option<String>,
    /// What the passenger pays; null before the end.
    pub total: Option<Money>,
    /// Null if nothing is to be paid.
    pub payment_status: Option<&'static str>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsRideWhole {
    #[serde(flatten)]
    pub ride: OperatorsRide,
    pub distance_m: Option<f64>,
    pub duration_s: Option<f64>,
    pub fare: Option<Fare>,
    pub platform_fee: Option<Money>,
    pub driver_payout: Option<Money>,
    pub cancel_fee: Option<Money>,
    /// The search that became the ride.
    pub request_id: Option<RequestId>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RideOnMap {
    pub ride_id: RideId,
    pub status: RideStatus,
    pub version: u32,
    pub driver_id: UserId,
    pub passenger_id: UserId,
    pub pickup: Position,
    pub dropoff: Position,
    pub vehicle_type: VehicleType,
    pub market_id: Option<String>,
    pub created_at: At,
    pub updated_at: At,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EventOfRide {
    pub version: u32,
    pub subject: String,
    pub occurred_at: At,
    pub message_id: String,
    pub hash: String,
    pub previous_hash: Option<String>,
    /// Whether it is what its hash says, and follows the event before.
    pub verifies: bool,
    /// Null if the trace was not recorded.
    pub trace_id: Option<String>,
    /// As it was published.
    pub body: Value,
}

/// Whether all events of a ride verify.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct HashChain {
    pub verifies: bool,
    /// The first fault.
    pub fault: Option<String>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsPayment {
    pub payment_id: PaymentId,
    pub amount: Money,
    pub status: &'static str,
    /// The provider's, once captured.
    pub reference: Option<String>,
    pub created_at: At,
    pub tried_at: Option<At>,
    /// The sum of all refunds.
    pub refunded: Money,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct LedgerEntry {
    pub entry_id: Uuid,
    /// The same for entries that add up to 0.
    pub transaction_id: Uuid,
    pub kind: String,
    pub account: String,
    /// Debit positive.
    pub amount: Money,
    pub at: At,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsRefund {
    /// That of the act.
    pub refund_id: ActId,
    pub amount: Money,
    /// Null once the account of a party has ended.
    pub reason: Option<String>,
    /// The operator.
    pub by: String,
    pub at: At,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RideNote {
    /// That of the act.
    pub note_id: ActId,
    pub text: String,
    /// The operator.
    pub by: String,
    pub at: At,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsDebt {
    pub debt_id: PaymentId,
    pub ride_id: RideId,
    pub amount: Money,
    pub since: At,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsRidePage {
    /// The newest first.
    pub rides: Vec<OperatorsRide>,
    pub next_cursor: Option<RideId>,
}

/// What rides has of a ride.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RideAlone {
    pub ride: OperatorsRideWhole,
    /// In the order of their versions.
    pub events: Vec<EventOfRide>,
    pub chain: HashChain,
    pub payment: Option<OperatorsPayment>,
    pub ledger: Vec<LedgerEntry>,
    pub refunds: Vec<OperatorsRefund>,
    pub notes: Vec<RideNote>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RideScreen {
    #[serde(flatten)]
    pub of_rides: RideAlone,
    #[serde(flatten)]
    pub people: PeopleOfRide,
    /// Null if users did not answer, or nobody knows the search.
    pub offers: Option<Vec<OperatorsOffer>>,
    /// Null if location did not answer, or no track is stored.
    pub track: Option<Track>,
    pub unavailable: Unavailable,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RideEndedByOperator {
    #[serde(flatten)]
    pub act: ActDone,
    pub ride_id: RideId,
    pub status: RideStatus,
    pub version: u32,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Refunded {
    #[serde(flatten)]
    pub act: ActDone,
    pub refund_id: ActId,
    pub ride_id: RideId,
    pub amount: Money,
    /// The sum of all refunds of the ride.
    pub refunded: Money,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct NoteAdded {
    #[serde(flatten)]
    pub act: ActDone,
    pub note_id: ActId,
    pub ride_id: RideId,
}

// Of location.

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct DriverOnMap {
    pub driver_id: UserId,
    pub location: Position,
    pub heading_deg: Option<f64>,
    pub speed_mps: Option<f64>,
    pub recorded_at: At,
    pub age_s: f64,
    pub vehicle_type: Option<VehicleType>,
    pub on_duty: bool,
    /// The live ride.
    pub ride_id: Option<RideId>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Track {
    /// At most 1,000, evenly, in the order of time.
    pub points: Vec<TrackPoint>,
    pub total_points: usize,
    /// As it was reported last.
    pub distance_m: Option<f64>,
    pub is_final: bool,
    /// The distance with the points that came after the final one, which was billed; null if none came.
    pub late_distance_m: Option<f64>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "PointOfTrack")]
pub struct TrackPoint {
    pub lat: f64,
    pub lng: f64,
    pub at: At,
    pub accuracy_m: Option<f64>,
    /// False for what is not billed: of another device, or a GPS jump.
    pub on_track: bool,
}

// Of the process that serves them.

/// What has the id or the phone number that somebody looks for. `user_id` is the passenger, if it is no user alone.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Found {
    Ride { ride_id: RideId, match_id: MatchId, status: RideStatus, user_id: UserId, driver_id: UserId },
    Match { match_id: MatchId, request_id: RequestId, user_id: UserId, driver_id: UserId },
    Request { request_id: RequestId, user_id: UserId },
    User { user_id: UserId },
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct AllFound {
    /// Rides first, then matches, searches and users; none if nothing is found.
    pub found: Vec<Found>,
    pub unavailable: Unavailable,
}

/// The markets as a GeoJSON FeatureCollection.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsMarkets {
    #[schemars(extend("enum" = ["FeatureCollection"]))]
    pub r#type: &'static str,
    /// Of MARKETS_FILE.
    pub version: String,
    pub features: Vec<OperatorsMarket>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsMarket {
    #[schemars(extend("enum" = ["Feature"]))]
    pub r#type: &'static str,
    /// Null for the whole world.
    pub geometry: Option<MarketArea>,
    pub properties: MarketProperties,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct MarketArea {
    #[schemars(extend("enum" = ["MultiPolygon"]))]
    pub r#type: &'static str,
    /// Polygons of rings of longitude and latitude, the outer ring first.
    pub coordinates: Vec<Vec<Vec<[f64; 2]>>>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct MarketProperties {
    pub market_id: String,
    pub name: String,
    pub time_zone: &'static str,
    pub currency: Currency,
    /// Null where DRIVER_APPROVAL decides.
    #[schemars(extend("enum" = ["auto", "manual", null]))]
    pub driver_approval: Option<&'static str>,
}

/// The map, each list of it bounded.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsMap {
    pub time: At,
    /// South, west, north, east; null for everywhere.
    pub r#box: Option<[f64; 4]>,
    pub positions: Vec<DriverOnMap>,
    pub searches: Vec<OperatorsSearch>,
    pub rides: Vec<RideOnMap>,
    pub truncated: MapTruncated,
    pub unavailable: Unavailable,
}

/// Which lists have more than was asked for.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct MapTruncated {
    pub positions: bool,
    pub searches: bool,
    pub rides: bool,
}

/// A ride of the map has another version, or came to it, or left it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RideOnMapChanged {
    pub ride_id: RideId,
    /// `ended` for a ride that left the map.
    pub status: String,
    /// Null for a ride that left the map.
    pub version: Option<u32>,
    /// Null for a ride that came to it.
    pub previous_status: Option<RideStatus>,
    pub driver_id: UserId,
    pub passenger_id: UserId,
    pub updated_at: Option<At>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Pod {
    #[serde(flatten)]
    pub heartbeat: Heartbeat,
    /// Seconds since its last heartbeat.
    pub last_seen_s: f64,
    /// Null if it did not answer.
    pub status: Option<Status>,
    /// Null if it did not answer.
    pub parts: Option<Vec<PartHealth>>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Pods {
    pub pods: Vec<Pod>,
}

/// Whether what the topology has is on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    Ok,
    Missing,
    /// The server did not say.
    Unknown,
}

/// How a stream stands. What the server says of it is null unless `state` is `ok`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsStream {
    pub name: String,
    pub subjects: Vec<String>,
    pub retention: String,
    pub storage: String,
    pub discard: String,
    pub max_age_s: u64,
    pub max_bytes: i64,
    pub messages: Option<u64>,
    pub bytes: Option<u64>,
    /// Of `max_bytes`: 1 is full.
    pub fill: Option<f64>,
    pub first_sequence: Option<u64>,
    pub last_sequence: Option<u64>,
    pub consumers: Option<u64>,
    pub created_at: Option<At>,
    pub state: Presence,
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsStreams {
    pub streams: Vec<OperatorsStream>,
    /// Between the server and the topology, in words.
    pub differences: Vec<String>,
    pub observed_ago_s: f64,
}

/// How a consumer stands. What the server says of it is null unless `state` is `ok`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsConsumer {
    pub name: String,
    pub stream: String,
    pub subject: String,
    /// Null for the sweeper of dead letters.
    pub service: Option<&'static str>,
    pub pending: Option<u64>,
    pub ack_pending: Option<u64>,
    pub redelivered: Option<u64>,
    /// `pending` and `ack_pending`.
    pub lag: Option<u64>,
    pub ack_floor: Option<u64>,
    pub delivered: Option<u64>,
    pub ack_wait_s: u64,
    pub max_deliver: i64,
    pub max_ack_pending: i64,
    /// People wait for what it does.
    pub fast: bool,
    pub created_at: Option<At>,
    pub state: Presence,
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OperatorsConsumers {
    pub consumers: Vec<OperatorsConsumer>,
    pub observed_ago_s: f64,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Letter {
    pub sequence: u64,
    pub stored_at: At,
    /// As the process wrote it that gave the message up.
    pub failed_at: String,
    pub consumer: String,
    pub stream: String,
    pub stream_sequence: u64,
    pub subject: String,
    pub message_id: String,
    pub deliveries: u64,
    pub reason: String,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct LetterPage {
    /// The newest first.
    pub dead_letters: Vec<Letter>,
    /// Null where only those of one consumer are shown.
    pub total: Option<u64>,
    pub next_cursor: Option<String>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct WholeLetter {
    #[serde(flatten)]
    pub letter: Letter,
    /// Name and value of each.
    pub headers: Vec<(String, String)>,
    /// A body that is not JSON is a string.
    pub body: Value,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct LetterScreen {
    pub dead_letter: WholeLetter,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ActPage {
    /// The newest first. `sequence` is that of the act on ADMIN_STREAM.
    pub acts: Vec<OperatorAct>,
    pub next_cursor: Option<String>,
}
