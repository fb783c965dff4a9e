import type { LocationPoint } from "./protocol.js";

/** Bounds of the buffer of positions. */
export interface PositionLimits {
  /** The most points in all. A point a second for 2 hours and 46 minutes. */
  readonly max: number;
  /** The most points that belong to no ride: of a driver who waits, only the newest are of use. */
  readonly withoutRideMax: number;
}

export const POSITION_LIMITS: PositionLimits = { max: 10_000, withoutRideMax: 600 };

/** Points stored under one key. */
const CHUNK = 100;

export interface BufferedPoint {
  /** 1, 2, 3 … in the order in which they were measured. */
  readonly n: number;
  /** Whether it was measured during a ride. */
  readonly ride: boolean;
  readonly point: LocationPoint;
}

/**
 * Positions that the platform has not acked, oldest first. It is bounded: first the oldest points without a ride are left out, and only
 * when points of rides alone fill it, every second one of the older half. So a track gets coarser, and loses no end.
 */
export class Positions {
  readonly #limits: PositionLimits;
  #points: BufferedPoint[] = [];
  #last = 0;
  #inFlight: readonly BufferedPoint[] = [];
  readonly #dirty = new Set<number>();

  constructor(limits: PositionLimits = POSITION_LIMITS) {
    this.#limits = limits;
  }

  get size(): number {
    return this.#points.length;
  }

  /** The number of the newest point; 0 before the first. */
  get last(): number {
    return this.#last;
  }

  /** The number of the oldest point that is not acked; `undefined` if there is none. */
  get oldest(): number | undefined {
    return this.#points[0]?.n;
  }

  /** Returns how many points had to be left out for it. */
  add(point: LocationPoint, ride: boolean): number {
    this.#last += 1;
    this.#push({ n: this.#last, ride, point });
    return this.#trim();
  }

  /** The next batch: at most `count` points. The same one again until `acked` or `refused`. */
  batch(count: number): readonly BufferedPoint[] {
    if (this.#inFlight.length === 0) this.#inFlight = this.#points.slice(0, count);
    return this.#inFlight;
  }

  /** The batch is stored by the platform, or is never going to be. */
  done(): void {
    const sent = new Set(this.#inFlight.map(({ n }) => n));
    this.#inFlight = [];
    this.#remove(({ n }) => sent.has(n));
  }

  /** What changed since the last call, by key: `null` is to be removed. */
  changes(): Map<string, string | null> {
    const changes = new Map<string, string | null>();
    for (const chunk of this.#dirty) {
      const points = this.#points.filter(({ n }) => chunkOf(n) === chunk);
      changes.set(`positions/${chunk}`, points.length > 0 ? JSON.stringify(points) : null);
    }
    if (this.#dirty.size > 0) {
      const chunks = [...new Set(this.#points.map(({ n }) => chunkOf(n)))];
      changes.set("positions", chunks.length > 0 ? JSON.stringify({ last: this.#last, chunks }) : null);
    }
    this.#dirty.clear();
    return changes;
  }

  /** The points of an earlier life of the app. */
  restore(points: readonly BufferedPoint[]): void {
    const newer = this.#points;
    this.#points = points.filter(({ n, point }) => typeof n === "number" && typeof point === "object");
    this.#last = this.#points.reduce((last, { n }) => Math.max(last, n), 0);
    for (const { ride, point } of newer) {
      this.#last += 1;
      this.#push({ n: this.#last, ride, point });
    }
    this.#trim();
  }

  clear(): void {
    this.#inFlight = [];
    this.#remove(() => true);
  }

  #push(point: BufferedPoint): void {
    this.#points.push(point);
    this.#dirty.add(chunkOf(point.n));
  }

  #trim(): number {
    const before = this.#points.length;
    const busy = new Set(this.#inFlight.map(({ n }) => n));
    const free = this.#points.filter(({ n, ride }) => !ride && !busy.has(n));
    const excess = Math.max(free.length - this.#limits.withoutRideMax, Math.min(free.length, before - this.#limits.max));
    if (excess > 0) {
      const left = new Set(free.slice(0, excess).map(({ n }) => n));
      this.#remove(({ n }) => left.has(n));
    }
    if (this.#points.length > this.#limits.max) {
      const half = this.#points.length / 2;
      const left = new Set(this.#points.filter(({ n }, at) => at < half && at % 2 === 1 && !busy.has(n)).map(({ n }) => n));
      this.#remove(({ n }) => left.has(n));
    }
    return before - this.#points.length;
  }

  #remove(leaves: (point: BufferedPoint) => boolean): void {
    this.#points = this.#points.filter((point) => {
      if (!leaves(point)) return true;
      this.#dirty.add(chunkOf(point.n));
      return false;
    });
  }
}

function chunkOf(n: number): number {
  return Math.floor(n / CHUNK);
}

/** The `data` of the `location.update` that sends a batch now, by the phone's clock. */
export function batchData(batch: readonly BufferedPoint[], now: number): { points: LocationPoint[]; sent_at: string } {
  return { points: batch.map(({ point }) => point), sent_at: new Date(now).toISOString() };
}
