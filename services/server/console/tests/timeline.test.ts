import { expect, test } from "vitest";

import type { Offer, RideEvent, Story } from "../src/api/types";
import { cancelReason, findings, offerOutcome, timeline } from "../src/pure/timeline";

const usd = (amount: number) => ({ amount, currency: "USD" });
const time = (seconds: number) => new Date(Date.UTC(2026, 0, 2, 10, 0, seconds)).toISOString();

function event(version: number, subject: string, seconds: number, body: Record<string, unknown> = {}): RideEvent {
  const hash = String(version).repeat(64);
  return { version, subject, occurred_at: time(seconds), message_id: `${subject}-1`, hash, previous_hash: hash, verifies: true, body };
}

const declined: Offer = {
  match_id: "m1",
  driver_id: "d1",
  found_at: time(0),
  expires_at: time(15),
  state: "declined",
  reason: "declined",
  pickup_distance_m: 400, pickup_eta_s: 60, rejected_at: time(6),
};
const accepted: Offer = { ...declined, match_id: "m2", driver_id: "d2", found_at: time(6), state: "accepted", reason: null, rejected_at: null };

function story(part: Partial<Story> = {}): Story {
  return {
    ride: {
      ride_id: "r",
      match_id: "m2",
      driver_id: "d2",
      passenger_id: "p",
      status: "completed",
      version: 4,
      pickup: { lat: 0, lng: 0 },
      dropoff: { lat: 0, lng: 0.01 },
      vehicle_type: "car",
      market_id: "world",
      created_at: time(9),
      updated_at: time(100),
      waiting_at: null,
      started_at: time(30),
      arrived_at: time(90),
      cancelled_by: null,
      cancel_reason: null,
      total: usd(1_234),
      payment_status: "captured",
      distance_m: 1_112,
      duration_s: 60,
      fare: { lines: [], total: usd(1_234) },
      platform_fee: usd(234),
      driver_payout: usd(1_000),
      cancel_fee: null,
      request_id: "q",
    },
    driver: null,
    passenger: null,
    events: [
      event(1, "ride.pickup", 9),
      event(2, "ride.started", 30),
      event(3, "ride.arrived", 90),
      event(4, "ride.completed", 100, { distance_m: 1_112, duration_s: 60, fare: { total: usd(1_234) } }),
    ],
    chain: { verifies: true, fault: null },
    payment: { payment_id: "x", amount: usd(1_234), status: "captured", reference: "ref", created_at: time(100), tried_at: time(101), refunded: usd(0) },
    ledger: [],
    refunds: [{ refund_id: "f", amount: usd(500), reason: "late", by: "ann", at: time(300) }],
    notes: [{ note_id: "n", text: "called", by: "bob", at: time(200) }],
    offers: [declined, accepted],
    track: null,
    unavailable: [],
    ...part,
  };
}

test("everything is in the order of time", () => {
  const told = timeline(story()).map(({ title, detail }) => (detail === "" ? title : `${title} | ${detail}`));
  expect(told).toEqual([
    "Offer 1: sent to another driver",
    "Offer 1 ended | The driver declined after 6.0 s",
    "Offer 2: sent to the driver of this ride",
    "Ride begins: the driver is on the way",
    "The passenger is in the vehicle | Started with the passenger’s PIN",
    "Arrived at the dropoff | The final distance is awaited",
    "Completed and billed: $12.34 | 1.11 km, 1 min",
    "Payment captured: $12.34 | Reference ref",
    "Note of bob | called",
    "Refunded $5.00 by ann | late",
  ]);
});

test("a ride without trouble has nothing to look at but its declined offer", () => {
  const now = new Date(time(400));
  expect(findings(story(), now).map(({ text }) => text)).toEqual(["One offer came to nothing before: 1 declined."]);
  expect(findings(story({ offers: null }), now)).toEqual([]);
});

test("what explains a complaint, the worst first", () => {
  const { ride } = story();
  const cancelled = event(2, "ride.cancelled", 20, { by: "driver", reason: "no_show", reason_code: "no_show", fee: usd(300) });
  const found = findings(
    story({
      ride: { ...ride, status: "cancelled" },
      events: [event(1, "ride.pickup", 9), cancelled],
      chain: { verifies: false, fault: "version 2 is missing" },
      ledger: [{ entry_id: "e", transaction_id: "t", kind: "fare", account: "a", amount: usd(5), at: time(1) }],
      payment: { payment_id: "x", amount: usd(300), status: "refused", reference: null, created_at: time(20), tried_at: time(21), refunded: usd(0) },
      offers: [],
    }),
    new Date(time(30)),
  );
  expect(found.map(({ tone, text }) => `${tone}: ${text}`)).toEqual([
    "bad: The audit trail does not verify: version 2 is missing.",
    "bad: The ledger of this ride is off by $0.05.",
    "bad: The payment of $3.00 was refused: the passenger owes it.",
    "warn: Cancelled by the driver: no show; costs $3.00.",
  ]);
});

test("a ride that does not move on may be stuck", () => {
  const { ride } = story();
  const arrived = story({ ride: { ...ride, status: "arrived", updated_at: time(90) }, offers: [] });
  expect(findings(arrived, new Date(time(100)))).toEqual([]);
  expect(findings(arrived, new Date(time(90 + 601))).map(({ tone }) => tone)).toEqual(["bad"]);
});

test.each([
  [{ reason: "changed_mind", reason_code: "changed_mind" }, "changed mind"],
  [{ reason: "too slow", reason_code: "other" }, "“too slow”"],
  [{ reason: "unsafe", reason_code: "unsafe", note: "he drank" }, "unsafe: “he drank”"],
  [{}, "no reason given"],
  [{ reason: 5, reason_code: null }, "no reason given"],
])("the reason of %o", (body, text) => expect(cancelReason(body)).toBe(text));

test("each end of an offer has its sentence", () => {
  const outcomes = (["declined", "expired", "cancelled", "superseded"] as const).map((reason) => offerOutcome({ ...declined, state: "closed", reason }).text);
  expect(new Set(outcomes).size).toBe(4);
  expect(offerOutcome({ ...declined, state: "closed", reason: null, rejected_at: null }).text).toBe("Ended without an answer");
  expect(offerOutcome({ ...declined, state: "open", reason: null }).tone).toBe("live");
});
