import { backoffMs, type Backoff } from "./backoff.js";
import type { Clock } from "./clock.js";
import type { SocketEnd } from "./socket.js";

/** What follows the end of a socket. */
export type Next =
  /** Connect again after so many milliseconds. */
  | { readonly do: "wait"; readonly ms: number; readonly slower?: boolean }
  /** Ask for another access token, then connect again. */
  | { readonly do: "refresh" }
  /** Connect no more until the app says so. */
  | { readonly do: "displaced" };

/** After a stop of a server all its clients come back: within this time, milliseconds, not at once. */
const SPREAD_MS = 1_000;

/**
 * What the close codes of the contract ask for. `failures` counts the connections in a row that brought nothing.
 *
 * | code | meaning | then |
 * |---|---|---|
 * | 1001, 1012 | the server stops or restarts; or this side was silent for 60 s | connect again, spread over a second |
 * | 1013 | there is no room now | connect again, a second later at least |
 * | 4001 | the access token has expired, or the sign-in has ended | another token, or signed out |
 * | 4008 | read too slowly | connect again, resume |
 * | 4009 | sent too fast | connect again two seconds later at least, and send at half the rate |
 * | 4010 | a newer socket of this user took its place | nothing: two apps would displace each other for ever |
 * | any other | lost, or a fault in between | connect again |
 */
export function after(end: SocketEnd, failures: number, backoff: Backoff, clock: Clock): Next {
  const wait = backoffMs(failures, backoff, clock);
  switch (end.code) {
    case 4001:
      return { do: "refresh" };
    case 4010:
      return { do: "displaced" };
    case 4009:
      return { do: "wait", ms: Math.max(wait, 2_000), slower: true };
    case 1013:
      return { do: "wait", ms: Math.max(wait, 1_000 + clock.random() * SPREAD_MS) };
    case 1001:
    case 1012:
      return { do: "wait", ms: Math.max(wait, clock.random() * SPREAD_MS) };
    default:
      return { do: "wait", ms: wait };
  }
}
