import type { Clock } from "../../src/clock.js";
import type { WebSocketLike } from "../../src/socket.js";

/** Time that goes on only by `advance`, and randomness that is always `random`. */
export class FakeClock implements Clock {
  #now = 0;
  #timers: { at: number; run: () => void }[] = [];
  /** What the phone's clock is ahead of the right one. */
  wrong = 0;
  value = 0.5;

  now(): number {
    return 1_790_000_000_000 + this.#now + this.wrong;
  }

  monotonic(): number {
    return this.#now;
  }

  random(): number {
    return this.value;
  }

  setTimeout(run: () => void, ms: number): unknown {
    const timer = { at: this.#now + Math.max(0, ms), run };
    this.#timers.push(timer);
    return timer;
  }

  clearTimeout(timer: unknown): void {
    this.#timers = this.#timers.filter((other) => other !== timer);
  }

  async advance(ms: number): Promise<void> {
    const until = this.#now + ms;
    for (;;) {
      await settle();
      const next = this.#timers.filter(({ at }) => at <= until).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.#now = Math.max(this.#now, next.at);
      this.clearTimeout(next);
      next.run();
    }
    this.#now = until;
  }
}

/** Everything that waits for no timer has happened. */
export async function settle(): Promise<void> {
  for (let n = 0; n < 500; n += 1) await Promise.resolve();
}

/** The server's end of the sockets that a client opens. */
export class FakeServer {
  readonly sockets: FakeSocket[] = [];
  /** Answers to `METHOD path`, the newest call last in `calls`. */
  readonly answers = new Map<string, () => { status: number; body?: unknown; headers?: Record<string, string> } | "lost">();
  readonly calls: { route: string; body: unknown; token: string | undefined }[] = [];

  readonly WebSocket: new (url: string, protocols?: string[]) => WebSocketLike;

  constructor() {
    const { sockets } = this;
    this.WebSocket = class extends FakeSocket {
      constructor(url: string, protocols?: string[]) {
        super(url, protocols);
        sockets.push(this);
      }
    };
  }

  readonly fetch = async (url: string, init: RequestInit): Promise<Response> => {
    const route = `${init.method} ${new URL(url).pathname}`;
    const headers = init.headers as Record<string, string>;
    const body = init.body === undefined ? undefined : JSON.parse(String(init.body));
    this.calls.push({ route, body, token: headers.authorization?.slice("Bearer ".length) });
    const answer = this.answers.get(route)?.() ?? { status: 404, body: { code: "no_such_route" } };
    if (answer === "lost") throw new TypeError("fetch failed");
    const text = answer.body === undefined ? null : JSON.stringify(answer.body);
    return new Response(text, { status: answer.status, headers: answer.headers ?? {} });
  };

  get socket(): FakeSocket {
    const socket = this.sockets.at(-1);
    if (!socket) throw new Error("no socket was opened");
    return socket;
  }

  count(route: string): number {
    return this.calls.filter((call) => call.route === route).length;
  }
}

export interface Sent {
  id: string;
  type: string;
  data: Record<string, unknown>;
}

export class FakeSocket implements WebSocketLike {
  onopen: ((event: any) => void) | null = null;
  onmessage: ((event: any) => void) | null = null;
  onerror: ((event: any) => void) | null = null;
  onclose: ((event: any) => void) | null = null;
  readonly sent: Sent[] = [];
  closedWith: number | undefined;

  constructor(
    readonly url: string,
    readonly protocols: string[] | undefined,
  ) {}

  get lastSeq(): string | null {
    return new URL(this.url).searchParams.get("last_seq");
  }

  send(text: string): void {
    this.sent.push(JSON.parse(text) as Sent);
  }

  close(code?: number): void {
    this.closedWith = code;
  }

  welcome(data: Record<string, unknown> = {}): void {
    this.onopen?.({});
    const lastSeq = (data.last_seq as number | undefined) ?? 0;
    const state = { server_time: "2026-11-27T00:00:00Z", seq: lastSeq, user: { id: "u1" }, search: null, offer: null, ride: null, beacon: null, debts: null };
    this.frame({
      type: "welcome",
      data: {
        user_id: "u1",
        session_id: "s",
        last_seq: lastSeq,
        server_time: "2026-11-27T00:00:00Z",
        expires_at: "2026-11-27T00:15:00Z",
        limits: { points_per_message: 3, frame_bytes: 65_536, frames_per_s: 50, sockets_per_user: 5, silence_s: 60 },
        state,
        ...data,
      },
    });
  }

  frame(frame: unknown): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  event(seq: number, type: string, data: unknown = {}): void {
    this.frame({ type, seq, event_id: `e${seq}`, time: "2026-11-27T00:00:00Z", data });
  }

  ack(command: Sent | undefined, data: unknown = {}): void {
    this.frame({ type: "ack", id: command?.id, data });
  }

  error(command: Sent | undefined, error: Record<string, unknown>): void {
    this.frame({ type: "error", id: command?.id, error: { message: "", field: null, ...error } });
  }

  end(code: number): void {
    this.onclose?.({ code, reason: "" });
  }

  of(type: string): Sent[] {
    return this.sent.filter((sent) => sent.type === type);
  }
}
