import { backoffMs, type Backoff } from "./backoff.js";
import { sleep, type Clock } from "./clock.js";
import type { EventFrame, Inbox } from "./inbox.js";
import type { EventMeta } from "./protocol.js";

export type Handler = (event: EventFrame, meta: EventMeta) => unknown;

/** The waits before a handler that failed is called again: a tenth of a second to half a minute. */
const HANDLER_REPEAT: Backoff = { baseMs: 100, maxMs: 30_000 };

/**
 * Calls the handlers of events: one event after the other in the order of `seq`, each handler until it has succeeded, and those that have
 * not again. Only then is the event handled, and its `seq` stored. There is no limit of time: a handler that never ends holds up all events.
 */
export class Dispatcher {
  readonly #clock: Clock;
  readonly #inbox: Inbox;
  readonly #handlers = new Map<string, Set<Handler>>();
  readonly #stored: (handled: number) => Promise<void>;
  readonly #failed: (event: EventFrame, error: unknown, attempts: number) => void;
  #running = false;
  #stopped = false;
  #skipped: number | undefined;
  /** The newest event that the app's state knows. */
  stateSeq = 0;

  constructor(
    clock: Clock,
    inbox: Inbox,
    stored: (handled: number) => Promise<void>,
    failed: (event: EventFrame, error: unknown, attempts: number) => void,
  ) {
    this.#clock = clock;
    this.#inbox = inbox;
    this.#stored = stored;
    this.#failed = failed;
  }

  /** `type` `*` is every event. */
  on(type: string, handler: Handler): () => void {
    const handlers = this.#handlers.get(type) ?? new Set();
    this.#handlers.set(type, handlers.add(handler));
    return () => handlers.delete(handler);
  }

  /** The handlers that still fail for this event are not called again. */
  skip(seq: number): void {
    this.#skipped = seq;
  }

  stop(): void {
    this.#stopped = true;
  }

  /** There may be an event to handle. */
  kick(): void {
    if (this.#running || this.#stopped) return;
    this.#running = true;
    void this.#run().finally(() => (this.#running = false));
  }

  async #run(): Promise<void> {
    for (let event = this.#inbox.next(); event && !this.#stopped; event = this.#inbox.next()) {
      await this.#handle(event);
      // The inbox may begin anew while a handler runs.
      if (this.#stopped || this.#inbox.next() !== event) continue;
      this.#inbox.done();
      await this.#stored(this.#inbox.handled ?? event.seq);
    }
  }

  async #handle(event: EventFrame): Promise<void> {
    const meta: EventMeta = { seq: event.seq, eventId: event.event_id, time: event.time, inState: event.seq <= this.stateSeq };
    let left = [...(this.#handlers.get(event.type) ?? []), ...(this.#handlers.get("*") ?? [])];
    for (let attempts = 1; left.length > 0 && !this.#stopped; attempts += 1) {
      const failing: Handler[] = [];
      for (const handler of left) {
        try {
          await handler(event, meta);
        } catch (error) {
          failing.push(handler);
          this.#failed(event, error, attempts);
        }
      }
      left = failing;
      if (left.length === 0 || this.#skipped === event.seq) return;
      await sleep(this.#clock, backoffMs(attempts - 1, HANDLER_REPEAT, this.#clock));
      if (this.#skipped === event.seq) return;
    }
  }
}
