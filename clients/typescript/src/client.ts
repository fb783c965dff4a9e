import { backoffMs, type Backoff } from "./backoff.js";
import { systemClock, type Clock } from "./clock.js";
import { Dispatcher } from "./dispatcher.js";
import { RideshareError, errorOf, isTransient } from "./errors.js";
import type { Commands, DriverRegistration, Events, Routes, SignedInTokens, State, Welcome } from "./generated.js";
import { Http, type Fetch } from "./http.js";
import { INBOX_MAX, Inbox, type EventFrame } from "./inbox.js";
import { OUTBOX_MAX, Outbox, type Settled } from "./outbox.js";
import { POSITION_LIMITS, Positions, batchData, type BufferedPoint, type PositionLimits } from "./positions.js";
import type { Acks, CommandType, Connection, EventMeta, EventType, LocationPoint, Notices } from "./protocol.js";
import { after } from "./reconnect.js";
import { SignIn } from "./sign_in.js";
import { Socket, type Frame, type SocketEnd, type WebSocketConstructor } from "./socket.js";
import { MemoryStorage, readJson, type Storage } from "./storage.js";

/** Every wait, milliseconds. */
export interface Times {
  /** For the answer to one HTTP request. */
  readonly requestMs: number;
  /** For a connection and its welcome. */
  readonly openMs: number;
  /** For the answer to a frame. */
  readonly answerMs: number;
  /** Silence after which the server is asked for a sign of life. */
  readonly heartbeatMs: number;
  /** For the next of the events that were missed: a connection that brings none of them is given up. */
  readonly resumeMs: number;
  /** For which `ride.arrive` waits for the positions before it, while there is a connection. */
  readonly positionsFirstMs: number;
  /** Between two acks of the mailbox. */
  readonly mailboxAckMs: number;
  /** Between two times that positions are stored: so much of a track is lost if the app dies while it is offline. */
  readonly storePositionsMs: number;
  readonly reconnect: Backoff;
  /** Of HTTP requests, and of commands that the platform cannot execute now. */
  readonly repeat: Backoff;
}

export const TIMES: Times = {
  requestMs: 15_000,
  openMs: 10_000,
  answerMs: 10_000,
  heartbeatMs: 20_000,
  resumeMs: 15_000,
  positionsFirstMs: 15_000,
  mailboxAckMs: 5_000,
  storePositionsMs: 1_000,
  reconnect: { baseMs: 200, maxMs: 30_000 },
  repeat: { baseMs: 300, maxMs: 10_000 },
};

export interface Options {
  /** `https://rides.example`, without a path. */
  readonly url: string;
  /** What must outlive the app. By default memory. */
  readonly storage?: Storage;
  /** Where the tokens are stored, if elsewhere: a keychain. */
  readonly tokenStorage?: Storage;
  /** By default that of the platform: browsers, React Native and Node 22 have one. */
  readonly WebSocket?: WebSocketConstructor;
  readonly fetch?: Fetch;
  readonly clock?: Clock;
  /** The name of this installation, 1 to 64 visible characters. By default a random one, which is stored. */
  readonly device?: string;
  readonly times?: Partial<Times>;
  readonly positionLimits?: PositionLimits;
  readonly outboxMax?: number;
}

/** A code is on its way to the phone. */
export interface Challenge {
  readonly expiresInS: number;
  /** Only from a platform that answers codes, for development. */
  readonly code: string | undefined;
  /**
   * Signs in. After `network` the code may have been used: then the next try is refused with `invalid_code`, and only a new challenge helps.
   *
   * @throws RideshareError
   */
  verify(code: string): Promise<Rideshare>;
}

/** A position as a phone measures it. */
export interface Measured {
  readonly location: { readonly lat: number; readonly lng: number };
  readonly accuracy_m?: number | null;
  readonly speed_mps?: number | null;
  readonly heading_deg?: number | null;
  /** By the phone's clock, which `sent_at` lets the platform correct. By default now. */
  readonly recorded_at?: Date;
}

type Route = keyof Routes;
/** A part of a call that the route has. Without required fields it may be left out. */
type Part<Name extends string, T> = [T] extends [never] ? unknown : Partial<T> extends T ? { readonly [N in Name]?: T } : { readonly [N in Name]: T };

export type CallOptions<R extends Route> = Part<"path", Routes[R]["path"]> &
  Part<"query", Routes[R]["query"]> &
  Part<"body", Routes[R]["body"]> & {
    /** Whether it is repeated also if the first one may have had its effect. By default all but POST are. */
    readonly repeatable?: boolean;
  };
/** Left out if there is nothing that must be said. */
type CallArguments<R extends Route> = Partial<CallOptions<R>> extends CallOptions<R> ? [options?: CallOptions<R>] : [options: CallOptions<R>];

type NoticeType = keyof Notices;
type HandlerOf<T> = T extends NoticeType
  ? (notice: Notices[T]) => void
  : T extends EventType
    ? (data: Events[T], meta: EventMeta) => unknown
    : (event: EventFrame, meta: EventMeta) => unknown;

interface Waiter {
  resolve(ack: unknown): void;
  reject(error: RideshareError): void;
}

/** The most points of one message before a welcome has said it. */
const POINTS_DEFAULT = 100;
/** `mailbox.ack` is sent after so many events at the latest. */
const EVENTS_AN_ACK = 25;
/** A connection that lived for so long, or that brought something, was none in a row of failures. */
const STABLE_MS = 5_000;
const NOTICES: readonly NoticeType[] = ["state", "location.live", "connection", "missed", "handlerFailed", "restored", "positionsLost", "storageFailed"];

/** One person who is signed in. */
export class Rideshare {
  readonly #http: Http;
  readonly #clock: Clock;
  readonly #times: Times;
  readonly #storage: Storage;
  readonly #WebSocket: WebSocketConstructor | undefined;
  readonly #signIn: SignIn;
  readonly #outbox: Outbox;
  readonly #positions: Positions;
  readonly #inbox: Inbox;
  readonly #dispatcher: Dispatcher;
  readonly #waiters = new Map<string, Waiter>();
  readonly #notices = new Map<NoticeType, Set<(notice: any) => void>>();
  /** The newest position before each `ride.arrive` that waits. */
  readonly #positionsFirst = new Map<string, number>();
  /** Those of them that could be sent otherwise, and when the first one is sent although positions wait. */
  readonly #held = new Set<string>();
  #heldUntil = Infinity;
  readonly #device: string;
  readonly #idPrefix: string;
  #lastId = 0;

  #connection: Connection = "closed";
  #running = false;
  #closed = false;
  #socket: Socket | undefined;
  /** The access token by which the socket goes. */
  #socketToken = "";
  /** A command over the present connection was refused because of it. */
  #tokenRefused = false;
  /** Counts the connections; that of `#socket`. */
  #number = 0;
  #welcomedAt = 0;
  /** When the newest event came, or the welcome before the first. */
  #eventAt = 0;
  /** The newest event when the connection began. */
  #resumeTo = 0;
  #receivedSomething = false;
  #failures = 0;
  #share = 1;
  /** Ends the present wait. */
  #wake: (() => void) | undefined;
  #timer: unknown;
  #stateSent = false;
  /** The ride that this person drives. */
  #driving: string | undefined;

  #batchId: string | undefined;
  #batchAt = 0;
  #batchAttempts = 0;
  /** The frames of the library itself whose answers it waits for. */
  readonly #internal = new Map<string, (error: RideshareError | undefined, data: unknown) => void>();
  /** The newest event that the platform knows to be handled, and the newest that was sent as such on this connection. */
  #acked = 0;
  #ackSent = 0;
  #ackedAt = 0;
  #refreshSocketAt: number | undefined;
  #positionsStoredAt = 0;
  #positionsChanged = false;
  /** Writes to the storage, one after the other. */
  #writes: Promise<void> = Promise.resolve();

  /** Begins a sign-in: a code is sent to the phone (E.164, `+12125550123`).
   *
   * @throws RideshareError
   */
  static async signIn(options: Options & { readonly phone: string }): Promise<Challenge> {
    const parts = partsOf(options);
    const { http, clock, tokenStorage } = parts;
    const { phone } = options;
    const answer = (await http.call({ method: "POST", path: "/v1/auth/otp", body: { phone }, repeatable: true, withinMs: 20_000 })) as {
      expires_in_s: number;
      request_id?: string;
      code?: string;
    };
    return {
      expiresInS: answer.expires_in_s,
      code: answer.code,
      verify: async (code) => {
        const body = { phone, code, request_id: answer.request_id };
        const call = { method: "POST", path: "/v1/auth/token", body, repeatable: false, withinMs: 20_000 };
        const tokens = (await http.call(call)) as SignedInTokens;
        return Rideshare.#load(options, parts, await SignIn.begin(http, clock, tokenStorage, tokens));
      },
    };
  }

  /** Goes on with the sign-in of an earlier life of the app; `undefined` if there is none. */
  static async restore(options: Options): Promise<Rideshare | undefined> {
    const parts = partsOf(options);
    const signIn = await SignIn.restore(parts.http, parts.clock, parts.tokenStorage);
    return signIn && Rideshare.#load(options, parts, signIn);
  }

  static async #load(options: Options, parts: Parts, signIn: SignIn): Promise<Rideshare> {
    const { storage, clock } = parts;
    const device = options.device ?? (await storage.get("device")) ?? randomText(clock, 16);
    await storage.set("device", device);
    const of = (key: string) => `${signIn.userId}/${key}`;
    const seq = await readJson<number>(storage, of("seq"));
    const client = new Rideshare(options, parts, signIn, device, typeof seq === "number" ? seq : undefined);
    client.#outbox.restore(await readJson(storage, of("outbox")), clock.now(), clock.monotonic());
    const stored = await readJson<{ chunks?: number[] }>(storage, of("positions"));
    const points: BufferedPoint[] = [];
    for (const chunk of stored?.chunks ?? []) {
      points.push(...((await readJson<BufferedPoint[]>(storage, of(`positions/${chunk}`))) ?? []));
    }
    client.#positions.restore(points);
    for (const id of client.#outbox.ids("ride.arrive")) client.#positionsFirst.set(id, client.#positions.last);
    return client;
  }

  private constructor(options: Options, parts: Parts, signIn: SignIn, device: string, seq: number | undefined) {
    this.#http = parts.http;
    this.#clock = parts.clock;
    this.#times = parts.times;
    this.#storage = parts.storage;
    this.#WebSocket = options.WebSocket ?? (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
    this.#signIn = signIn;
    this.#device = device;
    this.#idPrefix = randomText(parts.clock, 8);
    this.#outbox = new Outbox(options.outboxMax ?? OUTBOX_MAX);
    this.#positions = new Positions(options.positionLimits ?? POSITION_LIMITS);
    this.#inbox = new Inbox(seq);
    this.#acked = seq ?? 0;
    const failed = (event: EventFrame, error: unknown, attempts: number) => this.#notify("handlerFailed", { event, error, attempts });
    this.#dispatcher = new Dispatcher(this.#clock, this.#inbox, (handled) => this.#handled(handled), failed);
    signIn.onEnd = () => this.#signedOut();
    signIn.onStorageFailed = (error) => this.#notify("storageFailed", { error });
  }

  get userId(): string {
    return this.#signIn.userId;
  }

  get connection(): Connection {
    return this.#connection;
  }

  /** Commands without an ack, and positions that the platform does not have yet. */
  get pending(): { readonly commands: number; readonly positions: number } {
    return { commands: this.#outbox.size, positions: this.#positions.size };
  }

  /**
   * Calls `handler` for every event of this type: `*` for all of them. Events come one after the other, in the order of `seq`, each once;
   * the next one waits until the handlers have ended. A handler that fails is called again with the same event, until it succeeds or the app
   * calls `skip`. After a crash of the app an event whose handlers had not ended comes again. Register before `connect()`.
   *
   * Returns a function that removes the handler.
   */
  on<T extends NoticeType | EventType | "*">(type: T, handler: HandlerOf<T>): () => void {
    if ((NOTICES as readonly string[]).includes(type)) {
      const handlers = this.#notices.get(type as NoticeType) ?? new Set();
      this.#notices.set(type as NoticeType, handlers.add(handler as (notice: any) => void));
      return () => handlers.delete(handler as (notice: any) => void);
    }
    const call = handler as (data: unknown, meta: EventMeta) => unknown;
    return this.#dispatcher.on(type, type === "*" ? call : (event, meta) => call(event.data, meta));
  }

  /** The handlers that fail for this event are not called for it again. */
  skip(seq: number): void {
    this.#dispatcher.skip(seq);
  }

  /** Opens a socket, and opens it again whenever it is lost, until `close` or the end of the sign-in. */
  connect(): void {
    if (this.#closed || this.#signIn.ended) return;
    if (!this.#WebSocket) throw new Error("this platform has no WebSocket: pass one in the options");
    if (this.#connection === "displaced") this.#connection = "waiting";
    if (this.#running) return this.wake();
    this.#running = true;
    void this.#run();
  }

  /** The network may be back, or the app is in the foreground again: connects at once instead of at the end of the wait. */
  wake(): void {
    this.#wake?.();
  }

  /**
   * Sends a command, and repeats it until it is acked, over as many connections as that takes, for as long as it has a meaning: `ttlMs` or
   * what `ttlMs()` says. Resolves with the ack's data: then it is durable.
   *
   * @throws RideshareError the platform's refusal by its code, or `expired`, `over`, `outbox_full`, `frame_too_large`, `signed_out`, `closed`
   */
  async send<T extends CommandType>(type: T, data: Commands[T], options: { readonly ttlMs?: number } = {}): Promise<Acks[T]> {
    if (this.#signIn.ended) throw new RideshareError("signed_out", "the sign-in has ended: sign in again");
    if (this.#closed) throw new RideshareError("closed", "the client is closed");
    const id = this.#newId();
    const bytes = byteLength(JSON.stringify({ id, type, data }));
    const most = this.#socket?.welcome?.limits.frame_bytes ?? 64 * 1_024;
    if (bytes > most) throw new RideshareError("frame_too_large", `the command has ${bytes} bytes: at most ${most} are allowed`);
    this.#outbox.push(id, type, data, this.#clock.monotonic(), options.ttlMs);
    if (type === "ride.arrive") this.#positionsFirst.set(id, this.#positions.last);
    const answer = new Promise<unknown>((resolve, reject) => this.#waiters.set(id, { resolve, reject }));
    // It may be refused before it is awaited.
    answer.catch(() => {});
    await this.#storeOutbox();
    this.#outbox.markStored(id);
    this.#pump();
    return (await answer) as Acks[T];
  }

  /** Buffers a position, and sends it as soon as possible. It never fails; `positionsLost` says what the buffer had to leave out. */
  position(measured: Measured): void {
    if (this.#closed || this.#signIn.ended) return;
    const { recorded_at, ...rest } = measured;
    const point: LocationPoint = { ...rest, recorded_at: (recorded_at ?? new Date(this.#clock.now())).toISOString() };
    const left = this.#positions.add(point, this.#driving !== undefined);
    if (left > 0) this.#notify("positionsLost", { count: left, why: "full" });
    this.#positionsChanged = true;
    this.#pump();
  }

  /** Everything that the app's screen shows, from one moment.
   *
   * @throws RideshareError
   */
  async state(): Promise<State> {
    return (await this.#call("GET", "/v1/state", undefined, true)) as State;
  }

  /**
   * Any other route: `call("GET /v1/rides/{id}", { path: { id } })`. A refused token is refreshed, and the call made again.
   *
   * @throws RideshareError
   */
  async call<R extends Route>(route: R, ...given: CallArguments<R>): Promise<Routes[R]["answer"]> {
    const options = (given[0] ?? {}) as { path?: Record<string, string>; query?: Record<string, unknown>; body?: unknown; repeatable?: boolean };
    const [method, template] = route.split(" ") as [string, string];
    const path = template.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(options.path?.[name] ?? ""));
    const whole = path + queryOf(options.query ?? {});
    const repeatable = options.repeatable ?? method !== "POST";
    return (await this.#call(method, whole, options.body, repeatable)) as Routes[R]["answer"];
  }

  /** Registers this person as a driver too; also if an earlier try, whose answer was lost, has done it.
   *
   * @throws RideshareError
   */
  async registerDriver(vehicle: DriverRegistration): Promise<void> {
    try {
      await this.#call("POST", "/v1/drivers", vehicle, true);
    } catch (error) {
      if (!(error instanceof RideshareError && error.code === "already_driver")) throw error;
    }
  }

  /** Ends this sign-in, or with `everywhere` all of this person's, and forgets everything that is stored of it.
   *
   * @throws RideshareError `network` or `unavailable`: then nothing has happened for certain.
   */
  async signOut(options: { readonly everywhere?: boolean } = {}): Promise<void> {
    await this.#signIn.signOut(options.everywhere ?? false);
    await this.#writes;
  }

  /** Closes the socket. What is stored stays: commands and positions go on with `restore`. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#dispatcher.stop();
    this.#storePositions();
    await this.#storeOutbox();
    this.#stop("closed");
    this.#settle(this.#outbox.clear("closed", "the client is closed"));
    await this.#writes;
  }

  // --- connections ---------------------------------------------------------------------------------------------------

  async #run(): Promise<void> {
    await this.#connections();
    this.#running = false;
    // The app asked for one at the last moment.
    if (this.#connection === "waiting") this.connect();
  }

  async #connections(): Promise<void> {
    while (!this.#closed && !this.#signIn.ended) {
      this.#setConnection("connecting");
      let wait: number;
      try {
        wait = await this.#serve(await this.#signIn.token());
      } catch (error) {
        if (this.#signIn.ended) return;
        this.#failures += 1;
        const known = error instanceof RideshareError ? error : new RideshareError("network", String(error), { cause: error });
        wait = Math.max((known.retryAfterS ?? 0) * 1_000, backoffMs(this.#failures - 1, this.#times.reconnect, this.#clock));
        this.#setConnection("waiting", known);
      }
      if (this.#closed || this.#signIn.ended || this.#connection === "displaced") return;
      if (this.#connection !== "waiting") this.#setConnection("waiting");
      await this.#wait(wait);
      // Handlers that are far behind are not given more to do.
      while (this.#inbox.waiting > INBOX_MAX / 2 && !this.#closed) await this.#wait(100);
    }
  }

  /** One connection. Returns how long to wait before the next one, milliseconds. */
  async #serve(token: string): Promise<number> {
    const end = await new Promise<SocketEnd>((resolve) => {
      const query = queryOf({ device: this.#device, last_seq: this.#inbox.received });
      const url = `${this.#http.url.replace(/^http/, "ws")}/v1/ws${query}`;
      this.#number += 1;
      this.#socketToken = token;
      this.#tokenRefused = false;
      this.#receivedSomething = false;
      const events = {
        welcome: (welcome: Welcome) => this.#onWelcome(welcome),
        frame: (frame: Frame) => this.#onFrame(frame),
        end: resolve,
      };
      const WebSocket = this.#WebSocket as WebSocketConstructor;
      this.#socket = new Socket(WebSocket, url, token, this.#clock, this.#times, this.#share, events, () => this.#ackMailbox());
    });
    this.#onEnd();
    if (this.#closed || this.#signIn.ended) return 0;
    const lived = end.welcomed && (this.#receivedSomething || this.#clock.monotonic() - this.#welcomedAt > STABLE_MS);
    this.#failures = lived ? 0 : this.#failures + 1;
    const next = after(end, Math.max(0, this.#failures - 1), this.#times.reconnect, this.#clock);
    if (next.do === "displaced") {
      this.#setConnection("displaced");
      return 0;
    }
    if (next.do === "refresh" || this.#tokenRefused) {
      await this.#signIn.refused(this.#socketToken);
      return lived ? 0 : backoffMs(this.#failures, this.#times.reconnect, this.#clock);
    }
    if (next.slower) this.#share = Math.max(0.1, this.#share / 2);
    // A browser does not say that a handshake was refused, nor why. Asked is after the second failure, the fourth, the eighth …, and after the
    // first one if the token may be an old one.
    const failures = this.#failures;
    const least = this.#signIn.refreshInMs() === undefined ? 1 : 2;
    if (!end.opened && failures >= least && (failures & (failures - 1)) === 0) {
      await this.#http.call({ method: "GET", path: "/v1/me", token, repeatable: false, withinMs: 0 }).catch(async (error: unknown) => {
        if (error instanceof RideshareError && error.status === 401) await this.#signIn.refused(token);
        else throw error;
      });
    }
    return next.ms;
  }

  #onWelcome(welcome: Welcome): void {
    const now = this.#clock.monotonic();
    this.#welcomedAt = now;
    this.#eventAt = now;
    this.#resumeTo = welcome.last_seq;
    const { received } = this.#inbox;
    let why: Notices["state"]["why"] | undefined = this.#stateSent ? undefined : "start";
    if (received === undefined || welcome.last_seq < received) {
      this.#inbox.begin(welcome.last_seq);
      this.#acked = welcome.last_seq;
      this.#write("seq", String(welcome.last_seq));
      if (received !== undefined) why = "reset";
    } else if (welcome.missed) {
      this.#missed(welcome.missed);
      why = "missed";
    }
    const { ride } = welcome.state;
    this.#driving = ride && ride.driver_id === this.userId && ride.status !== "arrived" ? ride.ride_id : undefined;
    if (why) {
      this.#stateSent = true;
      this.#dispatcher.stateSeq = welcome.state.seq;
      this.#notify("state", { state: welcome.state, why });
    }
    // By the server's clock alone.
    const life = Date.parse(welcome.expires_at) - Date.parse(welcome.server_time);
    this.#refreshSocketAt = Number.isFinite(life) ? now + life - Math.min(60_000, life / 5) : undefined;
    this.#outbox.connected(now);
    this.#ackSent = 0;
    this.#batchAt = now;
    this.#batchAttempts = 0;
    this.#setConnection("open");
    this.#pump();
  }

  #onEnd(): void {
    this.#socket = undefined;
    this.#internal.clear();
    this.#clock.clearTimeout(this.#timer);
    this.#settle(this.#outbox.disconnected());
    this.#schedule();
  }

  #stop(connection: Connection): void {
    const socket = this.#socket;
    this.#setConnection(connection);
    this.#clock.clearTimeout(this.#timer);
    socket?.close(1000, "bye");
    this.#wake?.();
  }

  /** Nothing of this person is shown or stored any more, whoever ended the sign-in. */
  #signedOut(): void {
    this.#driving = undefined;
    this.#dispatcher.stop();
    this.#positions.clear();
    this.#storePositions();
    void this.#write("seq", null);
    this.#stop("signed_out");
    this.#settle(this.#outbox.clear("signed_out", "the sign-in has ended: sign in again"));
    void this.#storeOutbox();
  }

  #wait(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = this.#clock.setTimeout(() => done(), ms);
      const done = () => {
        this.#clock.clearTimeout(timer);
        this.#wake = undefined;
        resolve();
      };
      this.#wake = done;
    });
  }

  #setConnection(connection: Connection, error?: RideshareError): void {
    if (this.#connection === connection && !error) return;
    this.#connection = connection;
    this.#notify("connection", { connection, error });
  }

  // --- frames --------------------------------------------------------------------------------------------------------

  #onFrame(frame: Frame): void {
    this.#receivedSomething = true;
    if (typeof frame.seq === "number") this.#onEvent(frame as unknown as EventFrame);
    else if (frame.type === "ack") this.#onAnswer(String(frame.id), undefined, frame.data);
    else if (frame.type === "error" && typeof frame.id === "string") this.#onAnswer(frame.id, errorOf(frame.error), undefined);
    else if (frame.type === "missed") this.#onMissed(frame.data as { from: number; to: number });
    else if (frame.type === "location.live") this.#notify("location.live", frame.data as Notices["location.live"]);
    // Anything else is of a newer platform, or an error that a close follows.
    this.#pump();
  }

  #onEvent(event: EventFrame): void {
    const receipt = this.#inbox.receive(event);
    if (receipt === "gap" || receipt === "full") return this.#socket?.close(4000, `events: ${receipt}`);
    if (receipt === "repeated") return;
    this.#eventAt = this.#clock.monotonic();
    this.#follow(event);
    this.#settle(this.#outbox.onEvent(event, this.#number));
    this.#dispatcher.kick();
  }

  #onMissed(range: { from: number; to: number }): void {
    this.#missed(range);
    this.state().then(
      (state) => {
        this.#dispatcher.stateSeq = state.seq;
        this.#notify("state", { state, why: "missed" });
      },
      // The next connection says it again.
      () => this.#socket?.close(4000, "events are missing, and the state could not be read"),
    );
  }

  #missed(range: { from: number; to: number }): void {
    this.#inbox.missed(range.to);
    this.#notify("missed", range);
  }

  /** Which ride this person drives: positions without one are worth less. */
  #follow({ type, data }: EventFrame): void {
    if (!type.startsWith("ride.")) return;
    const { ride_id, driver_id } = data as { ride_id: string; driver_id: string };
    if (driver_id !== this.userId) return;
    if (type === "ride.pickup") this.#driving = ride_id;
    else if (["ride.arrived", "ride.completed", "ride.cancelled"].includes(type) && this.#driving === ride_id) this.#driving = undefined;
  }

  #onAnswer(id: string, error: RideshareError | undefined, data: unknown): void {
    const internal = this.#internal.get(id);
    if (internal) {
      this.#internal.delete(id);
      return internal(error, data);
    }
    if (!error) return this.#settle([this.#outbox.ack(id, data)]);
    if (error.code === "unauthorized") {
      this.#tokenRefused = true;
      this.#socket?.close(4000, "the access token is refused");
    }
    if (isTransient(error) || error.code === "unauthorized") {
      const wait = backoffMs(this.#outbox.attempts(id) - 1, this.#times.repeat, this.#clock);
      this.#outbox.later(id, this.#clock.monotonic() + Math.max((error.retryAfterS ?? 0) * 1_000, wait));
    } else {
      this.#settle([this.#outbox.refuse(id, error, this.#clock.monotonic())]);
    }
  }

  #settle(settled: readonly (Settled | undefined)[]): void {
    let some = false;
    for (const one of settled) {
      if (!one) continue;
      some = true;
      const { command, outcome } = one;
      this.#positionsFirst.delete(command.id);
      const waiter = this.#waiters.get(command.id);
      this.#waiters.delete(command.id);
      if ("ack" in outcome) waiter?.resolve(outcome.ack);
      else waiter?.reject(outcome.error);
      if (!waiter && command.restored) this.#notify("restored", { type: command.type, data: command.data, ...outcome });
    }
    if (some && !this.#closed) void this.#storeOutbox();
  }

  // --- what is sent --------------------------------------------------------------------------------------------------

  /** Sends what is due, and sets the timer for the rest. */
  #pump(): void {
    const now = this.#clock.monotonic();
    this.#settle(this.#outbox.expire(now));
    if (this.#positionsChanged && now >= this.#positionsStoredAt + this.#times.storePositionsMs) this.#storePositions();
    if (this.#socket?.welcome) {
      this.#sendPositions(now);
      if (!this.#resumed() && now >= this.#eventAt + this.#times.resumeMs) {
        this.#socket.close(4000, "the missed events do not come");
        return;
      }
      let heldUntil = Infinity;
      this.#held.clear();
      for (const command of this.#outbox.due(now, this.#number, this.#resumed())) {
        const barrier = this.#positionsFirst.get(command.id);
        const until = Math.max(this.#welcomedAt, command.beganAt) + this.#times.positionsFirstMs;
        if (barrier !== undefined && now < until && (this.#positions.oldest ?? Infinity) <= barrier) {
          heldUntil = Math.min(heldUntil, until);
          this.#held.add(command.id);
          continue;
        }
        if (!this.#send(command.id, command.type, command.data)) break;
        const repeat = this.#times.answerMs * 2 ** Math.min(command.attempts, 3);
        this.#outbox.sent(command, this.#number, now + repeat / 2 + (this.#clock.random() * repeat) / 2);
      }
      this.#heldUntil = heldUntil;
      this.#refreshSocket(now);
      const unacked = (this.#inbox.handled ?? 0) - Math.max(this.#acked, this.#ackSent);
      if (unacked >= EVENTS_AN_ACK || (unacked > 0 && now >= this.#ackedAt + this.#times.mailboxAckMs)) this.#ackMailbox();
    }
    this.#schedule();
  }

  /** Whether the events that were missed before this connection are here. */
  #resumed(): boolean {
    return (this.#inbox.received ?? 0) >= this.#resumeTo;
  }

  #schedule(): void {
    this.#clock.clearTimeout(this.#timer);
    if (this.#closed || this.#signIn.ended) return;
    const now = this.#clock.monotonic();
    const connected = this.#socket?.welcome !== undefined;
    const at: (number | undefined)[] = [this.#outbox.nextAt(connected ? this.#number : 0, this.#resumed(), this.#held)];
    if (this.#positionsChanged) at.push(this.#positionsStoredAt + this.#times.storePositionsMs);
    if (connected) {
      if (!this.#resumed()) at.push(this.#eventAt + this.#times.resumeMs);
      if (this.#positions.size > 0) at.push(this.#batchAt);
      if (this.#positionsFirst.size > 0) at.push(this.#heldUntil);
      if ((this.#inbox.handled ?? 0) > Math.max(this.#acked, this.#ackSent)) at.push(this.#ackedAt + this.#times.mailboxAckMs);
      at.push(this.#refreshSocketAt);
    }
    const known = at.filter((time): time is number => time !== undefined);
    if (known.length === 0) return;
    // What is due, and cannot be sent now, waits until a frame may be sent. A timer cannot be longer than 24 days.
    const paced = connected ? (this.#socket?.sendInMs() ?? 0) : 0;
    const wait = Math.min(Math.max(Math.min(...known) - now, paced, 5), 2 ** 31 - 1);
    this.#timer = this.#clock.setTimeout(() => this.#pump(), wait);
  }

  /** False if it cannot be sent now. */
  #send(id: string, type: string, data: unknown): boolean {
    if (!this.#socket || this.#socket.sendInMs() > 0) return false;
    return this.#socket.send(JSON.stringify({ id, type, data }));
  }

  #sendPositions(now: number): void {
    if (this.#positions.size === 0 || now < this.#batchAt) return;
    const count = this.#socket?.welcome?.limits.points_per_message ?? POINTS_DEFAULT;
    const batch = this.#positions.batch(count);
    // A repeat is the same points: the platform knows each by the time that the phone gave it.
    this.#batchId ??= this.#newId();
    const id = this.#batchId;
    this.#internal.set(id, (error, data) => this.#onBatch(error, data, batch.length));
    if (!this.#send(id, "location.update", batchData(batch, this.#clock.now()))) return;
    this.#batchAt = now + this.#times.answerMs * 2 ** Math.min(this.#batchAttempts, 3);
    this.#batchAttempts += 1;
  }

  #onBatch(error: RideshareError | undefined, data: unknown, count: number): void {
    const now = this.#clock.monotonic();
    if (error && (isTransient(error) || error.code === "unauthorized")) {
      const wait = backoffMs(this.#batchAttempts, this.#times.repeat, this.#clock);
      this.#batchAt = now + Math.max((error.retryAfterS ?? 0) * 1_000, wait);
      return;
    }
    const refused = error ? count : ((data as { refused?: unknown[] }).refused?.length ?? 0);
    if (refused > 0) this.#notify("positionsLost", { count: refused, why: "refused", ...(error && { error }) });
    this.#positions.done();
    this.#positionsChanged = true;
    this.#batchId = undefined;
    this.#batchAt = now;
    this.#batchAttempts = 0;
  }

  /** Also the question for a sign of life: the platform answers it, and a repeat changes nothing. */
  #ackMailbox(): void {
    const seq = this.#inbox.handled ?? 0;
    const id = this.#newId();
    if (!this.#send(id, "mailbox.ack", { seq })) return;
    this.#ackSent = seq;
    this.#ackedAt = this.#clock.monotonic();
    this.#internal.set(id, (error) => {
      if (error) this.#ackSent = this.#acked;
      else this.#acked = Math.max(this.#acked, seq);
    });
  }

  /** A socket ends with its access token, unless it is given the next one in time. */
  #refreshSocket(now: number): void {
    if (this.#refreshSocketAt === undefined || now < this.#refreshSocketAt) return;
    // Again in a while, if this one does not succeed.
    this.#refreshSocketAt = now + this.#times.answerMs;
    const number = this.#number;
    const present = this.#socketToken;
    this.#signIn
      .token()
      // One of an earlier life of the app, whose age nobody knew, may be the present one still.
      .then((token) => (token === present ? this.#signIn.refused(token) : token))
      .then((token) => {
        if (this.#number !== number) return;
        const id = this.#newId();
        this.#socketToken = token;
        this.#internal.set(id, (error) => {
          if (error) return void this.#signIn.refused(token).catch(() => {});
          const life = this.#signIn.refreshInMs();
          this.#refreshSocketAt = life === undefined ? undefined : this.#clock.monotonic() + life;
        });
        this.#send(id, "auth.refresh", { access_token: token });
      })
      .catch(() => {});
  }

  // --- the rest ------------------------------------------------------------------------------------------------------

  async #call(method: string, path: string, body: unknown, repeatable: boolean): Promise<unknown> {
    const call = { method, path, body, repeatable, withinMs: 2 * this.#times.requestMs };
    const token = await this.#signIn.token();
    try {
      return await this.#http.call({ ...call, token });
    } catch (error) {
      if (!(error instanceof RideshareError && error.status === 401)) throw error;
      return this.#http.call({ ...call, token: await this.#signIn.refused(token) });
    }
  }

  async #handled(seq: number): Promise<void> {
    if (this.#signIn.ended) return;
    await this.#write("seq", String(seq));
    this.#pump();
  }

  #storeOutbox(): Promise<void> {
    return this.#write("outbox", this.#outbox.size > 0 ? this.#outbox.store(this.#clock.now(), this.#clock.monotonic()) : null);
  }

  #storePositions(): void {
    this.#positionsChanged = false;
    this.#positionsStoredAt = this.#clock.monotonic();
    for (const [key, value] of this.#positions.changes()) void this.#write(key, value);
  }

  #write(key: string, value: string | null): Promise<void> {
    const name = `${this.userId}/${key}`;
    this.#writes = this.#writes.then(async () => {
      try {
        await (value === null ? this.#storage.remove(name) : this.#storage.set(name, value));
      } catch (error) {
        this.#notify("storageFailed", { error });
      }
    });
    return this.#writes;
  }

  #newId(): string {
    this.#lastId += 1;
    return `${this.#idPrefix}-${this.#lastId}`;
  }

  #notify<T extends NoticeType>(type: T, notice: Notices[T]): void {
    for (const handler of this.#notices.get(type) ?? []) {
      try {
        handler(notice);
      } catch (error) {
        // As if it were thrown by a timer of the app's own.
        this.#clock.setTimeout(() => {
          throw error;
        }, 0);
      }
    }
  }
}

interface Parts {
  readonly http: Http;
  readonly clock: Clock;
  readonly times: Times;
  readonly storage: Storage;
  readonly tokenStorage: Storage;
}

function partsOf(options: Options): Parts {
  const clock = options.clock ?? systemClock;
  const times = { ...TIMES, ...options.times };
  const storage = options.storage ?? new MemoryStorage();
  const fetch: Fetch = options.fetch ?? ((url, init) => globalThis.fetch(url, init));
  const http = new Http(options.url, fetch, clock, times.requestMs, times.repeat);
  return { http, clock, times, storage, tokenStorage: options.tokenStorage ?? storage };
}

function randomText(clock: Clock, length: number): string {
  const letters = "abcdefghijkmnpqrstuvwxyz23456789";
  return Array.from({ length }, () => letters[Math.floor(clock.random() * letters.length)]).join("");
}

/** React Native has neither a whole URLSearchParams nor, everywhere, a TextEncoder. */
function queryOf(parameters: Record<string, unknown>): string {
  const known = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null);
  const parts = known.map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(String(value))}`);
  return parts.length > 0 ? `?${parts.join("&")}` : "";
}

/** The bytes of a text in UTF-8. */
function byteLength(text: string): number {
  let bytes = 0;
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0;
    bytes += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  }
  return bytes;
}
