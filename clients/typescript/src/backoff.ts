import type { Clock } from "./clock.js";

export interface Backoff {
  /** The first wait is at most this long, milliseconds. */
  readonly baseMs: number;
  /** No wait is longer, milliseconds. */
  readonly maxMs: number;
}

/**
 * The wait before try `attempt` (0 is the first repeat): at most `baseMs`, doubled with each attempt up to `maxMs`, of which a random
 * half is left out, so that the clients of a server that came back do not come together.
 */
export function backoffMs(attempt: number, { baseMs, maxMs }: Backoff, clock: Pick<Clock, "random">): number {
  const most = Math.min(maxMs, baseMs * 2 ** Math.min(attempt, 30));
  return most / 2 + (clock.random() * most) / 2;
}
