/** The bodies of `/admin/v1`, as this page reads them. */

import type { Money } from "../pure/format";
import type { Place } from "../pure/mercator";

export type Role = "viewer" | "support" | "admin";

export interface Me {
  name: string;
  role: Role;
  /** An address with `{trace_id}` in it. */
  trace_url: string | null;
}

export type RideStatus = "pickup" | "waiting" | "started" | "arrived" | "completed" | "cancelled";

export interface Ride {
  ride_id: string;
  match_id: string;
  driver_id: string;
  passenger_id: string;
  status: RideStatus;
  version: number;
  pickup: Place;
  dropoff: Place;
  vehicle_type: string;
  market_id: string | null;
  created_at: string;
  updated_at: string;
  waiting_at: string | null;
  started_at: string | null;
  arrived_at: string | null;
  cancelled_by: string | null;
  cancel_reason: string | null;
  total: Money | null;
  payment_status: "pending" | "captured" | "refused" | null;
}

export interface FareLine {
  name: string;
  amount: Money;
}

export interface WholeRide extends Ride {
  distance_m: number | null;
  duration_s: number | null;
  fare: { lines: FareLine[]; total: Money; estimated?: boolean } | null;
  platform_fee: Money | null;
  driver_payout: Money | null;
  cancel_fee: Money | null;
  request_id: string | null;
}

export interface RideEvent {
  version: number;
  subject: string;
  occurred_at: string;
  message_id: string;
  hash: string;
  previous_hash: string;
  verifies: boolean;
  body: Record<string, unknown>;
  trace_id?: string | null;
}

export interface Offer {
  match_id: string;
  driver_id: string;
  found_at: string | null;
  /** From the driver to the pickup, when the offer was made. A process of the version before does not say. */
  pickup_distance_m?: number | null;
  pickup_eta_s?: number | null;
  expires_at: string;
  state: "open" | "accepted" | "declined" | "expired" | "closed";
  reason: "declined" | "expired" | "cancelled" | "superseded" | null;
  rejected_at: string | null;
}

/** Why a driver was offered a search, or not; the fields beside `why` depend on it. */
export interface Candidate {
  driver_id: string;
  distance_m: number;
  eta_s: number;
  why: string;
  request_id?: string;
  until?: string;
  times?: number;
  free_in_s?: number | null;
  may_be_waited_for?: boolean;
}

export interface Decision {
  at: string;
  reproduced: boolean;
  policy: string;
  window_ms: number;
  radius_m: number;
  market_id: string;
  rules_version: string;
  request_id: string;
  waited_s: number;
  others_waiting: number;
  outcome: string;
  candidates: Candidate[];
  /** Farther candidates that are not listed. */
  left_out: number;
}

export interface Explanation {
  reproduced: boolean;
  reason: string | null;
  decisions: Decision[];
}

export interface Markets {
  version: string;
  features: {
    geometry: { coordinates: [number, number][][][] } | null;
    properties: { market_id: string; name: string; currency: string; time_zone: string };
  }[];
}

/** What has an id or a phone number that somebody looks for. */
export type Found =
  | { kind: "ride"; ride_id: string }
  | { kind: "match" | "request"; request_id: string; user_id: string }
  | { kind: "user"; user_id: string };

export interface LedgerEntry {
  entry_id: string;
  transaction_id: string;
  kind: string;
  account: string;
  amount: Money;
  at: string;
}

export interface Payment {
  payment_id: string;
  amount: Money;
  status: string;
  reference: string | null;
  created_at: string;
  tried_at: string | null;
  refunded: Money;
}

export interface TrackPoint extends Place {
  at: string;
  accuracy_m: number | null;
  /** False for what is not billed: of another device, or a GPS jump. */
  on_track?: boolean;
}

export interface Track {
  points: TrackPoint[];
  total_points: number;
  distance_m: number | null;
  is_final: boolean;
  /** With what came after the final distance, which was billed. Absent from a server of the version before. */
  late_distance_m?: number | null;
}

export interface Story {
  ride: WholeRide;
  driver: { user_id: string; name: string | null; phone: string; plate: string } | null;
  passenger: { user_id: string; name: string | null; phone: string } | null;
  events: RideEvent[];
  chain: { verifies: boolean; fault: string | null };
  payment: Payment | null;
  ledger: LedgerEntry[];
  refunds: { refund_id: string; amount: Money; reason: string; by: string; at: string }[];
  notes: { note_id: string; text: string; by: string; at: string }[];
  offers: Offer[] | null;
  track: Track | null;
  unavailable: string[];
}

export interface Driver {
  user_id: string;
  name: string | null;
  status: "pending" | "approved" | "suspended";
  suspended_until: string | null;
  reviewed: boolean;
  registered_at: string;
  vehicle_type: string;
  plate: string;
  make: string | null;
  model: string | null;
  color: string | null;
  on_duty: boolean | null;
}

export interface User {
  user_id: string;
  phone: string;
  name: string | null;
  created_at: string;
  driver: Driver | null;
}

export interface Person {
  user: User;
  sign_ins: { id: string; device: string | null; created_at: string; seen_at: string }[];
  sockets: number;
  search: Search | null;
  live_ride_ids: string[];
  debts: { debt_id: string; ride_id: string; amount: Money; since: string }[] | null;
  unavailable: string[];
}

export const DOCUMENT_KINDS = ["licence", "insurance", "registration", "inspection", "other"] as const;

export interface Document {
  kind: (typeof DOCUMENT_KINDS)[number];
  number: string | null;
  expires_on: string;
  expired: boolean;
}

export interface Search {
  request_id: string;
  user_id?: string;
  pickup: Place;
  dropoff: Place;
  vehicle_type: string;
  began_at: string;
  expires_at: string;
}

export interface DriverPosition {
  driver_id: string;
  location: Place;
  heading_deg: number | null;
  speed_mps: number | null;
  recorded_at: string;
  age_s: number;
  vehicle_type: string | null;
  on_duty: boolean;
  ride_id: string | null;
}

export interface LiveRide {
  ride_id: string;
  status: RideStatus;
  version: number;
  driver_id: string;
  passenger_id: string;
  pickup: Place;
  dropoff: Place;
  vehicle_type: string;
  market_id: string | null;
  created_at: string;
  updated_at: string;
}

export interface LiveOffer {
  match_id: string;
  request_id: string;
  driver_id: string;
  expires_at: string;
}

export interface Live {
  box: [number, number, number, number] | null;
  time: string;
  positions: DriverPosition[];
  searches: Search[];
  rides: LiveRide[];
  offers?: LiveOffer[];
  truncated: { positions: boolean; searches: boolean; rides: boolean };
  unavailable: string[];
}

export interface Stream {
  name: string;
  subjects: string[];
  retention: string;
  storage: string;
  discard: string;
  max_age_s: number;
  max_bytes: number;
  messages: number | null;
  bytes: number | null;
  fill: number | null;
  first_sequence: number | null;
  last_sequence: number | null;
  consumers: number | null;
  created_at: string | null;
  state: "ok" | "missing" | "unknown";
  detail: string | null;
}

export interface Streams {
  streams: Stream[];
  differences: string[];
  observed_ago_s: number;
}

export interface Consumer {
  name: string;
  stream: string;
  subject: string;
  service: string;
  pending: number | null;
  ack_pending: number | null;
  redelivered: number | null;
  lag: number | null;
  ack_floor: number | null;
  delivered: number | null;
  ack_wait_s: number;
  max_deliver: number;
  max_ack_pending: number;
  fast: boolean;
  created_at: string | null;
  state: "ok" | "missing" | "unknown";
  detail: string | null;
}

export interface Consumers {
  consumers: Consumer[];
  observed_ago_s: number;
}

export interface DeadLetter {
  sequence: number;
  stored_at: string;
  failed_at: string;
  consumer: string;
  stream: string;
  stream_sequence: number;
  subject: string;
  message_id: string;
  deliveries: number;
  reason: string;
}

export interface WholeDeadLetter extends DeadLetter {
  headers: [string, string][];
  body: unknown;
}

export type PodStatus = "ready" | "degraded" | "not ready";

export interface Pod {
  pod_id: string;
  services: string[];
  time: string;
  uptime_s: number;
  sockets: number;
  subscriptions: number;
  memory_bytes: number | null;
  cpu_percent: number | null;
  last_seen_s: number;
  status: PodStatus | null;
  parts: { name: string; status: PodStatus; detail: string | null }[] | null;
}

export interface Act {
  act_id: string;
  act: string;
  by: string;
  role: string;
  reason: string | null;
  acted_at: string;
  sequence?: number;
  ride_id?: string;
  user_id?: string;
  driver_id?: string;
  payment_id?: string;
  consumer?: string;
  message_id?: string;
  amount?: Money;
  until?: string;
  previous_status?: string;
  found?: number;
}

/** What every act answers. */
export interface Acted {
  act_id: string;
  repeated: boolean;
}
