import type { CommandData, CommandType } from "./protocol.js";
import { RideshareError, type Code } from "./errors.js";
import type { EventFrame } from "./inbox.js";

/** The most commands that wait for an ack. */
export const OUTBOX_MAX = 100;

/**
 * For so long the refusal of a repeat is not believed, milliseconds: the first one may have had its effect, and its event is on the way. A
 * driver may have accepted meanwhile, and a search that is a ride cannot begin.
 */
const REFUSAL_WAIT_MS = 3_000;

/** A command without an ack. */
export interface Pending {
  readonly id: string;
  readonly type: CommandType;
  readonly data: CommandData;
  /** Commands of one key are sent one after the other, each when the one before has its answer. */
  readonly key: string;
  /** Whether an earlier life of the app began it. */
  readonly restored: boolean;
  /** By the monotonic clock: when it began, when its meaning is over, when it is to be sent. */
  readonly beganAt: number;
  readonly expiresAt: number;
  /** Until then it is not sent: it must outlive the app before the platform can have it. */
  stored: boolean;
  sendAt: number;
  attempts: number;
  /** The number of the connection on which it was last sent; 0 if it never was. */
  sentOn: number;
  /** What an event said about it. It counts once the answer cannot come any more. */
  evidence: Outcome | undefined;
  /** A repeat was refused: why, and until when an event may still say that the first one had its effect. */
  refused: { readonly error: RideshareError; readonly until: number } | undefined;
}

export type Outcome = { readonly ack: unknown } | { readonly error: RideshareError };

export interface Settled {
  readonly command: Pending;
  readonly outcome: Outcome;
}

/** A command as it is stored. */
interface Stored {
  id: string;
  type: CommandType;
  data: CommandData;
  began: number;
  expires: number;
  sent: boolean;
}

/**
 * How long a command means what its person meant, milliseconds. Later it is given up with `expired`: nobody wants the vehicle of an hour
 * ago. What ends something is meant for longer.
 */
export function ttlMs(type: CommandType, data: CommandData): number {
  const begins = (data as { active?: boolean }).active === true;
  switch (type) {
    case "finder.update":
      return begins ? 60_000 : 600_000;
    case "beacon.update":
      return begins ? 300_000 : 600_000;
    case "match.accept":
    case "match.reject":
      return 60_000;
    default:
      return 24 * 3_600_000;
  }
}

/**
 * Commands until they are acked. It knows no socket: the caller passes the time, and the number of its connection.
 *
 * The platform recognises a repeat by what it asks for, not by its id. So commands about the same thing go one after the other: otherwise
 * the repeat of a search's beginning could come after its end, and begin another one. And what was sent over a connection that is lost is
 * not repeated before the events since then are here, because they may say that it had its effect, and that the effect is over.
 */
export class Outbox {
  readonly #max: number;
  #pending: Pending[] = [];
  /** Ids of searches that are known already, newest last: their events are no evidence for a later command. */
  readonly #requests: string[] = [];

  constructor(max = OUTBOX_MAX) {
    this.#max = max;
  }

  get size(): number {
    return this.#pending.length;
  }

  ids(type: CommandType): string[] {
    return this.#pending.filter((command) => command.type === type).map(({ id }) => id);
  }

  /**
   * The command is due after `markStored`.
   *
   * @throws RideshareError `outbox_full`
   */
  push(id: string, type: CommandType, data: CommandData, now: number, ttl = ttlMs(type, data)): Pending {
    if (this.#pending.length >= this.#max) {
      throw new RideshareError("outbox_full", `${this.#max} commands wait for an answer already`);
    }
    return this.#insert({ id, type, data }, { beganAt: now, expiresAt: now + ttl, sendAt: now, restored: false, sent: false });
  }

  markStored(id: string): void {
    const command = this.#pending.find((pending) => pending.id === id);
    if (command) command.stored = true;
  }

  /** The commands to be sent now. `resumed`: the events since the last connection are here. */
  due(now: number, connection: number, resumed: boolean): Pending[] {
    const busy = new Set<string>();
    return this.#pending.filter((command) => {
      const waits = !command.stored || busy.has(command.key) || command.refused || (command.attempts > 0 && command.sentOn !== connection && !resumed);
      busy.add(command.key);
      return !waits && command.sendAt <= now;
    });
  }

  /** When `due` or `expire` has something to do next. Those of `held` are due, and wait for something else. */
  nextAt(connection: number, resumed: boolean, held: ReadonlySet<string>): number | undefined {
    const busy = new Set<string>();
    let at: number | undefined;
    for (const command of this.#pending) {
      const again = command.attempts > 0 && command.sentOn !== connection && !resumed;
      const waits = !command.stored || busy.has(command.key) || again || held.has(command.id);
      busy.add(command.key);
      const sendAt = command.refused?.until ?? (waits || connection === 0 ? Infinity : command.sendAt);
      const next = Math.min(sendAt, command.expiresAt);
      at = at === undefined ? next : Math.min(at, next);
    }
    return at;
  }

  sent(command: Pending, connection: number, repeatAt: number): void {
    command.attempts += 1;
    command.sentOn = connection;
    command.sendAt = repeatAt;
  }

  /** `undefined` if no such command waits: its ack came before. */
  ack(id: string, data: unknown): Settled | undefined {
    const command = this.#take(id);
    if (!command) return undefined;
    this.#learn(data);
    return { command, outcome: { ack: data } };
  }

  /** The platform cannot do it now: the same again at `at`. False if no such command waits. */
  later(id: string, at: number): boolean {
    const command = this.#pending.find((pending) => pending.id === id);
    if (command) command.sendAt = at;
    return command !== undefined;
  }

  attempts(id: string): number {
    return this.#pending.find((pending) => pending.id === id)?.attempts ?? 0;
  }

  /** `undefined` also if it is too early to say. */
  refuse(id: string, error: RideshareError, now: number): Settled | undefined {
    const command = this.#pending.find((pending) => pending.id === id);
    if (!command) return undefined;
    if (command.attempts > 1 && !command.evidence) {
      command.refused ??= { error, until: now + REFUSAL_WAIT_MS };
      return undefined;
    }
    this.#take(id);
    return { command, outcome: command.evidence ?? { error } };
  }

  /** What an event says about commands whose answer may be lost. */
  onEvent(event: EventFrame, connection: number): Settled[] {
    for (const command of this.#pending) {
      const evidence = evidenceOf(command, event, this.#requests);
      if (evidence) command.evidence ??= evidence;
    }
    this.#learn(event.data);
    // The answer still comes over the connection on which the command was sent.
    return this.#settle((command) => command.sentOn !== connection || command.refused !== undefined);
  }

  /** The connection is new: every command is to be sent again. */
  connected(now: number): void {
    for (const command of this.#pending) command.sendAt = now;
  }

  disconnected(): Settled[] {
    return this.#settle(() => true);
  }

  expire(now: number): Settled[] {
    const over = this.#pending.filter(({ expiresAt, refused }) => expiresAt <= now || (refused && refused.until <= now));
    return over.map((command) => {
      this.#take(command.id);
      const message = `${command.type} was not acked in time; whether it had its effect is unknown`;
      const error = command.refused?.error ?? new RideshareError("expired", message);
      return { command, outcome: command.evidence ?? { error } };
    });
  }

  /** Gives every command up. */
  clear(code: Code, message: string): Settled[] {
    const all = this.#pending;
    this.#pending = [];
    return all.map((command) => ({ command, outcome: { error: new RideshareError(code, message) } }));
  }

  /** `wall` is the phone's clock, `now` the monotonic one. */
  store(wall: number, now: number): string {
    const stored: Stored[] = this.#pending.map(({ id, type, data, beganAt, expiresAt, attempts }) => {
      return { id, type, data, began: wall - (now - beganAt), expires: wall + (expiresAt - now), sent: attempts > 0 };
    });
    return JSON.stringify(stored);
  }

  /** The commands of an earlier life of the app, before those of this one. */
  restore(stored: unknown, wall: number, now: number): void {
    const newer = this.#pending;
    this.#pending = [];
    for (const { id, type, data, began, expires, sent } of Array.isArray(stored) ? (stored as Stored[]) : []) {
      if (typeof id !== "string" || typeof type !== "string" || this.#pending.length >= this.#max) continue;
      // A clock that was set back makes no command live longer than it would have.
      const expiresAt = now + Math.min(expires - wall, expires - began);
      this.#insert({ id, type, data }, { beganAt: now - Math.max(0, wall - began), expiresAt, sendAt: now, restored: true, sent });
    }
    this.#pending.push(...newer);
  }

  #insert(
    frame: { id: string; type: CommandType; data: CommandData },
    at: { beganAt: number; expiresAt: number; sendAt: number; restored: boolean; sent: boolean },
  ): Pending {
    const { sent, ...times } = at;
    const command: Pending = { ...frame, ...times, stored: times.restored, key: keyOf(frame.type, frame.data), attempts: sent ? 1 : 0, sentOn: 0, evidence: undefined, refused: undefined };
    this.#pending.push(command);
    return command;
  }

  #settle(may: (command: Pending) => boolean): Settled[] {
    const settled: Settled[] = [];
    this.#pending = this.#pending.filter((command) => {
      if (!command.evidence || !may(command)) return true;
      settled.push({ command, outcome: command.evidence });
      return false;
    });
    return settled;
  }

  #take(id: string): Pending | undefined {
    const command = this.#pending.find((pending) => pending.id === id);
    if (command) this.#pending = this.#pending.filter((pending) => pending !== command);
    return command;
  }

  #learn(data: unknown): void {
    const id = (data as { request_id?: unknown } | null | undefined)?.request_id;
    if (typeof id !== "string" || this.#requests.includes(id)) return;
    this.#requests.push(id);
    if (this.#requests.length > 64) this.#requests.shift();
  }
}

function keyOf(type: CommandType, data: CommandData): string {
  const { ride_id, match_id } = data as { ride_id?: string; match_id?: string };
  return ride_id ? `ride ${ride_id}` : match_id ? `match ${match_id}` : type;
}

function over(message: string): Outcome {
  return { error: new RideshareError("over", message) };
}

/** What `event` says about the effect of `command`; `undefined` if nothing. */
export function evidenceOf(command: Pick<Pending, "type" | "data" | "attempts">, event: EventFrame, knownRequests: readonly string[]): Outcome | undefined {
  const wanted = command.data as Record<string, unknown>;
  const seen = (event.data ?? {}) as Record<string, unknown>;
  const same = (name: string) => wanted[name] !== undefined && wanted[name] === seen[name];
  switch (command.type) {
    case "finder.update": {
      // Only a command that was sent can have begun it. A repeated end is harmless: the next beginning waits for its ack.
      if (event.type !== "user.finder" || command.attempts === 0 || wanted.active !== true || seen.active !== true) return undefined;
      const trip = samePlace(wanted.pickup, seen.pickup) && samePlace(wanted.dropoff, seen.dropoff) && same("vehicle_type");
      return trip && !knownRequests.includes(seen.request_id as string) ? { ack: { request_id: seen.request_id } } : undefined;
    }
    case "match.accept":
      if (!same("match_id")) return undefined;
      if (event.type === "match.accepted" || event.type === "ride.pickup") return { ack: { match_id: seen.match_id } };
      return event.type === "match.rejected" ? over(`the offer has ended: ${String(seen.reason)}`) : undefined;
    case "match.reject":
      return same("match_id") && event.type === "match.rejected" ? { ack: { match_id: seen.match_id } } : undefined;
    case "ride.wait":
    case "ride.start":
    case "ride.arrive":
    case "ride.cancel":
      return event.type.startsWith("ride.") && same("ride_id") ? rideEvidence(command.type, event.type, seen) : undefined;
    default:
      return undefined;
  }
}

/** The events of a ride after which a command on it has had its effect. A cancelled ride has had no other. */
const EFFECTS: Record<string, readonly string[]> = {
  "ride.wait": ["ride.waiting"],
  "ride.start": ["ride.started", "ride.arrived", "ride.completed"],
  "ride.arrive": ["ride.arrived", "ride.completed"],
  "ride.cancel": ["ride.cancelled"],
};

function rideEvidence(command: string, event: string, seen: Record<string, unknown>): Outcome | undefined {
  if (EFFECTS[command]?.includes(event)) {
    return { ack: { ride_id: seen.ride_id, status: seen.status, version: seen.version } };
  }
  const ended = event === "ride.cancelled" || event === "ride.completed" || (command === "ride.wait" && event === "ride.started");
  return ended ? over(`the ride is ${event.slice("ride.".length)}`) : undefined;
}

function samePlace(one: unknown, other: unknown): boolean {
  const [a, b] = [one, other] as [{ lat?: number; lng?: number } | undefined, { lat?: number; lng?: number } | undefined];
  const close = (x: number | undefined, y: number | undefined) => x !== undefined && y !== undefined && Math.abs(x - y) < 1e-9;
  return close(a?.lat, b?.lat) && close(a?.lng, b?.lng);
}
