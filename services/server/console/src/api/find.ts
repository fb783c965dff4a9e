/** From a phone number or an id to the page about it. */

import type { Query } from "../pure/query";
import { to } from "../router";
import { ApiError, get } from "./client";
import type { Live, Person, Ride, Story, User } from "./types";

/** Of the newest rides, how many are looked at for a match or a request: the API finds rides by their own id. */
const RIDES_PER_PAGE = 200;
const RIDE_PAGES_MAX = 5;

export type Found = { path: string } | { nothing: string };

async function orNull<T>(request: Promise<T>): Promise<T | null> {
  try {
    return await request;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

export async function find(query: Query): Promise<Found> {
  if (query.kind === "phone") {
    const { users } = await get<{ users: User[] }>("users", { phone: query.phone });
    const user = users[0];
    return user ? { path: to.person(user.user_id) } : { nothing: `Nobody has the number ${query.phone}.` };
  }
  if (query.kind === "id") return findId(query.id);
  return { nothing: "A phone number (+1 212 555 0123), or the id of a ride, match, search or user." };
}

async function newest(cursor: string | null): Promise<{ rides: Ride[]; next_cursor: string | null }> {
  return get("rides", { limit: RIDES_PER_PAGE, cursor });
}

/** Lists are asked first: a browser logs every 404 as an error, also of a question that may well be answered by one. */
async function findId(id: string): Promise<Found> {
  const of = (rides: Ride[]) => rides.find((ride) => ride.ride_id === id || ride.match_id === id);
  const [person, first] = await Promise.all([get<{ rides: Ride[] }>("rides", { user: id, limit: 1 }), newest(null)]);
  if (person.rides.length > 0) return { path: to.person(id) };
  const recent = of(first.rides);
  if (recent) return { path: to.ride(recent.ride_id) };
  const live = await get<Live>("live", { limit: 1_000 });
  const search = live.searches.find((search) => search.request_id === id);
  if (search?.user_id) return { path: to.person(search.user_id) };
  if (await orNull(get<Story>(`rides/${id}`))) return { path: to.ride(id) };
  if (await orNull(get<Person>(`users/${id}`))) return { path: to.person(id) };
  let cursor = first.next_cursor;
  for (let page = 1; page < RIDE_PAGES_MAX && cursor !== null; page += 1) {
    const { rides, next_cursor } = await newest(cursor);
    const found = of(rides);
    if (found) return { path: to.ride(found.ride_id) };
    cursor = next_cursor;
  }
  return { nothing: "No ride, match or user has this id." };
}
