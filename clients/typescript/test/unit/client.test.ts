import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryStorage, Rideshare, RideshareError, type Options } from "../../src/index.js";
import { FakeClock, FakeServer, settle } from "./fake.js";

const tokens = (n: number, expiresInS = 900) => ({
  access_token: `access-${n}`,
  refresh_token: `refresh-${n}`,
  token_type: "Bearer",
  expires_in_s: expiresInS,
  user: { id: "u1" },
});

class World {
  readonly clock = new FakeClock();
  readonly server = new FakeServer();
  readonly storage = new MemoryStorage();
  refreshed = 1;

  constructor() {
    const { answers } = this.server;
    answers.set("POST /v1/auth/otp", () => ({ status: 202, body: { expires_in_s: 300, request_id: "r", code: "123456" } }));
    answers.set("POST /v1/auth/token", () => ({ status: 200, body: tokens(1) }));
    answers.set("POST /v1/auth/refresh", () => ({ status: 200, body: tokens((this.refreshed += 1)) }));
    answers.set("POST /v1/auth/sign-out", () => ({ status: 204 }));
    answers.set("GET /v1/me", () => ({ status: 200, body: {} }));
  }

  get options(): Options {
    const { clock, server, storage } = this;
    return { url: "https://rides.example/", clock, storage, fetch: server.fetch, WebSocket: server.WebSocket };
  }

  async client(options: Partial<Options> = {}): Promise<Rideshare> {
    const challenge = await Rideshare.signIn({ ...this.options, ...options, phone: "+12125550123" });
    return challenge.verify(challenge.code ?? "");
  }

  /** A client with an open socket. */
  async open(options: Partial<Options> = {}): Promise<Rideshare> {
    const client = await this.client(options);
    client.connect();
    await settle();
    this.server.socket.welcome();
    return client;
  }
}

/** The outcome of a promise that may not have one yet. */
function outcome(promise: Promise<unknown>): () => unknown {
  let seen: unknown;
  promise.then(
    (value) => (seen = value),
    (error: unknown) => (seen = error instanceof RideshareError ? error.code : error),
  );
  return () => seen;
}

test("a socket opens with the token, the device and the newest seq", async () => {
  const world = new World();
  const client = await world.client({ device: "phone 1" });
  client.connect();
  await settle();
  const { socket } = world.server;
  assert.equal(socket.url, "wss://rides.example/v1/ws?device=phone%201");
  assert.deepEqual(socket.protocols, ["bearer", "access-1"]);
  socket.welcome({ last_seq: 7 });
  socket.event(8, "ride.started");
  socket.end(1006);
  await world.clock.advance(1_000);
  assert.equal(world.server.sockets.length, 2);
  assert.equal(world.server.socket.lastSeq, "8");
});

test("events reach their handlers once each, in order, and the next waits until they have ended", async () => {
  const world = new World();
  const client = await world.open();
  const seen: unknown[] = [];
  let release = () => {};
  client.on("ride.pickup", async (data, { seq, eventId }) => {
    seen.push([seq, eventId, data]);
    await new Promise<void>((resolve) => (release = resolve));
  });
  client.on("*", ({ seq }) => void seen.push(seq));
  const { socket } = world.server;
  socket.event(1, "ride.pickup", { ride_id: "r" });
  socket.event(2, "ride.started");
  socket.event(1, "ride.pickup", { ride_id: "r" });
  await settle();
  assert.deepEqual(seen, [[1, "e1", { ride_id: "r" }]]);
  assert.equal(await world.storage.get("u1/seq"), "0");
  release();
  await settle();
  assert.deepEqual(seen.slice(1), [1, 2]);
  assert.equal(await world.storage.get("u1/seq"), "2");
});

test("a handler that fails is called again until it succeeds, and no other one", async () => {
  const world = new World();
  const client = await world.open();
  const [calls, failures]: [string[], number[]] = [[], []];
  client.on("ride.pickup", () => void calls.push("good"));
  client.on("ride.pickup", () => {
    calls.push("bad");
    if (calls.length < 4) throw new Error("no disk");
  });
  client.on("ride.started", () => void calls.push("next"));
  client.on("handlerFailed", ({ attempts }) => failures.push(attempts));
  world.server.socket.event(1, "ride.pickup");
  world.server.socket.event(2, "ride.started");
  await settle();
  assert.deepEqual(calls, ["good", "bad"]);
  await world.clock.advance(2_000);
  assert.deepEqual(calls, ["good", "bad", "bad", "bad", "next"]);
  assert.deepEqual(failures, [1, 2]);
});

test("an event that no handler can handle is passed over only when the app says so", async () => {
  const world = new World();
  const client = await world.open();
  let next = 0;
  client.on("ride.pickup", () => Promise.reject(new Error("never")));
  client.on("ride.started", () => void (next += 1));
  client.on("handlerFailed", ({ attempts, event }) => attempts === 20 && client.skip(event.seq));
  world.server.socket.event(1, "ride.pickup");
  world.server.socket.event(2, "ride.started");
  await world.clock.advance(60_000);
  assert.equal(next, 0);
  await world.clock.advance(3_600_000);
  assert.equal(next, 1);
});

test("a gap makes the client resume from the newest event that it has", async () => {
  const world = new World();
  await world.open();
  world.server.socket.event(1, "ride.pickup");
  world.server.socket.event(3, "ride.arrived");
  assert.equal(world.server.socket.closedWith, 4000);
  await world.clock.advance(1_000);
  assert.equal(world.server.socket.lastSeq, "1");
});

test("what is missed is announced with a state, and the events go on", async () => {
  const world = new World();
  const client = await world.open();
  const [notices, seen]: [unknown[], unknown[]] = [[], []];
  client.on("missed", (range) => notices.push(range));
  client.on("state", ({ why, state }) => notices.push([why, state.seq]));
  client.on("*", ({ seq }, { inState }) => void seen.push([seq, inState]));
  world.server.socket.end(1006);
  await world.clock.advance(1_000);
  world.server.socket.welcome({ last_seq: 9, missed: { from: 1, to: 8 } });
  world.server.socket.event(9, "ride.started");
  world.server.socket.event(10, "ride.arrived");
  await settle();
  assert.deepEqual(notices, [{ from: 1, to: 8 }, ["missed", 9]]);
  assert.deepEqual(seen, [[9, true], [10, false]]);
  world.server.answers.set("GET /v1/state", () => ({ status: 200, body: { seq: 12, ride: null } }));
  world.server.socket.frame({ type: "missed", data: { from: 11, to: 12 } });
  world.server.socket.event(13, "user.beacon");
  await settle();
  assert.deepEqual(notices.slice(2), [{ from: 11, to: 12 }, ["missed", 12]]);
  assert.deepEqual(seen.at(-1), [13, false]);
});

test("a mailbox that has less than before begins anew, with its state", async () => {
  const world = new World();
  const client = await world.open();
  const states: string[] = [];
  client.on("state", ({ why }) => states.push(why));
  world.server.socket.event(1, "ride.pickup");
  world.server.socket.event(2, "ride.started");
  world.server.socket.end(1001);
  await world.clock.advance(2_000);
  assert.equal(world.server.socket.lastSeq, "2");
  world.server.socket.welcome({ last_seq: 1 });
  world.server.socket.event(2, "ride.started");
  await settle();
  assert.deepEqual([states, await world.storage.get("u1/seq")], [["reset"], "2"]);
});

test("a command is sent again with its id, on the same connection and on the next, until it is acked", async () => {
  const world = new World();
  const client = await world.open();
  const sent = outcome(client.send("ride.start", { ride_id: "r", pin: "1234" }));
  await settle();
  const [first] = world.server.socket.of("ride.start");
  await world.clock.advance(10_001);
  assert.deepEqual(world.server.socket.of("ride.start"), [first, first]);
  world.server.socket.end(1006);
  await world.clock.advance(1_000);
  world.server.socket.welcome();
  assert.deepEqual(world.server.socket.of("ride.start"), [first]);
  world.server.socket.ack(first, { ride_id: "r", status: "started", version: 2 });
  await settle();
  assert.deepEqual(sent(), { ride_id: "r", status: "started", version: 2 });
  assert.deepEqual([client.pending.commands, await world.storage.get("u1/outbox")], [0, undefined]);
});

test("a refusal ends a command, and what is not possible now is sent again", async () => {
  const world = new World();
  const client = await world.open();
  const refused = outcome(client.send("ride.arrive", { ride_id: "r" }));
  const busy = outcome(client.send("beacon.update", { active: true, location: { lat: 1, lng: 1 } }));
  await settle();
  world.server.socket.error(world.server.socket.of("ride.arrive")[0], { code: "ride_not_started" });
  world.server.socket.error(world.server.socket.of("beacon.update")[0], { code: "too_many_requests", retry_after_s: 7 });
  await world.clock.advance(6_900);
  assert.deepEqual([refused(), busy(), world.server.socket.of("beacon.update").length], ["ride_not_started", undefined, 1]);
  await world.clock.advance(200);
  world.server.socket.ack(world.server.socket.of("beacon.update")[1], { active: true });
  await settle();
  assert.deepEqual(busy(), { active: true });
});

test("what was sent before is repeated once the missed events are here, unless they say that it is done", async () => {
  const world = new World();
  const client = await world.open();
  const trip = { pickup: { lat: 1, lng: 2 }, dropoff: { lat: 3, lng: 4 }, vehicle_type: "car" as const };
  const search = outcome(client.send("finder.update", { active: true, ...trip }));
  const arrive = outcome(client.send("ride.arrive", { ride_id: "r" }));
  await settle();
  world.server.socket.end(1006);
  await world.clock.advance(1_000);
  world.server.socket.welcome({ last_seq: 3 });
  await settle();
  assert.deepEqual(world.server.socket.sent, []);
  world.server.socket.event(1, "user.finder", { request_id: "q", active: true, ...trip });
  world.server.socket.event(2, "user.finder", { request_id: "q", active: false });
  world.server.socket.event(3, "user.beacon");
  await settle();
  assert.deepEqual(world.server.socket.sent.map(({ type }) => type), ["ride.arrive"]);
  assert.deepEqual([search(), arrive()], [{ request_id: "q" }, undefined]);
});

test("a connection that does not bring the missed events is given up, and nothing is repeated on it", async () => {
  const world = new World();
  const client = await world.open({ times: { heartbeatMs: 3_600_000 } });
  void client.send("ride.arrive", { ride_id: "r" });
  await settle();
  world.server.socket.end(1006);
  await world.clock.advance(1_000);
  world.server.socket.welcome({ last_seq: 3 });
  await world.clock.advance(14_000);
  world.server.socket.event(1, "user.beacon");
  await world.clock.advance(14_000);
  assert.deepEqual([world.server.sockets.length, world.server.socket.of("ride.arrive")], [2, []]);
  await world.clock.advance(2_000);
  assert.deepEqual([world.server.sockets.length, world.server.socket.lastSeq], [3, "1"]);
});

test("a repeat that is refused because the first one had its effect is no failure", async () => {
  const world = new World();
  const client = await world.open();
  const started = outcome(client.send("ride.start", { ride_id: "r", pin: "1" }));
  await world.clock.advance(11_000);
  assert.equal(world.server.socket.of("ride.start").length, 2);
  world.server.socket.event(1, "ride.started", { ride_id: "r", status: "started", version: 2 });
  world.server.socket.error(world.server.socket.of("ride.start")[1], { code: "ride_arrived" });
  await settle();
  assert.deepEqual(started(), { ride_id: "r", status: "started", version: 2 });
});

test("the refusal of a repeat is believed only when no event explains it", async () => {
  const world = new World();
  const client = await world.open();
  const trip = { pickup: { lat: 1, lng: 2 }, dropoff: { lat: 3, lng: 4 }, vehicle_type: "car" as const };
  const search = outcome(client.send("finder.update", { active: true, ...trip }));
  const arrive = outcome(client.send("ride.arrive", { ride_id: "r" }));
  await settle();
  world.server.socket.end(1006);
  await world.clock.advance(1_000);
  world.server.socket.welcome();
  world.server.socket.error(world.server.socket.of("finder.update")[0], { code: "ride_live" });
  world.server.socket.error(world.server.socket.of("ride.arrive")[0], { code: "ride_ended" });
  await world.clock.advance(2_000);
  assert.deepEqual([search(), arrive()], [undefined, undefined]);
  world.server.socket.event(1, "user.finder", { request_id: "q", active: true, ...trip });
  await settle();
  assert.deepEqual([search(), arrive()], [{ request_id: "q" }, undefined]);
  await world.clock.advance(1_100);
  assert.deepEqual([arrive(), world.server.socket.of("ride.arrive").length], ["ride_ended", 1]);
});

test("what waits does not keep the phone awake", async () => {
  const world = new World();
  const client = await world.open({ times: { heartbeatMs: 3_600_000, answerMs: 3_600_000 } });
  let timers = 0;
  const { setTimeout } = world.clock;
  world.clock.setTimeout = (run, ms) => {
    timers += 1;
    return setTimeout.call(world.clock, run, ms);
  };
  client.position({ location: { lat: 1, lng: 1 } });
  void client.send("ride.arrive", { ride_id: "r" });
  await world.clock.advance(14_000);
  assert.ok(timers < 20, `${timers} timers`);
});

test("a frame that is too large is not sent, nor one too many", async () => {
  const world = new World();
  const client = await world.open({ outboxMax: 1 });
  const large = client.send("ride.cancel", { ride_id: "r", reason: "x".repeat(70_000) });
  await assert.rejects(large, { code: "frame_too_large" });
  await assert.rejects(client.send("ride.cancel", { ride_id: "r", reason: "😀".repeat(16_384) }), { code: "frame_too_large" });
  void client.send("ride.arrive", { ride_id: "r" });
  await assert.rejects(client.send("ride.arrive", { ride_id: "s" }), { code: "outbox_full" });
});

test("no more frames are sent than the platform allows", async () => {
  const world = new World();
  const client = await world.open();
  for (let n = 0; n < 90; n += 1) void client.send("ride.wait", { ride_id: `r${n}` });
  await settle();
  assert.equal(world.server.socket.sent.length, 40);
  await world.clock.advance(1_000);
  assert.ok(Math.abs(world.server.socket.sent.length - 80) <= 1, `${world.server.socket.sent.length}`);
});

test("positions are sent in batches with the phone's clock, one at a time, until each is acked", async () => {
  const world = new World();
  const client = await world.client();
  world.clock.wrong = -600_000;
  for (let n = 0; n < 5; n += 1) {
    client.position({ location: { lat: n, lng: 0 }, accuracy_m: 5 });
    await world.clock.advance(1_000);
  }
  client.connect();
  await settle();
  world.server.socket.welcome();
  const points = (n: number) => (world.server.socket.of("location.update")[n]?.data.points as { location: { lat: number } }[]).map(({ location }) => location.lat);
  assert.deepEqual(points(0), [0, 1, 2]);
  const [batch] = world.server.socket.of("location.update");
  assert.equal(Date.parse(batch?.data.sent_at as string) - Date.parse((batch?.data.points as { recorded_at: string }[])[0]?.recorded_at ?? ""), 5_000);
  client.position({ location: { lat: 9, lng: 0 } });
  await world.clock.advance(10_000);
  assert.deepEqual([points(1), world.server.socket.of("location.update")[1]?.id], [[0, 1, 2], batch?.id]);
  world.server.socket.ack(batch, { points: 3 });
  await settle();
  assert.deepEqual(points(2), [3, 4, 9]);
  world.server.socket.ack(world.server.socket.of("location.update")[2], { points: 2, refused: [{ index: 1, field: "recorded_at", message: "" }] });
  await settle();
  assert.deepEqual(client.pending.positions, 0);
});

test("the arrival is sent after the positions before it, but does not wait for ever", async () => {
  const world = new World();
  const client = await world.open();
  client.position({ location: { lat: 1, lng: 1 } });
  void client.send("ride.arrive", { ride_id: "r" });
  client.position({ location: { lat: 2, lng: 1 } });
  await settle();
  assert.deepEqual(world.server.socket.of("ride.arrive"), []);
  world.server.socket.ack(world.server.socket.of("location.update")[0], { points: 1 });
  await settle();
  assert.equal(world.server.socket.of("ride.arrive").length, 1);
  const stuck = new World();
  const other = await stuck.open({ times: { heartbeatMs: 3_600_000 } });
  await stuck.clock.advance(60_000);
  other.position({ location: { lat: 1, lng: 1 } });
  void other.send("ride.arrive", { ride_id: "r" });
  await stuck.clock.advance(14_000);
  assert.deepEqual(stuck.server.socket.of("ride.arrive"), []);
  await stuck.clock.advance(1_000);
  assert.equal(stuck.server.socket.of("ride.arrive").length, 1);
});

test("points of a ride are worth more than those of a driver who waits", async () => {
  const world = new World();
  const client = await world.open({ positionLimits: { max: 4, withoutRideMax: 2 } });
  const lost: unknown[] = [];
  client.on("positionsLost", ({ count, why }) => lost.push([count, why]));
  world.server.socket.event(1, "ride.pickup", { ride_id: "r", driver_id: "u1" });
  world.server.socket.end(1006);
  for (let n = 0; n < 4; n += 1) client.position({ location: { lat: n, lng: 0 } });
  assert.deepEqual(lost, []);
  await world.clock.advance(1_000);
  world.server.socket.welcome({ last_seq: 2 });
  world.server.socket.event(2, "ride.arrived", { ride_id: "r", driver_id: "u1" });
  client.position({ location: { lat: 9, lng: 0 } });
  assert.deepEqual(lost, [[1, "full"]]);
});

test("one refresh at a time, in time, and the socket goes on with the new token", async () => {
  const world = new World();
  const client = await world.open({ times: { heartbeatMs: 3_600_000 } });
  await world.clock.advance(839_000);
  assert.equal(world.refreshed, 1);
  world.server.answers.set("GET /v1/state", () => ({ status: 200, body: { seq: 0 } }));
  await Promise.all([world.clock.advance(2_000), client.state(), client.state()]);
  await world.clock.advance(100);
  assert.equal(world.server.count("POST /v1/auth/refresh"), 1);
  assert.deepEqual(world.server.socket.of("auth.refresh").map(({ data }) => data), [{ access_token: "access-2" }]);
  assert.equal(world.server.sockets.length, 1);
});

test("a refused token is refreshed once, and the call made again", async () => {
  const world = new World();
  const client = await world.client();
  world.server.answers.set("GET /v1/state", () => {
    const ok = world.server.calls.at(-1)?.token === "access-2";
    return ok ? { status: 200, body: { seq: 1 } } : { status: 401, body: { code: "unauthorized" } };
  });
  const states = await Promise.all([client.state(), client.state(), client.state()]);
  assert.deepEqual([states.length, world.server.count("POST /v1/auth/refresh"), world.server.count("GET /v1/state")], [3, 1, 6]);
});

test("a lost answer to a refresh is asked for again with the same token", async () => {
  const world = new World();
  const client = await world.open();
  let lost = 2;
  world.server.answers.set("POST /v1/auth/refresh", () => ((lost -= 1) >= 0 ? "lost" : { status: 200, body: tokens(2) }));
  world.server.socket.end(4001);
  await world.clock.advance(5_000);
  const refreshes = world.server.calls.filter(({ route }) => route === "POST /v1/auth/refresh").map(({ body }) => body);
  assert.deepEqual(refreshes, Array(3).fill({ refresh_token: "refresh-1" }));
  assert.deepEqual(world.server.socket.protocols, ["bearer", "access-2"]);
  assert.equal(client.connection, "connecting");
});

test("the end of the sign-in ends everything, and says so", async () => {
  const world = new World();
  const client = await world.open();
  const connections: string[] = [];
  client.on("connection", ({ connection }) => connections.push(connection));
  const command = outcome(client.send("ride.arrive", { ride_id: "r" }));
  world.server.answers.set("POST /v1/auth/refresh", () => ({ status: 401, body: { code: "token_reused" } }));
  world.server.socket.end(4001);
  await world.clock.advance(60_000);
  assert.deepEqual([connections, command(), world.server.sockets.length], [["signed_out"], "signed_out", 1]);
  assert.equal(await Rideshare.restore(world.options), undefined);
  await assert.rejects(client.send("ride.arrive", { ride_id: "r" }), { code: "signed_out" });
  await assert.rejects(client.state(), { code: "signed_out" });
});

test("a command that is refused for the token goes on with the next one", async () => {
  const world = new World();
  const client = await world.open();
  void client.send("ride.arrive", { ride_id: "r" });
  await settle();
  world.server.socket.error(world.server.socket.of("ride.arrive")[0], { code: "unauthorized" });
  await world.clock.advance(1_000);
  assert.deepEqual([world.server.sockets.length, world.server.socket.protocols], [2, ["bearer", "access-2"]]);
  world.server.socket.welcome();
  assert.equal(world.server.socket.of("ride.arrive").length, 1);
});

test("another tab's refresh is taken over, and not taken for a stolen token", async () => {
  const world = new World();
  const client = await world.open();
  await world.storage.set("sign_in", JSON.stringify({ user_id: "u1", access_token: "access-9", refresh_token: "refresh-9" }));
  world.server.socket.end(4001);
  await world.clock.advance(1_000);
  assert.equal(world.server.count("POST /v1/auth/refresh"), 0);
  assert.deepEqual(world.server.socket.protocols, ["bearer", "access-9"]);
  await client.close();
});

test("a displaced client connects again only when the app says so", async () => {
  const world = new World();
  const client = await world.open();
  world.server.socket.end(4010);
  await world.clock.advance(3_600_000);
  assert.deepEqual([client.connection, world.server.sockets.length], ["displaced", 1]);
  client.connect();
  await settle();
  assert.equal(world.server.sockets.length, 2);
  // Also from inside of the notice.
  client.on("connection", ({ connection }) => connection === "displaced" && client.connect());
  world.server.socket.welcome();
  world.server.socket.end(4010);
  await world.clock.advance(1_000);
  assert.equal(world.server.sockets.length, 3);
});

test("silence is asked about, and a connection that does not answer is given up", async () => {
  const world = new World();
  await world.open();
  await world.clock.advance(20_000);
  assert.deepEqual(world.server.socket.sent.map(({ type }) => type), ["mailbox.ack"]);
  world.server.socket.ack(world.server.socket.sent[0], { seq: 0 });
  await world.clock.advance(29_999);
  assert.equal(world.server.sockets.length, 1);
  await world.clock.advance(1_000);
  assert.deepEqual([world.server.sockets[0]?.closedWith, world.server.sockets.length], [4000, 2]);
});

test("a connection without a welcome is given up, with longer and longer waits", async () => {
  const world = new World();
  const client = await world.client();
  client.connect();
  await world.clock.advance(10_001);
  assert.equal(world.server.sockets[0]?.closedWith, 4000);
  await world.clock.advance(600_000);
  const count = world.server.sockets.length;
  assert.ok(count > 10 && count < 30, `${count}`);
  client.wake();
  await settle();
  assert.ok(world.server.sockets.length - count <= 1);
});

test("a handshake that fails is asked about: the token, and how long to wait", async () => {
  const world = new World();
  const client = await world.client();
  world.server.answers.set("GET /v1/me", () => ({ status: 503, body: { code: "unavailable" }, headers: { "retry-after": "30" } }));
  client.connect();
  await settle();
  world.server.socket.end(1006);
  await world.clock.advance(1_000);
  world.server.socket.end(1006);
  await world.clock.advance(29_000);
  assert.equal(world.server.sockets.length, 2);
  await world.clock.advance(2_000);
  assert.equal(world.server.sockets.length, 3);
  world.server.answers.set("GET /v1/me", () => ({ status: 401, body: { code: "unauthorized" } }));
  world.server.socket.end(1006);
  await world.clock.advance(2_000);
  assert.deepEqual(world.server.socket.protocols, ["bearer", "access-2"]);
});

test("events are acked after their handlers, now and then", async () => {
  const world = new World();
  await world.open();
  for (let seq = 1; seq <= 30; seq += 1) world.server.socket.event(seq, "user.beacon");
  await world.clock.advance(1);
  const acks = () => world.server.socket.of("mailbox.ack").map(({ data }) => data.seq as number);
  assert.deepEqual(acks().length, 1);
  world.server.socket.ack(world.server.socket.of("mailbox.ack")[0], { seq: acks()[0] });
  await world.clock.advance(5_000);
  assert.equal(acks().at(-1), 30);
});

test("an app that is opened again goes on where it was", async () => {
  const world = new World();
  const client = await world.open();
  world.server.socket.event(1, "ride.pickup", { ride_id: "r", driver_id: "u1" });
  await settle();
  const closed = outcome(client.send("ride.start", { ride_id: "r", pin: "1" }));
  client.position({ location: { lat: 1, lng: 1 } });
  await settle();
  await client.close();
  assert.equal(closed(), "closed");
  const again = await Rideshare.restore(world.options);
  assert.ok(again);
  const [seen, restored]: [unknown[], unknown[]] = [[], []];
  again.on("state", ({ why }) => seen.push(why));
  again.on("*", ({ seq }) => void seen.push(seq));
  again.on("restored", ({ type, ack }) => restored.push([type, ack]));
  assert.deepEqual(again.pending, { commands: 1, positions: 1 });
  again.connect();
  await settle();
  const { socket } = world.server;
  assert.equal(socket.lastSeq, "1");
  assert.equal(new URL(socket.url).searchParams.get("device"), new URL(world.server.sockets[0]?.url ?? "").searchParams.get("device"));
  socket.welcome({ last_seq: 2 });
  socket.event(2, "ride.waiting", { ride_id: "r", driver_id: "u1" });
  socket.ack(socket.of("location.update")[0], { points: 1 });
  await settle();
  socket.ack(socket.of("ride.start")[0], { ride_id: "r" });
  await settle();
  assert.deepEqual([seen, restored], [["start", 2], [["ride.start", { ride_id: "r" }]]]);
  assert.deepEqual(again.pending, { commands: 0, positions: 0 });
});

test("signing out forgets the person", async () => {
  const world = new World();
  const client = await world.open();
  world.server.socket.event(1, "ride.pickup");
  client.position({ location: { lat: 1, lng: 1 } });
  await world.clock.advance(2_000);
  await client.signOut({ everywhere: true });
  assert.deepEqual(world.server.calls.at(-1)?.body, { everywhere: true });
  for (const key of ["sign_in", "u1/seq", "u1/outbox", "u1/positions", "u1/positions/0"]) assert.equal(await world.storage.get(key), undefined, key);
  assert.equal(client.connection, "signed_out");
});

test("a sign-in that ended elsewhere leaves nothing of the person either, and calls no handler any more", async () => {
  const world = new World();
  const client = await world.open();
  const seen: number[] = [];
  let release = () => {};
  client.on("*", async ({ seq }) => {
    seen.push(seq);
    await new Promise<void>((resolve) => (release = resolve));
  });
  for (const seq of [1, 2, 3]) world.server.socket.event(seq, "user.beacon");
  client.position({ location: { lat: 1, lng: 1 } });
  await world.clock.advance(2_000);
  world.server.answers.set("POST /v1/auth/refresh", () => ({ status: 401, body: { code: "token_reused" } }));
  world.server.socket.end(4001);
  await world.clock.advance(1_000);
  assert.equal(client.connection, "signed_out");
  release();
  await settle();
  assert.deepEqual(seen, [1]);
  for (const key of ["sign_in", "u1/seq", "u1/outbox", "u1/positions", "u1/positions/0"]) assert.equal(await world.storage.get(key), undefined, key);
});

test("a code may have been used by a try whose answer was lost, here or at a gateway", async () => {
  for (const [answer, code] of [["lost", "network"], [{ status: 503, body: { code: "unavailable" } }, "unavailable"]] as const) {
    const world = new World();
    world.server.answers.set("POST /v1/auth/token", () => answer);
    const challenge = await Rideshare.signIn({ ...world.options, phone: "+12125550123" });
    await assert.rejects(challenge.verify("123456"), { code });
    assert.equal(world.server.count("POST /v1/auth/token"), 1);
  }
});

test("what the platform surely has not done is asked again, whatever it is", async () => {
  const world = new World();
  const client = await world.client();
  let refusals = 1;
  world.server.answers.set("POST /v1/rides/r/rating", () =>
    (refusals -= 1) >= 0 ? { status: 429, body: { code: "too_many_requests" }, headers: { "retry-after": "1" } } : { status: 201, body: {} },
  );
  const rating = outcome(client.call("POST /v1/rides/{id}/rating", { path: { id: "r" }, body: { stars: 5 } } as never));
  await world.clock.advance(2_000);
  assert.deepEqual([rating(), world.server.count("POST /v1/rides/r/rating")], [{}, 2]);
});

test("tokens that the storage does not take are used all the same, and stored later", async () => {
  const world = new World();
  const client = await world.open();
  const failures: unknown[] = [];
  client.on("storageFailed", ({ error }) => failures.push(error));
  const set = world.storage.set.bind(world.storage);
  world.storage.set = () => {
    throw new Error("full");
  };
  world.server.socket.end(4001);
  await world.clock.advance(1_000);
  assert.deepEqual([client.connection, world.server.socket.protocols], ["connecting", ["bearer", "access-2"]]);
  assert.ok(failures.length > 0);
  world.storage.set = set;
  // The next refresh is by the token that only this app has: the older one in the storage is no other tab's.
  world.server.socket.end(4001);
  await world.clock.advance(1_000);
  assert.deepEqual(world.server.calls.at(-1)?.body, { refresh_token: "refresh-2" });
  assert.match((await world.storage.get("sign_in")) ?? "", /refresh-3/);
});

test("a sign-in ends for the app although its tokens cannot be removed", async () => {
  const world = new World();
  const client = await world.open();
  const sent = outcome(client.send("ride.wait", { ride_id: "r" }));
  world.storage.remove = () => {
    throw new Error("read only");
  };
  await client.signOut();
  await settle();
  assert.deepEqual([client.connection, sent()], ["signed_out", "signed_out"]);
});

test("a command that is refused before it is stored fails for its caller alone", async () => {
  const world = new World();
  const client = await world.open();
  let stored = () => {};
  world.storage.set = () => new Promise<void>((resolve) => (stored = resolve));
  const failing = client.send("ride.wait", { ride_id: "r" });
  await settle();
  client.position({ location: { lat: 1, lng: 1 } });
  assert.deepEqual(world.server.socket.of("ride.wait"), []);
  void client.close();
  await settle();
  stored();
  for (let n = 0; n < 3; n += 1) {
    await settle();
    stored();
  }
  await assert.rejects(failing, { code: "closed" });
});

test("requests wait as long as the platform says, and not for ever", async () => {
  const world = new World();
  let busy = 2;
  world.server.answers.set("POST /v1/auth/otp", () =>
    (busy -= 1) >= 0
      ? { status: 503, body: { code: "unavailable" }, headers: { "retry-after": "3" } }
      : { status: 202, body: { expires_in_s: 300 } },
  );
  const challenge = Rideshare.signIn({ ...world.options, phone: "+12125550123" });
  await world.clock.advance(5_900);
  assert.equal(world.server.count("POST /v1/auth/otp"), 2);
  await world.clock.advance(200);
  assert.equal((await challenge).expiresInS, 300);
  busy = 1_000;
  const failing = assert.rejects(Rideshare.signIn({ ...world.options, phone: "+12125550123" }), { code: "unavailable" });
  await world.clock.advance(30_000);
  await failing;
});

test("a storage that fails is announced, and the ride goes on", async () => {
  const world = new World();
  const client = await world.open();
  let failures = 0;
  client.on("storageFailed", () => (failures += 1));
  world.storage.set = () => {
    throw new Error("full");
  };
  let seen = 0;
  client.on("ride.pickup", () => void (seen += 1));
  world.server.socket.event(1, "ride.pickup");
  const sent = outcome(client.send("ride.wait", { ride_id: "r" }));
  await settle();
  world.server.socket.ack(world.server.socket.of("ride.wait")[0], { ok: true });
  await settle();
  assert.deepEqual([seen, sent()], [1, { ok: true }]);
  assert.ok(failures > 0);
});

test("an app whose handlers are far behind reads no more, and resumes when they are not", async () => {
  const world = new World();
  const client = await world.open({ times: { heartbeatMs: 3_600_000 } });
  let release = () => {};
  let count = 0;
  client.on("*", async () => {
    count += 1;
    if (count === 1) await new Promise<void>((resolve) => (release = resolve));
  });
  for (let seq = 1; seq <= 1_001; seq += 1) world.server.socket.event(seq, "user.beacon");
  assert.equal(world.server.sockets[0]?.closedWith, 4000);
  await world.clock.advance(60_000);
  assert.deepEqual([count, world.server.sockets.length], [1, 1]);
  release();
  for (let n = 0; n < 40; n += 1) await settle();
  await world.clock.advance(200);
  assert.deepEqual([count, world.server.sockets.length, world.server.socket.lastSeq], [1_000, 2, "1000"]);
});

test("who was too fast sends at half the rate, and not at once", async () => {
  const world = new World();
  const client = await world.open();
  world.server.socket.end(4009);
  await world.clock.advance(1_900);
  assert.equal(world.server.sockets.length, 1);
  await world.clock.advance(200);
  world.server.socket.welcome();
  for (let n = 0; n < 60; n += 1) void client.send("ride.wait", { ride_id: `r${n}` });
  await settle();
  assert.equal(world.server.socket.sent.length, 20);
});

test("the token of an earlier life may be an old one: it is asked about at once, and refreshed before the socket ends with it", async () => {
  const world = new World();
  await (await world.client()).close();
  const client = await Rideshare.restore({ ...world.options, times: { heartbeatMs: 3_600_000 } });
  assert.ok(client);
  world.server.answers.set("GET /v1/me", () => (world.server.calls.at(-1)?.token === "access-1" ? { status: 401, body: { code: "unauthorized" } } : { status: 200 }));
  client.connect();
  await settle();
  world.server.socket.end(1006);
  await world.clock.advance(1_000);
  assert.deepEqual(world.server.socket.protocols, ["bearer", "access-2"]);
  await client.close();
  const again = await Rideshare.restore({ ...world.options, times: { heartbeatMs: 3_600_000 } });
  assert.ok(again);
  again.connect();
  await settle();
  assert.deepEqual(world.server.socket.protocols, ["bearer", "access-2"]);
  world.server.socket.welcome({ expires_at: "2026-11-27T00:03:00Z" });
  await world.clock.advance(145_000);
  assert.deepEqual(world.server.socket.of("auth.refresh").map(({ data }) => data), [{ access_token: "access-3" }]);
});
