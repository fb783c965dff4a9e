/** The protocol as this library uses it, over the types of `generated.ts`. */
import type {
  BeaconAck,
  Commands,
  Events,
  Frames,
  LocationData,
  MailboxAcked,
  OfferAck,
  PositionsAck,
  RefreshAck,
  RideAck,
  SearchAck,
  State,
} from "./generated.js";
import type { RideshareError } from "./errors.js";
import type { EventFrame } from "./inbox.js";

/** What an app sends by `send`. Positions, acks of the mailbox and tokens are sent by the library. */
export type CommandType = Exclude<keyof Commands, "location.update" | "mailbox.ack" | "auth.refresh">;
export type CommandData = Commands[CommandType];

/** The `data` of a command's ack. A command without one here does not compile. */
type AcksOf<T extends Record<keyof Commands, unknown>> = T;
export type Acks = AcksOf<{
  "auth.refresh": RefreshAck;
  "beacon.update": BeaconAck;
  "finder.update": SearchAck;
  "location.update": PositionsAck;
  "mailbox.ack": MailboxAcked;
  "match.accept": OfferAck;
  "match.reject": OfferAck;
  "ride.arrive": RideAck;
  "ride.cancel": RideAck;
  "ride.start": RideAck;
  "ride.wait": RideAck;
}>;

/** A measured position as it is sent, without `sent_at`, which the message has. */
export type LocationPoint = Omit<LocationData, "points" | "sent_at" | "location" | "recorded_at"> & {
  location: NonNullable<LocationData["location"]>;
  recorded_at: string;
};
export type EventType = keyof Events;

/** What comes with an event's data. */
export interface EventMeta {
  /** Counts this user's events, without gaps. */
  readonly seq: number;
  /** The same on every delivery, and in pushes. */
  readonly eventId: string;
  /** RFC 3339, by the server's clock. */
  readonly time: string;
  /** Whether the last `state` that the app was given knows of it already. */
  readonly inState: boolean;
}

/** What an app that has opened, or that missed something, draws its screen from. */
export interface StateUpdate {
  readonly state: State;
  readonly why: "start" | "missed" | "reset";
}

export type Connection =
  | "connecting"
  | "open"
  /** It is lost, and will be opened again by itself. */
  | "waiting"
  /** A newer socket of this user took its place (five are allowed): `connect()` opens one again. */
  | "displaced"
  | "signed_out"
  | "closed";

/** What the library says besides the platform's events. These have no `seq`, and a handler that fails is not called again. */
export interface Notices {
  /** At the first connection of this life of the app, and after events were missed. Events up to `state.seq` are in it. */
  state: StateUpdate;
  /** Where the passenger's driver is: at most once in a while, the newest one counts. */
  "location.live": Frames["location.live"];
  connection: { readonly connection: Connection; readonly error?: RideshareError | undefined };
  /** These events are no longer there; a `state` follows. */
  missed: { readonly from: number; readonly to: number };
  /** A handler failed; it is called again with the same event, in a while. */
  handlerFailed: { readonly event: EventFrame; readonly error: unknown; readonly attempts: number };
  /** A command of an earlier life of the app has its outcome: nobody waits for its promise any more. */
  restored: { readonly type: CommandType; readonly data: CommandData; readonly ack?: unknown; readonly error?: RideshareError };
  /** Points that the bounded buffer left out, or that the platform refused. */
  positionsLost: { readonly count: number; readonly why: "full" | "refused"; readonly error?: RideshareError };
  /** What could not be stored: a failure of the app's `Storage`. */
  storageFailed: { readonly error: unknown };
}
