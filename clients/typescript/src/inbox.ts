/**
 * The events of one mailbox on their way to the handlers: which came, which were handled, and what is missing in between. It knows no
 * socket and no time.
 */
export interface EventFrame {
  readonly type: string;
  readonly seq: number;
  readonly event_id: string;
  /** RFC 3339, by the server's clock. */
  readonly time: string;
  readonly data: unknown;
}

export type Receipt =
  /** It is the next one, and waits for its handlers. */
  | "new"
  /** It came before. */
  | "repeated"
  /** Events before it are missing: resume from `received`. */
  | "gap"
  /** Too many events wait for their handlers: read no more until they are done, then resume from `received`. */
  | "full";

/** The most events that wait for their handlers. */
export const INBOX_MAX = 1_000;

export class Inbox {
  #handled: number | undefined;
  #received: number | undefined;
  readonly #queue: EventFrame[] = [];

  /** `handled`: the newest event whose handlers have run, in this life of the app or an earlier one. */
  constructor(handled?: number) {
    this.#handled = handled;
    this.#received = handled;
  }

  /** The newest event that came, from which a connection resumes. */
  get received(): number | undefined {
    return this.#received;
  }

  /** The newest event whose handlers have run. */
  get handled(): number | undefined {
    return this.#handled;
  }

  get waiting(): number {
    return this.#queue.length;
  }

  receive(event: EventFrame): Receipt {
    if (this.#received !== undefined && event.seq <= this.#received) return "repeated";
    if (this.#received !== undefined && event.seq !== this.#received + 1) return "gap";
    if (this.#queue.length >= INBOX_MAX) return "full";
    this.#received = event.seq;
    this.#queue.push(event);
    return "new";
  }

  /** The oldest event that waits. */
  next(): EventFrame | undefined {
    return this.#queue[0];
  }

  /** The handlers of the oldest event have run. */
  done(): void {
    const event = this.#queue.shift();
    // What was missed behind it is behind us too.
    if (event) this.#handled = this.#queue.length > 0 ? event.seq : this.#received;
  }

  /** The events up to `to` will never come. */
  missed(to: number): void {
    if (this.#received === undefined || to <= this.#received) return;
    this.#received = to;
    if (this.#queue.length === 0) this.#handled = to;
  }

  /** The mailbox begins here: nothing before is of interest, or the server has less than it once had. */
  begin(seq: number): void {
    this.#queue.length = 0;
    this.#handled = seq;
    this.#received = seq;
  }
}
