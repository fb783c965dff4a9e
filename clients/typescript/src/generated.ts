// Written by hand until the documents of the binary exist.
export interface Position { lat: number; lng: number }
export interface Money { amount: number; currency: string }
export type VehicleType = "car" | "motorcycle" | "van";
export interface LocationPoint {
  location: Position;
  accuracy_m?: number | null;
  speed_mps?: number | null;
  heading_deg?: number | null;
  recorded_at: string;
}
export interface RideAck { ride_id: string; status: string; version: number }
export interface Commands {
  "beacon.update": { data: { active: boolean; location?: Position }; ack: { active: boolean } };
  "finder.update": {
    data: { active: boolean; pickup?: Position; dropoff?: Position; vehicle_type?: VehicleType; quote_id?: string };
    ack: { request_id: string | null };
  };
  "location.update": { data: { points: LocationPoint[]; sent_at?: string }; ack: { points: number } };
  "match.accept": { data: { match_id: string }; ack: { match_id: string } };
  "match.reject": { data: { match_id: string; reason?: string }; ack: { match_id: string } };
  "ride.wait": { data: { ride_id: string }; ack: RideAck };
  "ride.start": { data: { ride_id: string; pin: string }; ack: RideAck };
  "ride.arrive": { data: { ride_id: string }; ack: RideAck };
  "ride.cancel": { data: { ride_id: string; reason: string; note?: string }; ack: RideAck };
  "mailbox.ack": { data: { seq: number }; ack: { seq: number } };
  "auth.refresh": { data: { access_token: string }; ack: { expires_at: string } };
}
export interface Ride {
  ride_id: string; match_id: string; driver_id: string; passenger_id: string; version: number; status: string;
  pickup: Position; dropoff: Position; vehicle_type: VehicleType; occurred_at: string; pin?: string;
  distance_m?: number; duration_s?: number; fare?: { lines: { name: string; amount: Money }[]; total: Money };
}
export interface Events {
  "user.beacon": { user_id: string; active: boolean };
  "user.finder": { request_id: string; user_id: string; active: boolean };
  "match.found": { match_id: string; request_id: string; driver_id: string; passenger_id: string; expires_at: string; expires_in_s: number };
  "match.accepted": { match_id: string; request_id: string; driver_id: string; passenger_id: string };
  "match.rejected": { match_id: string; request_id: string; reason: string };
  "ride.pickup": Ride;
  "ride.waiting": Ride;
  "ride.started": Ride;
  "ride.arrived": Ride;
  "ride.completed": Ride;
  "ride.cancelled": Ride;
  "location.aggregate": { ride_id: string; distance_m: number; final: boolean };
}
export interface State {
  server_time: string; seq: number; user: { id: string }; search: unknown; offer: unknown;
  ride: (Ride & { status: string }) | null; beacon: unknown; debts: unknown;
}
export interface Welcome {
  user_id: string; session_id: string; last_seq: number; server_time: string; expires_at: string;
  missed?: { from: number; to: number };
  limits: { points_per_message: number; frame_bytes: number; frames_per_s: number; sockets_per_user: number; silence_s: number };
  state: State;
}
export interface LiveLocation { ride_id: string; location: Position; heading_deg: number | null; speed_mps: number | null; recorded_at: string; eta_s: number | null; eta_to: string; stale: boolean }
export interface Tokens { access_token: string; token_type: string; expires_in_s: number; refresh_token: string; user: { id: string } }
export interface Routes {
  "GET /v1/state": { query: never; body: never; answer: State };
}
export type ErrorCode = "unavailable" | "overloaded" | "too_many_requests" | "invalid_field" | "unauthorized" | "invalid_token" | "token_reused" | "invalid_code" | "ride_live" | "offer_closed" | "offer_expired" | "already_driver" | "not_found";
