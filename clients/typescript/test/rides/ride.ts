import WebSocket from "ws";
import { MemoryStorage, Rideshare, RideshareError, isTransient, type EventFrame, type Options, type Times, type WebSocketConstructor } from "../../src/index.js";
import type { Random } from "./random.js";

/** Waits of a phone, made so short that a ride takes seconds. */
export const FAST: Partial<Times> = {
  requestMs: 1_500,
  openMs: 1_500,
  answerMs: 700,
  heartbeatMs: 500,
  resumeMs: 1_000,
  positionsFirstMs: 20_000,
  mailboxAckMs: 200,
  storePositionsMs: 50,
  reconnect: { baseMs: 20, maxMs: 400 },
  repeat: { baseMs: 50, maxMs: 400 },
};

/** For a server whose frames are late by up to 2.5 s. */
export const PATIENT: Partial<Times> = { ...FAST, requestMs: 4_000, openMs: 4_000, answerMs: 3_000, heartbeatMs: 1_500, resumeMs: 4_000 };

export interface Trouble {
  readonly random: Random;
  /** How often a handler fails before it succeeds. */
  readonly handlerFails: number;
  /** How often the app is closed and opened again, at an event. */
  readonly restarts: number;
}

export interface Outcome {
  readonly distanceM: number;
  readonly events: number;
  readonly handlerFailures: number;
  readonly restarts: number;
}

/** One person's app: it survives restarts, and writes down which events its handlers have handled. */
class App {
  readonly storage = new MemoryStorage();
  readonly handled: EventFrame[] = [];
  readonly problems: string[] = [];
  client!: Rideshare;
  handlerFailures = 0;
  restarts = 0;
  #waiters: { readonly is: (event: EventFrame) => boolean; readonly resolve: (event: EventFrame) => void }[] = [];
  #failed = new Set<number>();
  #restarting: Promise<void> | undefined;
  /** What the app does by itself; it is not done again for the same event. */
  react: (event: EventFrame) => void = () => {};

  constructor(
    readonly name: string,
    readonly options: Options,
    readonly trouble: Trouble,
  ) {}

  /** As a person does: with a new code if the old one may have been used. */
  async signIn(phone: string): Promise<void> {
    for (;;) {
      try {
        const challenge = await Rideshare.signIn({ ...this.options, storage: this.storage, phone });
        this.client = await challenge.verify(challenge.code ?? "");
        break;
      } catch (error) {
        if (!(error instanceof RideshareError && (isTransient(error) || error.code === "invalid_code"))) throw error;
      }
    }
    this.#open();
  }

  #open(): void {
    const { client } = this;
    client.on("*", (event) => this.#handle(client, event));
    client.on("positionsLost", (lost) => this.problems.push(`${this.name}: positions lost: ${JSON.stringify(lost)}`));
    client.on("storageFailed", ({ error }) => this.problems.push(`${this.name}: ${String(error)}`));
    client.on("missed", (range) => this.problems.push(`${this.name}: missed ${JSON.stringify(range)}`));
    client.on("connection", ({ connection }) => {
      if (connection === "signed_out" || connection === "displaced") this.problems.push(`${this.name}: ${connection}`);
    });
    client.connect();
  }

  #handle(client: Rideshare, event: EventFrame): void {
    if (client !== this.client) throw new Error("a closed client calls its handlers");
    const { random, handlerFails, restarts } = this.trouble;
    if (!this.#failed.has(event.seq) && random.chance(handlerFails)) {
      this.#failed.add(event.seq);
      this.handlerFailures += 1;
      throw new Error("on purpose");
    }
    this.handled.push(event);
    this.react(event);
    this.#waiters = this.#waiters.filter(({ is, resolve }) => !is(event) || void resolve(event));
    if (random.chance(restarts) && this.restarts < 2) {
      this.restarts += 1;
      // After this handler: an app that is closed inside of one handles the event again.
      setTimeout(() => (this.#restarting = this.#restart()), random.range(0, 200));
    }
  }

  async #restart(): Promise<void> {
    await this.client.close();
    const client = await Rideshare.restore({ ...this.options, storage: this.storage });
    if (!client) throw new Error("the sign-in was not stored");
    this.client = client;
    this.#open();
  }

  async settled(): Promise<void> {
    await this.#restarting;
  }

  event(type: string, is: (data: Record<string, unknown>) => boolean = () => true): Promise<EventFrame> {
    const fits = (event: EventFrame) => event.type === type && is(event.data as Record<string, unknown>);
    const before = this.handled.find(fits);
    return before ? Promise.resolve(before) : new Promise((resolve) => this.#waiters.push({ is: fits, resolve }));
  }

  /** A call that changes nothing, until the network lets it through. */
  async http<T>(run: (client: Rideshare) => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await run(this.client);
      } catch (error) {
        if (!isTransient(error)) throw error;
      }
    }
  }

  /** Sends a command; what was closed with the app goes on after its restart, and is not waited for. */
  async command(run: (client: Rideshare) => Promise<unknown>): Promise<void> {
    for (;;) {
      await this.settled();
      const { client } = this;
      try {
        await run(client);
        return;
      } catch (error) {
        if (error instanceof RideshareError && error.code === "closed") return;
        throw error;
      }
    }
  }
}

const METRE = 1 / 111_195;
const POINTS = 24;
const STEP_M = 83;
const STANDS_MS = 400;

/** A whole ride of two people far away from all others. Throws what was wrong. */
export async function ride(seed: number, url: (who: "driver" | "passenger") => string, trouble: Trouble, times: Partial<Times> = FAST): Promise<Outcome> {
  const options = (who: "driver" | "passenger"): Options => ({ url: url(who), device: who, times, WebSocket: WebSocket as unknown as WebSocketConstructor });
  const driver = new App("driver", options("driver"), trouble);
  const passenger = new App("passenger", options("passenger"), trouble);
  const phone = (n: number) => `+1212${String(2_000_000 + (process.pid % 500) * 10_000 + seed * 2 + n).padStart(7, "0")}`;
  const pickup = { lat: 20 + (seed % 60) * 0.5, lng: -130 + Math.floor(seed / 60) * 0.5 };
  // Round a corner at each point: whoever loses one takes a short cut.
  const eastward = METRE / Math.cos((pickup.lat * Math.PI) / 180);
  const place = (at: number) => ({
    lat: pickup.lat + STEP_M * METRE * Math.ceil(at / 2),
    lng: pickup.lng + STEP_M * eastward * Math.floor(at / 2),
  });
  const dropoff = place(POINTS);
  let over = false;
  let measuring = Promise.resolve();
  try {
    await Promise.all([driver.signIn(phone(0)), passenger.signIn(phone(1))]);
    await driver.http((client) => client.registerDriver({ vehicle_type: "car", plate: `C${process.pid % 1_000}S${seed}` }));

    // An offer may end before a bad network lets the answer through; then another one comes.
    driver.react = ({ type, data }) => {
      if (type !== "match.found") return;
      const { match_id } = data as { match_id: string };
      driver.command((client) => client.send("match.accept", { match_id })).catch((error: unknown) => {
        const { code } = error as RideshareError;
        if (!["over", "expired", "offer_expired", "offer_closed"].includes(code)) driver.problems.push(`match.accept: ${String(error)}`);
      });
    };
    await driver.command((client) => client.send("beacon.update", { active: true, location: pickup }));
    await passenger.command((client) => client.send("finder.update", { active: true, pickup, dropoff, vehicle_type: "car" }));

    const begun = (await passenger.event("ride.pickup")).data as { ride_id: string; pin: string };
    const { ride_id, pin } = begun;
    const own = (data: Record<string, unknown>) => data.ride_id === ride_id;
    await driver.event("ride.pickup", own);
    // A phone measures all the time: at the pickup, on the way, and at the dropoff until the ride is over. The network may be gone for any part.
    let at = 0;
    let step = 0;
    let arrive = () => {};
    const arrives = new Promise<void>((resolve) => (arrive = resolve));
    const measure = async () => {
      while (!over) {
        at = Math.min(at + step, POINTS);
        if (at === POINTS) arrive();
        await driver.settled();
        driver.client.position({ location: place(at), accuracy_m: 5, speed_mps: 14, heading_deg: 0 });
        await new Promise((resolve) => setTimeout(resolve, 60));
      }
    };
    measuring = measure();
    await driver.command((client) => client.send("ride.start", { ride_id, pin }));
    await driver.event("ride.started", own);
    await new Promise((resolve) => setTimeout(resolve, STANDS_MS));
    step = 1;
    await arrives;
    // A vehicle stands after its ride has started and before it has arrived. Here it drives STEP_M in 60 ms, and the platform knows a phone's clock only as well as the
    // network lets it: by what lies in between, an end of the track would seem not to be of the ride.
    await new Promise((resolve) => setTimeout(resolve, STANDS_MS));
    await driver.command((client) => client.send("ride.arrive", { ride_id }));
    const [completed] = await Promise.all([passenger.event("ride.completed", own), driver.event("ride.completed", own)]);
    over = true;
    await measuring;
    await driver.command((client) => client.send("beacon.update", { active: false }));

    await check(driver, passenger, ride_id);
    return {
      distanceM: (completed.data as { distance_m: number }).distance_m,
      events: driver.handled.length + passenger.handled.length,
      handlerFailures: driver.handlerFailures + passenger.handlerFailures,
      restarts: driver.restarts + passenger.restarts,
    };
  } finally {
    over = true;
    await measuring;
    await Promise.all([driver, passenger].map((app) => app.settled().then(() => app.client?.close())));
  }
}

async function check(driver: App, passenger: App, rideId: string): Promise<void> {
  const problems = [...driver.problems, ...passenger.problems];
  const expect = (is: boolean, problem: () => string) => void (is || problems.push(problem()));
  for (const app of [driver, passenger]) {
    await app.settled();
    // The mailbox of a new person begins with its first event.
    const seqs = app.handled.map(({ seq }) => seq);
    const first = seqs[0] ?? 1;
    expect(seqs.every((seq, at) => seq === first + at), () => `${app.name} handled ${seqs.join(",")}: not each event once, in order`);
    expect(new Set(app.handled.map(({ event_id }) => event_id)).size === seqs.length, () => `${app.name}: an event twice`);
    const versions = app.handled.filter(({ type }) => type.startsWith("ride.")).map(({ data }) => (data as { version: number }).version);
    expect(versions.every((version, at) => version === at + 1), () => `${app.name}: versions ${versions.join(",")}`);
    await until(() => app.client.pending.commands === 0 && app.client.pending.positions === 0, `${app.name}: something stays pending`, problems);
    const state = await app.http((client) => client.state());
    expect(!state.search && !state.offer && !state.ride, () => `${app.name}: ${JSON.stringify([state.search, state.offer, state.ride])} is left`);
    expect(state.beacon?.active !== true, () => `${app.name}: the beacon is on`);
    const { rides } = await app.http((client) => client.call("GET /v1/rides"));
    expect(rides.length === 1 && rides[0]?.ride_id === rideId && rides[0].status === "completed", () => `${app.name}: rides ${JSON.stringify(rides)}`);
  }
  const searches = passenger.handled.filter(({ type, data }) => type === "user.finder" && (data as { active: boolean }).active);
  expect(searches.length === 1, () => `${searches.length} searches`);
  if (problems.length > 0) throw new Error(problems.join("\n"));
}

async function until(is: () => boolean, problem: string, problems: string[]): Promise<void> {
  for (let tries = 0; tries < 200; tries += 1) {
    if (is()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  problems.push(problem);
}
