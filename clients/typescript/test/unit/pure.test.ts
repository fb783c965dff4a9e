import assert from "node:assert/strict";
import { test } from "node:test";
import { backoffMs } from "../../src/backoff.js";
import { RideshareError, errorOf, isTransient } from "../../src/errors.js";
import { INBOX_MAX, Inbox, type EventFrame } from "../../src/inbox.js";
import { Outbox, ttlMs } from "../../src/outbox.js";
import { Positions, batchData } from "../../src/positions.js";
import { after } from "../../src/reconnect.js";
import { FakeClock } from "./fake.js";

const event = (seq: number, type = "ride.started", data: unknown = {}): EventFrame => ({ type, seq, event_id: `e${seq}`, time: "", data });
const point = (n: number) => ({ location: { lat: n, lng: 0 }, recorded_at: new Date(n * 1_000).toISOString() });

test("a wait doubles up to its most, and a random half of it is left out", () => {
  const waits = (value: number) => [0, 1, 2, 3, 40].map((n) => backoffMs(n, { baseMs: 100, maxMs: 500 }, { random: () => value }));
  assert.deepEqual(waits(0), [50, 100, 200, 250, 250]);
  assert.deepEqual(waits(1), [100, 200, 400, 500, 500]);
});

test("errors have the code of the platform, or one that says that there was none", () => {
  const error = errorOf({ code: "too_early", message: "later", allowed_at: "2026-01-01T00:00:00Z", limit: null }, 409);
  assert.deepEqual([error.code, error.message, error.allowedAt, error.status, error.limit], ["too_early", "later", "2026-01-01T00:00:00Z", 409, undefined]);
  assert.equal(errorOf(undefined, 502, 3).code, "unavailable");
  assert.equal(errorOf(undefined, 502, 3).retryAfterS, 3);
  assert.equal(errorOf("<html>", 404).code, "bad_answer");
  assert.ok(isTransient(errorOf({ code: "overloaded" }, 503)) && !isTransient(errorOf({ code: "ride_live" }, 409)));
});

test("an inbox takes each event once and in order, and says what is missing", () => {
  const inbox = new Inbox(4);
  assert.deepEqual([5, 5, 3, 7, 6, 7].map((seq) => inbox.receive(event(seq))), ["new", "repeated", "repeated", "gap", "new", "new"]);
  assert.deepEqual([inbox.received, inbox.handled, inbox.waiting], [7, 4, 3]);
  inbox.done();
  assert.deepEqual([inbox.handled, inbox.next()?.seq], [5, 6]);
  inbox.missed(10);
  inbox.done();
  assert.deepEqual([inbox.handled, inbox.receive(event(10)), inbox.receive(event(11))], [6, "repeated", "new"]);
  inbox.done();
  inbox.done();
  assert.equal(inbox.handled, 11);
  inbox.begin(2);
  assert.deepEqual([inbox.received, inbox.handled, inbox.receive(event(3))], [2, 2, "new"]);
});

test("what is missed behind the last event that waits is handled with it", () => {
  const inbox = new Inbox(1);
  inbox.receive(event(2));
  inbox.missed(9);
  inbox.done();
  assert.equal(inbox.handled, 9);
});

test("an inbox is bounded", () => {
  const inbox = new Inbox(0);
  for (let seq = 1; seq <= INBOX_MAX; seq += 1) assert.equal(inbox.receive(event(seq)), "new");
  assert.equal(inbox.receive(event(INBOX_MAX + 1)), "full");
  assert.equal(inbox.received, INBOX_MAX);
});

test("positions of a ride stay when those of none must go, and are thinned out at the bound", () => {
  const positions = new Positions({ max: 10, withoutRideMax: 4 });
  const left = [1, 2, 3, 4, 5, 6].map((n) => positions.add(point(n), false));
  assert.deepEqual(left, [0, 0, 0, 0, 1, 1]);
  for (let n = 7; n <= 16; n += 1) positions.add(point(n), true);
  const numbers = () => positions.batch(100).map(({ n }) => n);
  assert.deepEqual([positions.size, positions.oldest], [10, 7]);
  // All are of a ride now: every second one of the older half.
  assert.equal(positions.add(point(17), true), 3);
  assert.deepEqual(numbers(), [7, 9, 11, 13, 14, 15, 16, 17]);
});

test("a batch is the same until it is done, whatever comes in between", () => {
  const positions = new Positions({ max: 4, withoutRideMax: 2 });
  positions.add(point(1), false);
  positions.add(point(2), false);
  const batch = positions.batch(2);
  for (let n = 3; n <= 9; n += 1) positions.add(point(n), n % 2 === 1);
  assert.equal(positions.batch(5), batch);
  assert.deepEqual(batchData(batch, 9_000), { points: [point(1), point(2)], sent_at: "1970-01-01T00:00:09.000Z" });
  positions.done();
  assert.ok(!positions.batch(10).some(({ n }) => n <= 2));
});

test("positions are stored by what changed, and restored before newer ones", () => {
  const positions = new Positions();
  for (let n = 1; n <= 150; n += 1) positions.add(point(n), true);
  const stored = positions.changes();
  assert.deepEqual([...stored.keys()], ["positions/0", "positions/1", "positions"]);
  positions.add(point(151), true);
  assert.deepEqual([...positions.changes().keys()], ["positions/1", "positions"]);
  positions.batch(99);
  positions.done();
  assert.equal(positions.changes().get("positions/0"), null);
  const later = new Positions();
  later.add(point(500), false);
  later.restore(["positions/0", "positions/1"].flatMap((key) => JSON.parse(stored.get(key) ?? "[]")));
  assert.deepEqual([later.size, later.oldest, later.last], [151, 1, 151]);
  assert.deepEqual(later.batch(1_000).at(-1)?.point, point(500));
  later.clear();
  assert.deepEqual([...later.changes().values()], [null, null, null]);
});

test("each close code has its answer", () => {
  const clock = new FakeClock();
  const of = (code: number, failures = 0) => after({ code, reason: "", opened: true, welcomed: true }, failures, { baseMs: 100, maxMs: 8_000 }, clock);
  assert.deepEqual(of(4001), { do: "refresh" });
  assert.deepEqual(of(4010), { do: "displaced" });
  assert.deepEqual(of(4009), { do: "wait", ms: 2_000, slower: true });
  assert.deepEqual(of(4008), { do: "wait", ms: 75 });
  assert.deepEqual(of(1006, 3), { do: "wait", ms: 600 });
  assert.deepEqual([of(1001), of(1012), of(1013)], [{ do: "wait", ms: 500 }, { do: "wait", ms: 500 }, { do: "wait", ms: 1_500 }]);
});

const trip = { pickup: { lat: 1, lng: 2 }, dropoff: { lat: 3, lng: 4 }, vehicle_type: "car" as const };
const begin = { active: true, ...trip };

/** A command that is stored already. */
function push(outbox: Outbox, ...command: Parameters<Outbox["push"]>): ReturnType<Outbox["push"]> {
  const pending = outbox.push(...command);
  outbox.markStored(pending.id);
  return pending;
}

test("a command is sent only after it is stored", () => {
  const outbox = new Outbox();
  outbox.push("1", "finder.update", begin, 0);
  assert.deepEqual([outbox.due(0, 1, true), outbox.nextAt(1, true, new Set())], [[], 60_000]);
  outbox.markStored("1");
  assert.deepEqual([outbox.due(0, 1, true).length, outbox.nextAt(1, true, new Set())], [1, 0]);
});

test("commands about the same thing go one after the other", () => {
  const outbox = new Outbox();
  push(outbox, "1", "finder.update", begin, 0);
  push(outbox, "2", "finder.update", { active: false }, 0);
  push(outbox, "3", "ride.start", { ride_id: "r", pin: "1" }, 0);
  push(outbox, "4", "ride.arrive", { ride_id: "r" }, 0);
  push(outbox, "5", "ride.cancel", { ride_id: "s", reason: "other" }, 0);
  const due = () => outbox.due(0, 1, true).map(({ id }) => id);
  assert.deepEqual(due(), ["1", "3", "5"]);
  assert.deepEqual(outbox.ack("1", { request_id: "q" })?.outcome, { ack: { request_id: "q" } });
  assert.equal(outbox.ack("1", {}), undefined);
  assert.deepEqual(due(), ["2", "3", "5"]);
});

test("an outbox is bounded, and a command lives as long as it means something", () => {
  const outbox = new Outbox(2);
  push(outbox, "1", "finder.update", begin, 0);
  push(outbox, "2", "ride.arrive", { ride_id: "r" }, 0);
  assert.throws(() => push(outbox, "3", "ride.arrive", { ride_id: "s" }, 0), { code: "outbox_full" });
  assert.deepEqual(outbox.expire(59_999), []);
  const [expired] = outbox.expire(60_000);
  assert.equal(expired?.command.id, "1");
  assert.ok(expired && "error" in expired.outcome && expired.outcome.error.code === "expired");
  assert.equal(outbox.nextAt(0, false, new Set()), ttlMs("ride.arrive", { ride_id: "r" }));
});

test("what was sent is not repeated on the next connection before the events since then are here", () => {
  const outbox = new Outbox();
  const command = push(outbox, "1", "finder.update", begin, 0);
  outbox.sent(command, 1, 10_000);
  assert.deepEqual(outbox.due(9_999, 1, true), []);
  assert.deepEqual(outbox.due(10_000, 1, true), [command]);
  outbox.disconnected();
  outbox.connected(20_000);
  assert.deepEqual(outbox.due(20_000, 2, false), []);
  assert.deepEqual(outbox.due(20_000, 2, true), [command]);
  // Its search has begun, and may be over already: a repeat would begin another one.
  const [settled] = outbox.onEvent(event(1, "user.finder", { request_id: "q", ...begin }), 2);
  assert.deepEqual(settled?.outcome, { ack: { request_id: "q" } });
});

test("an event of an earlier search, or of one that was not sent, proves nothing", () => {
  const outbox = new Outbox();
  const first = push(outbox, "1", "finder.update", begin, 0);
  assert.deepEqual(outbox.onEvent(event(1, "user.finder", { request_id: "p", ...begin }), 1), []);
  outbox.sent(first, 1, 1);
  outbox.ack("1", { request_id: "q" });
  const second = push(outbox, "2", "finder.update", begin, 0);
  outbox.sent(second, 1, 1);
  outbox.disconnected();
  assert.deepEqual(outbox.onEvent(event(2, "user.finder", { request_id: "q", ...begin }), 2), []);
  const elsewhere = { ...begin, pickup: { lat: 9, lng: 9 } };
  assert.deepEqual(outbox.onEvent(event(3, "user.finder", { request_id: "r", ...elsewhere }), 2), []);
  assert.equal(outbox.onEvent(event(4, "user.finder", { request_id: "s", ...begin }), 2).length, 1);
});

test("an answer on the present connection is waited for; without it the event counts", () => {
  const outbox = new Outbox();
  const command = push(outbox, "1", "ride.start", { ride_id: "r", pin: "1" }, 0);
  outbox.sent(command, 1, 1);
  const started = event(1, "ride.started", { ride_id: "r", status: "started", version: 2 });
  assert.deepEqual(outbox.onEvent(started, 1), []);
  assert.deepEqual(outbox.disconnected()[0]?.outcome, { ack: { ride_id: "r", status: "started", version: 2 } });
});

test("what events say about commands", () => {
  const cases: [Parameters<Outbox["push"]>[1], Record<string, unknown>, string, Record<string, unknown>, string | undefined][] = [
    ["match.accept", { match_id: "m" }, "ride.pickup", { match_id: "m" }, "ack"],
    ["match.accept", { match_id: "m" }, "match.accepted", { match_id: "m" }, "ack"],
    ["match.accept", { match_id: "m" }, "match.rejected", { match_id: "m", reason: "expired" }, "over"],
    ["match.accept", { match_id: "m" }, "match.rejected", { match_id: "n" }, undefined],
    ["match.reject", { match_id: "m" }, "match.rejected", { match_id: "m" }, "ack"],
    ["ride.wait", { ride_id: "r" }, "ride.waiting", { ride_id: "r" }, "ack"],
    ["ride.wait", { ride_id: "r" }, "ride.started", { ride_id: "r" }, "over"],
    ["ride.start", { ride_id: "r" }, "ride.arrived", { ride_id: "r" }, "ack"],
    ["ride.start", { ride_id: "r" }, "ride.cancelled", { ride_id: "r" }, "over"],
    ["ride.start", { ride_id: "r" }, "ride.waiting", { ride_id: "r" }, undefined],
    ["ride.arrive", { ride_id: "r" }, "ride.started", { ride_id: "r" }, undefined],
    ["ride.arrive", { ride_id: "r" }, "ride.completed", { ride_id: "r" }, "ack"],
    ["ride.cancel", { ride_id: "r" }, "ride.cancelled", { ride_id: "r" }, "ack"],
    ["ride.cancel", { ride_id: "r" }, "ride.completed", { ride_id: "r" }, "over"],
    ["finder.update", { active: false }, "user.finder", { active: false }, undefined],
    ["beacon.update", { active: true }, "user.beacon", { active: true }, undefined],
  ];
  for (const [type, data, seen, body, expected] of cases) {
    const outbox = new Outbox();
    push(outbox, "1", type, data as never, 0);
    const [settled] = outbox.onEvent(event(1, seen, body), 1);
    const outcome = settled && ("ack" in settled.outcome ? "ack" : settled.outcome.error.code);
    assert.equal(outcome, expected, `${type} and ${seen}`);
  }
});

test("an outbox outlives the app, but its commands not their time", () => {
  const outbox = new Outbox();
  outbox.sent(push(outbox, "1", "finder.update", begin, 0), 1, 0);
  push(outbox, "2", "ride.arrive", { ride_id: "r" }, 10_000);
  const stored = JSON.parse(outbox.store(1_000_000, 20_000));
  const later = new Outbox();
  push(later, "3", "ride.wait", { ride_id: "s" }, 5);
  later.restore(stored, 1_030_000, 5);
  assert.deepEqual(later.due(5, 1, true).map(({ id, restored }) => [id, restored]), [["1", true], ["2", true], ["3", false]]);
  // It was sent before: not before the events are here.
  assert.deepEqual(later.due(5, 1, false).map(({ id }) => id), ["2", "3"]);
  assert.deepEqual(later.expire(5 + 9_999), []);
  assert.deepEqual(later.expire(5 + 10_000).map(({ command }) => command.id), ["1"]);
  // A clock that was set back by a day.
  const back = new Outbox();
  back.restore(stored, 1_000_000 - 86_400_000, 0);
  assert.deepEqual(back.expire(60_000).map(({ command }) => command.id), ["1"]);
  for (const broken of [undefined, null, {}, "x", [{}], [{ id: 1 }]]) new Outbox().restore(broken, 0, 0);
});

test("whatever is given up says why", () => {
  const outbox = new Outbox();
  push(outbox, "1", "ride.arrive", { ride_id: "r" }, 0);
  const [settled] = outbox.clear("signed_out", "gone");
  assert.ok(settled && "error" in settled.outcome && settled.outcome.error instanceof RideshareError);
  assert.equal(outbox.size, 0);
});
