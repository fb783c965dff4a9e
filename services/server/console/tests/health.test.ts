import { expect, test } from "vitest";

import { issues, outboxOldest, publishRate } from "../src/pure/health";
import type { Observed } from "../src/pure/health";

const nothing: Observed = { pods: [], streams: null, consumers: [], deadLetters: 0, outboxOldest: {}, services: [] };

test("nothing is wrong where nothing is", () => {
  expect(issues(nothing)).toEqual([]);
  expect(issues({ ...nothing, pods: null, consumers: null, deadLetters: null, services: ["users"] })).toEqual([]);
});

test("what stops the city comes before what can wait", () => {
  const found = issues({ ...nothing, deadLetters: 1, outboxOldest: { rides: 61, users: 59 }, services: ["match"] });
  expect(found.map(({ tone, title }) => `${tone}: ${title}`)).toEqual([
    "bad: No process runs match",
    "bad: Events of rides wait to be published, the oldest for 1 min 1 s",
    "warn: One message was given up",
  ]);
});

test("the oldest event that waits, of the metrics' text", () => {
  const metrics = [
    "# HELP rideshare_outbox_oldest_seconds Age.",
    "# TYPE rideshare_outbox_oldest_seconds gauge",
    'rideshare_outbox_oldest_seconds{service="rides"} 0',
    'rideshare_outbox_oldest_seconds{service="users"} 12.5',
    'rideshare_other{service="match"} 9',
  ].join("\n");
  expect(outboxOldest(metrics)).toEqual({ rides: 0, users: 12.5 });
});

test("events a second", () => {
  const at = (at: number, ...sequences: number[]) => ({ at, sequences: Object.fromEntries(sequences.map((s, n) => [`S${n}`, s])) });
  expect(publishRate(at(0, 10, 5), at(2_000, 20, 5))).toBe(5);
  expect(publishRate(at(0, 10), at(0, 20))).toBeNull();
  // A stream that was created again counts from 1.
  expect(publishRate(at(0, 10), at(2_000, 3))).toBeNull();
  expect(publishRate(at(0, 10), at(2_000, 12, 7))).toBeNull();
});
