/** Why a driver was offered a search, in words. Pure. */

import type { Candidate, Decision } from "../api/types";
import { clock, duration, metres, shortId } from "./format";

/** What came of a decision about a search. */
export function outcomeText({ outcome }: Decision): string {
  switch (outcome) {
    case "offered":
      return "A driver was chosen";
    case "held_back":
      return "Held back, although drivers are free: a better one is about to be";
    case "resting":
      return "Resting: the search moved too often, or has just gone on";
    case "awaiting_roads":
      return "Waits for the times by road";
    default:
      return "No driver is free";
  }
}

/** Under which rules it was made. */
export function rulesText(decision: Decision): string {
  const { policy, window_ms, radius_m, market_id, others_waiting, waited_s } = decision;
  const others = others_waiting === 0 ? "nobody else waited" : `${others_waiting} others waited`;
  return (
    `Waited ${duration(waited_s)}, and ${others}. Policy ${policy}, within ${metres(radius_m)}, ` +
    `window ${duration(window_ms / 1000)}, market ${market_id}.`
  );
}

export function whyText(candidate: Candidate): string {
  const until = candidate.until ? clock(new Date(candidate.until)) : "later";
  switch (candidate.why) {
    case "offered":
      return "Chosen";
    case "costs_more":
      return "Free, but all who waited together are served better so";
    case "offered_another":
      return `Offered search ${shortId(candidate.request_id ?? "")} in the same step`;
    case "asked_before":
      return "Declined or missed it before: comes after all others";
    case "declined":
      return `Declined it: not before ${until}`;
    case "missed":
      return `Missed it ${candidate.times === 1 ? "once" : `${candidate.times ?? "several"} times`}: not before ${until}`;
    case "cancelled_ride":
      return "Cancelled a ride of this passenger";
    case "in_offer":
      return "Has an open offer";
    case "in_ride":
      return inRide(candidate);
    case "off_duty":
      return "Off duty";
    case "other_vehicle":
      return "Another type of vehicle";
    case "other_market":
      return "In another market";
    case "outside_radius":
      return "Outside the radius";
    case "no_road":
      return "Free, but no road leads from there";
    case "is_passenger":
      return "Is the passenger";
    default:
      return candidate.why.replaceAll("_", " ");
  }
}

function inRide({ free_in_s, may_be_waited_for }: Candidate): string {
  if (free_in_s === null || free_in_s === undefined) return "In a ride";
  return `In a ride, free in ${duration(free_in_s)}${may_be_waited_for ? ": may be waited for" : ""}`;
}
