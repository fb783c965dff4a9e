/** From a phone number or an id to the page about it. */

import type { Query } from "../pure/query";
import { to } from "../router";
import { get } from "./client";
import type { Found } from "./types";

export type Lead = { path: string } | { nothing: string };

export async function find(query: Query): Promise<Lead> {
  if (query.kind === "nothing" || query.kind === "unknown") {
    return { nothing: "A phone number (+1 212 555 0123), or the id of a ride, match, search or user." };
  }
  const asked = query.kind === "phone" ? { phone: query.phone } : { id: query.id };
  const { found, unavailable } = await get<{ found: Found[]; unavailable: string[] }>("find", asked);
  // The ride comes first. A match or a search without one is a part of its passenger's page.
  const [first] = found;
  if (first) return { path: first.kind === "ride" ? to.ride(first.ride_id) : to.person(first.user_id) };
  if (unavailable.length > 0) return { nothing: `Nothing is found, but ${unavailable.join(" and ")} did not answer.` };
  const nothing = query.kind === "phone" ? `Nobody has the number ${query.phone}.` : "No ride, match, search or user has this id.";
  return { nothing };
}
