/** A ride's story as one list in the order of time, and what in it deserves attention. Pure. */

import type { Offer, RideEvent, Story } from "../api/types";
import { duration, money, words } from "./format";
import type { Money } from "./format";

export type Tone = "good" | "warn" | "bad" | "info" | "live" | "";

export interface Entry {
  key: string;
  at: string;
  tone: Tone;
  title: string;
  detail: string;
  /** The event itself, for a closer look. */
  event: RideEvent | null;
  /** A person in it, other than the parties of the ride. */
  person: string | null;
}

const seconds = (from: string, to: string) => (Date.parse(to) - Date.parse(from)) / 1000;

/** What became of an offer, as a sentence. */
export function offerOutcome(offer: Offer): { text: string; tone: Tone } {
  const took = offer.found_at && offer.rejected_at ? ` after ${duration(seconds(offer.found_at, offer.rejected_at))}` : "";
  if (offer.state === "accepted") return { text: "Accepted", tone: "good" };
  switch (offer.reason ?? offer.state) {
    case "declined":
      return { text: `The driver declined${took}`, tone: "warn" };
    case "expired":
      return { text: `No answer${took}: the offer expired`, tone: "warn" };
    case "cancelled":
      return { text: `Withdrawn${took}: the search ended, or the driver went off duty`, tone: "" };
    case "superseded":
      return { text: `Superseded${took}: driver, passenger or search had a ride already`, tone: "warn" };
    case "open":
      return { text: "Open: the driver may still answer", tone: "live" };
    default:
      return { text: "Ended without an answer", tone: "" };
  }
}

function asMoney(value: unknown): Money | null {
  const candidate = value as Partial<Money> | null | undefined;
  return typeof candidate?.amount === "number" && typeof candidate.currency === "string" ? (candidate as Money) : null;
}

const text = (value: unknown) => (typeof value === "string" && value !== "" ? value : null);
const number = (value: unknown) => (typeof value === "number" ? value : null);

function length(metres: number): string {
  return metres < 995 ? `${Math.round(metres)} m` : `${(metres / 1000).toFixed(2)} km`;
}

/** Why a ride was cancelled, in words: the code and what the canceller says beside it. */
export function cancelReason(body: Record<string, unknown>): string {
  const code = text(body["reason_code"]);
  const said = text(body["note"]) ?? text(body["reason"]);
  const parts = [code && code !== "other" ? words(code) : null, said && said !== code ? `“${said}”` : null];
  return parts.filter((part) => part !== null).join(": ") || "no reason given";
}

function ofEvent(event: RideEvent): Pick<Entry, "title" | "detail" | "tone"> {
  const { body } = event;
  switch (event.subject) {
    case "ride.pickup":
      return { title: "Ride begins: the driver is on the way", detail: "", tone: "live" };
    case "ride.waiting":
      return { title: "The driver waits at the pickup", detail: "", tone: "warn" };
    case "ride.started":
      return { title: "The passenger is in the vehicle", detail: "Started with the passenger’s PIN", tone: "live" };
    case "ride.arrived":
      return { title: "Arrived at the dropoff", detail: "The final distance is awaited", tone: "info" };
    case "ride.completed": {
      const total = asMoney((body["fare"] as Record<string, unknown> | undefined)?.["total"]);
      const parts = [
        number(body["distance_m"]) !== null ? length(body["distance_m"] as number) : null,
        number(body["duration_s"]) !== null ? duration(body["duration_s"] as number) : null,
      ].filter((part) => part !== null);
      return { title: `Completed${total ? ` and billed: ${money(total)}` : ""}`, detail: parts.join(", "), tone: "good" };
    }
    case "ride.cancelled": {
      const fee = asMoney(body["fee"]);
      const cost = fee === null ? [] : [fee.amount === 0 ? "free of charge" : `costs ${money(fee)}`];
      const on = body["search_continues"] === true ? ["the passenger’s search goes on"] : [];
      const by = text(body["by"]) === "system" ? "the platform" : `the ${text(body["by"]) ?? "platform"}`;
      return { title: `Cancelled by ${by}`, detail: [cancelReason(body), ...cost, ...on].join("; "), tone: "bad" };
    }
    default:
      return { title: event.subject, detail: "", tone: "" };
  }
}

/** All that happened, oldest first; what happened at the same moment is in the order of its cause. */
export function timeline(story: Story): Entry[] {
  const entries: Entry[] = [];
  const add = (key: string, at: string | null, part: Partial<Entry> & Pick<Entry, "title">) => {
    if (at) entries.push({ key, at, tone: "", detail: "", event: null, person: null, ...part });
  };
  (story.offers ?? []).forEach((offer, n) => {
    const mine = offer.match_id === story.ride.match_id;
    const person = mine ? null : offer.driver_id;
    const which = mine ? "the driver of this ride" : "another driver";
    add(`found-${offer.match_id}`, offer.found_at, { title: `Offer ${n + 1}: sent to ${which}`, tone: "info", person });
    const { text, tone } = offerOutcome(offer);
    if (offer.state !== "accepted") add(`end-${offer.match_id}`, offer.rejected_at, { title: `Offer ${n + 1} ended`, detail: text, tone, person });
  });
  for (const event of story.events) add(`event-${event.version}`, event.occurred_at, { ...ofEvent(event), event });
  const { payment } = story;
  if (payment?.tried_at) {
    const refused = payment.status === "refused";
    add("payment", payment.tried_at, {
      title: refused ? `Payment refused: ${money(payment.amount)}` : `Payment ${payment.status}: ${money(payment.amount)}`,
      detail: refused ? "The passenger owes it now" : payment.reference ? `Reference ${payment.reference}` : "",
      tone: refused ? "bad" : payment.status === "captured" ? "good" : "",
    });
  }
  for (const refund of story.refunds) {
    add(`refund-${refund.refund_id}`, refund.at, {
      title: `Refunded ${money(refund.amount)} by ${refund.by}`,
      detail: refund.reason,
      tone: "info",
    });
  }
  for (const note of story.notes) add(`note-${note.note_id}`, note.at, { title: `Note of ${note.by}`, detail: note.text });
  return entries
    .map((entry, n) => ({ entry, n }))
    .sort((a, b) => Date.parse(a.entry.at) - Date.parse(b.entry.at) || a.n - b.n)
    .map(({ entry }) => entry);
}

export interface Finding {
  tone: "good" | "warn" | "bad";
  text: string;
}

/** Live rides that do not move on for so long are worth a look, seconds. */
const STUCK_S = { pickup: 45 * 60, waiting: 30 * 60, started: 4 * 3600, arrived: 10 * 60 } as const;

/** What explains a complaint, the worst first; empty for a ride without anything to say. */
export function findings(story: Story, now: Date): Finding[] {
  const { ride, events, offers, payment } = story;
  const found: Finding[] = [];
  const add = (tone: Finding["tone"], text: string) => found.push({ tone, text });
  if (!story.chain.verifies) add("bad", `The audit trail does not verify: ${story.chain.fault ?? "a hash differs"}.`);
  const sum = story.ledger.reduce((sums, { amount }) => {
    sums.set(amount.currency, (sums.get(amount.currency) ?? 0) + amount.amount);
    return sums;
  }, new Map<string, number>());
  for (const [currency, amount] of sum) {
    if (amount !== 0) add("bad", `The ledger of this ride is off by ${money({ amount, currency })}.`);
  }
  if (payment?.status === "refused") add("bad", `The payment of ${money(payment.amount)} was refused: the passenger owes it.`);
  const limit = STUCK_S[ride.status as keyof typeof STUCK_S];
  const age = (now.getTime() - Date.parse(ride.updated_at)) / 1000;
  if (limit !== undefined && age > limit) {
    add("bad", `Nothing has happened for ${duration(age)} while the ride is “${ride.status}”: it may be stuck.`);
  }
  const cancelled = events.find(({ subject }) => subject === "ride.cancelled");
  if (cancelled) add("warn", `${ofEvent(cancelled).title}: ${ofEvent(cancelled).detail}.`);
  if (ride.fare?.estimated) add("warn", "Billed by the estimate: the driver’s positions do not show the way.");
  const unanswered = (offers ?? []).filter(({ state }) => state !== "accepted" && state !== "open");
  if (unanswered.length > 0) {
    const declined = unanswered.filter(({ reason }) => reason === "declined").length;
    const expired = unanswered.filter(({ reason }) => reason === "expired").length;
    const why = [declined > 0 ? `${declined} declined` : null, expired > 0 ? `${expired} did not answer` : null];
    const said = why.filter((part) => part !== null).join(", ");
    const many = unanswered.length === 1 ? "One offer" : `${unanswered.length} offers`;
    add("warn", `${many} came to nothing before${said ? `: ${said}` : ""}.`);
  }
  const waited = ride.waiting_at && ride.started_at ? seconds(ride.waiting_at, ride.started_at) : 0;
  if (waited > 180) add("warn", `The driver waited ${duration(waited)} at the pickup; waiting costs from three minutes on.`);
  const tracked = story.track?.distance_m;
  if (ride.distance_m && tracked && Math.abs(tracked - ride.distance_m) > 0.02 * ride.distance_m + 20) {
    add("warn", `The bill says ${length(ride.distance_m)}, the track ${length(tracked)}: points came after the bill.`);
  }
  const order = { bad: 0, warn: 1, good: 2 };
  return found.sort((a, b) => order[a.tone] - order[b.tone]);
}
