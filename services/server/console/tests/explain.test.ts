import { expect, test } from "vitest";

import type { Candidate, Decision } from "../src/api/types";
import { outcomeText, rulesText, whyText } from "../src/pure/explain";

const candidate = (why: string, more: Partial<Candidate> = {}): Candidate => ({ driver_id: "d", distance_m: 100, eta_s: 20, why, ...more });

test("every reason of the engine has its words", () => {
  const texts = [
    "offered", "costs_more", "offered_another", "asked_before", "declined", "missed", "cancelled_ride", "in_offer", "in_ride", "off_duty",
    "other_vehicle", "other_market", "outside_radius", "no_road", "is_passenger",
  ].map((why) => whyText(candidate(why)));
  expect(new Set(texts).size).toBe(texts.length);
  expect(texts.filter((text) => text.includes("_") || text.includes("undefined"))).toEqual([]);
  expect(whyText(candidate("a_reason_of_later"))).toBe("a reason of later");
});

test("what a reason depends on is said", () => {
  expect(whyText(candidate("in_ride", { free_in_s: null }))).toBe("In a ride");
  expect(whyText(candidate("in_ride", { free_in_s: 90, may_be_waited_for: true }))).toBe("In a ride, free in 1 min 30 s: may be waited for");
  expect(whyText(candidate("missed", { times: 1 }))).toContain("Missed it once");
  expect(whyText(candidate("missed", { times: 2 }))).toContain("Missed it 2 times");
});

test("the rules of a decision are one sentence each", () => {
  const decision = { outcome: "offered", policy: "batched", window_ms: 0, radius_m: 5_000, market_id: "world", others_waiting: 3, waited_s: 1.2 };
  const text = rulesText(decision as Decision);
  expect(text).toContain("3 others waited");
  expect(text).toContain("Policy batched");
  expect(rulesText({ ...decision, others_waiting: 0 } as Decision)).toContain("nobody else waited");
  expect(outcomeText(decision as Decision)).toBe("A driver was chosen");
  expect(outcomeText({ ...decision, outcome: "no_driver" } as Decision)).toBe("No driver is free");
});
