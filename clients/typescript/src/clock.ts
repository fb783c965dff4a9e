/** Time, timers and randomness, in one place so that tests replace them. */
export interface Clock {
  /** Milliseconds since 1970 by the phone's clock, which may be minutes off: only ever sent beside `sent_at`. */
  now(): number;
  /** Milliseconds that never go back, from any origin: for every wait and age. */
  monotonic(): number;
  /** From 0 to 1, without 1. */
  random(): number;
  setTimeout(run: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => (typeof performance === "undefined" ? Date.now() : performance.now()),
  random: () => Math.random(),
  setTimeout: (run, ms) => setTimeout(run, ms),
  clearTimeout: (timer) => clearTimeout(timer as ReturnType<typeof setTimeout>),
};

export function sleep(clock: Clock, ms: number): Promise<void> {
  return new Promise((resolve) => clock.setTimeout(resolve, ms));
}
