import type { Clock } from "./clock.js";
import type { Welcome } from "./generated.js";

/** The part of the browsers' WebSocket that is used: theirs, React Native's, that of Node 22, and `ws` have it. */
export interface WebSocketLike {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

export type WebSocketConstructor = new (url: string, protocols?: string[]) => WebSocketLike;

/** Why a socket ended. */
export interface SocketEnd {
  /** The close code; 1006 if the connection was lost, or given up by this side. */
  readonly code: number;
  readonly reason: string;
  /** Whether the handshake succeeded: if not, a browser does not say why. */
  readonly opened: boolean;
  readonly welcomed: boolean;
}

export interface SocketEvents {
  welcome(welcome: Welcome): void;
  frame(frame: Frame): void;
  end(end: SocketEnd): void;
}

/** A frame of the server after the welcome. */
export interface Frame {
  readonly type: string;
  readonly id?: unknown;
  readonly [name: string]: unknown;
}

export interface SocketTimes {
  /** The wait for the welcome, from the beginning. */
  readonly openMs: number;
  /** Silence after which the server is asked for a sign of life. */
  readonly heartbeatMs: number;
  /** The wait for that. */
  readonly answerMs: number;
}

/** The part of the platform's limit of frames that is used: two clocks never run alike. */
const RATE_SHARE = 0.8;

/**
 * One WebSocket from its handshake to its end. A browser shows no pings, so that silence is answered by a question of our own, and a
 * connection that is half open ends within `heartbeatMs + answerMs`, not when TCP finds out.
 */
export class Socket {
  readonly #clock: Clock;
  readonly #times: SocketTimes;
  readonly #events: SocketEvents;
  readonly #socket: WebSocketLike;
  #opened = false;
  #welcome: Welcome | undefined;
  #ended = false;
  #timer: unknown;
  #asked = false;
  /** Frames that may be sent now, and when that was counted. */
  #credit = 10;
  #creditAt: number;
  /** Lowered after the platform found this client too fast. */
  readonly #share: number;

  /** `ask` sends something that the server answers. */
  constructor(
    WebSocket: WebSocketConstructor,
    url: string,
    token: string,
    clock: Clock,
    times: SocketTimes,
    share: number,
    events: SocketEvents,
    private readonly ask: () => void,
  ) {
    this.#clock = clock;
    this.#times = times;
    this.#events = events;
    this.#share = share;
    this.#creditAt = clock.monotonic();
    // Browsers send no headers of their own.
    this.#socket = new WebSocket(url, ["bearer", token]);
    this.#timer = clock.setTimeout(() => this.#lost("no welcome in time"), times.openMs);
    this.#socket.onopen = () => (this.#opened = true);
    this.#socket.onmessage = (event: { data: unknown }) => this.#receive(event.data);
    this.#socket.onerror = () => {};
    this.#socket.onclose = (event: { code?: number; reason?: unknown }) => this.#end(event.code ?? 1006, String(event.reason ?? ""));
  }

  get welcome(): Welcome | undefined {
    return this.#welcome;
  }

  /** Milliseconds until the next frame may be sent; 0 if one may now. */
  sendInMs(): number {
    this.#fill();
    return this.#credit >= 1 ? 0 : Math.ceil(((1 - this.#credit) / this.#perS()) * 1_000);
  }

  /** False if it could not be sent. */
  send(text: string): boolean {
    if (this.#ended || !this.#welcome) return false;
    this.#fill();
    this.#credit -= 1;
    try {
      this.#socket.send(text);
      return true;
    } catch {
      this.#lost("cannot send");
      return false;
    }
  }

  close(code: number, reason: string): void {
    this.#quit(code, reason);
    this.#end(1006, reason);
  }

  #perS(): number {
    return (this.#welcome?.limits.frames_per_s ?? 10) * RATE_SHARE * this.#share;
  }

  #fill(): void {
    const now = this.#clock.monotonic();
    const perS = this.#perS();
    this.#credit = Math.min(perS, this.#credit + ((now - this.#creditAt) / 1_000) * perS);
    this.#creditAt = now;
  }

  #receive(data: unknown): void {
    if (this.#ended) return;
    let frame: Frame;
    try {
      frame = JSON.parse(String(data)) as Frame;
    } catch {
      return this.#lost("a frame that is not JSON");
    }
    this.#asked = false;
    this.#watch();
    if (this.#welcome) return this.#events.frame(frame);
    // An error before the welcome says why the close follows.
    if (frame.type !== "welcome") return;
    this.#welcome = frame.data as Welcome;
    this.#creditAt = this.#clock.monotonic();
    this.#credit = this.#perS();
    this.#events.welcome(this.#welcome);
  }

  #watch(): void {
    this.#clock.clearTimeout(this.#timer);
    if (this.#ended) return;
    const wait = this.#asked ? this.#times.answerMs : this.#times.heartbeatMs;
    this.#timer = this.#clock.setTimeout(() => {
      if (this.#asked || !this.#welcome) return this.#lost("nothing comes any more");
      this.#asked = true;
      this.#watch();
      this.ask();
    }, wait);
  }

  #lost(reason: string): void {
    this.#quit(4000, reason);
    this.#end(1006, reason);
  }

  #quit(code: number, reason: string): void {
    const socket = this.#socket as WebSocketLike & { terminate?: () => void };
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {};
    try {
      // `ws` would wait for the peer's close frame for 30 s.
      if (code === 4000 && socket.terminate) socket.terminate();
      else socket.close(code, reason);
    } catch {
      // It was never open.
    }
  }

  #end(code: number, reason: string): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#clock.clearTimeout(this.#timer);
    this.#events.end({ code, reason, opened: this.#opened, welcomed: this.#welcome !== undefined });
  }
}
