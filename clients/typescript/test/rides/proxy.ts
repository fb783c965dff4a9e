import { createServer, connect, type Server, type Socket } from "node:net";
import type { AddressInfo } from "node:net";
import type { Random } from "./random.js";

/** What happens to one connection. */
interface Fate {
  readonly refuse: boolean;
  /** Cut, or stalled, after so many bytes of this direction. */
  readonly bytes: number;
  readonly up: boolean;
  /** Nothing goes through any more, and nobody says so, for so long; then it is cut. 0: cut at once. */
  readonly stallMs: number;
  /** Cut after this time in any case. */
  readonly lifeMs: number;
  /** Each piece of data is late by up to this. */
  readonly delayMs: number;
  /** The largest piece. */
  readonly piece: number;
}

/** A bad network before one server: it cuts, stalls, refuses and delays connections, as its seed says, until it is healed. */
export class Proxy {
  readonly #server: Server;
  readonly #random: Random;
  readonly #target: number;
  readonly #open = new Set<() => void>();
  #healed = false;
  connections = 0;
  faults = 0;

  private constructor(target: number, random: Random) {
    this.#target = target;
    this.#random = random;
    this.#server = createServer((client) => this.#serve(client));
  }

  static async start(target: number, random: Random): Promise<Proxy> {
    const proxy = new Proxy(target, random);
    await new Promise<void>((resolve) => proxy.#server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** New connections are good ones. */
  heal(): void {
    this.#healed = true;
  }

  stop(): void {
    this.#server.close();
    for (const cut of this.#open) cut();
  }

  #fate(): Fate {
    const r = this.#random;
    const kind = r.next();
    const good = { refuse: false, bytes: Infinity, up: false, stallMs: 0, lifeMs: Infinity, delayMs: r.range(0, 30), piece: Infinity };
    if (this.#healed) return { ...good, delayMs: 0 };
    if (kind < 0.08) return { ...good, refuse: true };
    if (kind < 0.5) return { ...good, bytes: r.logRange(200, 12_000), up: r.chance(0.4), piece: r.chance(0.3) ? r.range(1, 400) : Infinity };
    if (kind < 0.65) return { ...good, bytes: r.logRange(400, 20_000), up: r.chance(0.5), stallMs: r.range(100, 1_500) };
    return { ...good, lifeMs: r.range(200, 2_500), delayMs: r.range(0, 80) };
  }

  #serve(client: Socket): void {
    this.connections += 1;
    const fate = this.#fate();
    if (fate.refuse) {
      this.faults += 1;
      client.resetAndDestroy();
      return;
    }
    const server = connect(this.#target, "127.0.0.1");
    let over = false;
    let stalled = false;
    const cut = () => {
      if (over) return;
      over = true;
      this.#open.delete(cut);
      clearTimeout(life);
      client.resetAndDestroy();
      server.resetAndDestroy();
    };
    this.#open.add(cut);
    const life = fate.lifeMs === Infinity ? undefined : setTimeout(() => fault(), fate.lifeMs);
    const fault = () => {
      if (over || stalled) return;
      this.faults += 1;
      if (fate.stallMs === 0) return cut();
      stalled = true;
      setTimeout(cut, fate.stallMs);
    };
    const pipe = (from: Socket, to: Socket, up: boolean) => {
      let left = fate.up === up ? fate.bytes : Infinity;
      // The pieces keep their order, however late each is, and whichever timer fires first.
      let at = 0;
      const late: (() => void)[] = [];
      from.on("data", (data) => {
        for (let start = 0; start < data.length; start += fate.piece) {
          const whole = fate.piece === Infinity ? data : data.subarray(start, start + fate.piece);
          const piece = whole.subarray(0, left);
          left -= piece.length;
          at = Math.max(at, Date.now() + this.#random.range(0, fate.delayMs));
          const ends = left <= 0;
          late.push(() => {
            if (over || stalled) return;
            to.write(piece);
            if (ends) fault();
          });
          setTimeout(() => late.shift()?.(), at - Date.now());
          if (ends || fate.piece === Infinity) break;
        }
      });
      from.on("error", cut);
      // What is on its way still arrives.
      from.on("close", () => setTimeout(cut, Math.max(0, at - Date.now()) + 1));
    };
    client.setNoDelay(true);
    server.setNoDelay(true);
    pipe(client, server, true);
    pipe(server, client, false);
  }
}
