import { backoffMs, type Backoff } from "./backoff.js";
import { sleep, type Clock } from "./clock.js";
import { RideshareError, errorOf, isNotDone, isTransient } from "./errors.js";

export interface Call {
  readonly method: string;
  /** From the root, with the query. */
  readonly path: string;
  readonly body?: unknown;
  readonly token?: string | undefined;
  /** Whether it may be sent again although the first one may have had its effect. */
  readonly repeatable: boolean;
  /** How long it is repeated, milliseconds. */
  readonly withinMs: number;
}

export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/** HTTP requests with a limit of time, repeated while the platform says that it cannot answer now. */
export class Http {
  readonly #url: string;
  readonly #fetch: Fetch;
  readonly #clock: Clock;
  readonly #requestMs: number;
  readonly #repeat: Backoff;

  constructor(url: string, fetch: Fetch, clock: Clock, requestMs: number, repeat: Backoff) {
    this.#url = url.replace(/\/+$/, "");
    this.#fetch = fetch;
    this.#clock = clock;
    this.#requestMs = requestMs;
    this.#repeat = repeat;
  }

  get url(): string {
    return this.#url;
  }

  /**
   * The body of the answer.
   *
   * @throws RideshareError
   */
  async call(call: Call): Promise<unknown> {
    const until = this.#clock.monotonic() + call.withinMs;
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.#once(call);
      } catch (error) {
        // Behind `unavailable` may be a gateway that lost the answer of what was done.
        if (!(call.repeatable ? isTransient(error) : isNotDone(error))) throw error;
        const asked = ((error as RideshareError).retryAfterS ?? 0) * 1_000;
        const wait = Math.max(asked, backoffMs(attempt, this.#repeat, this.#clock));
        if (this.#clock.monotonic() + wait > until) throw error;
        await sleep(this.#clock, wait);
      }
    }
  }

  async #once({ method, path, body, token }: Call): Promise<unknown> {
    const abort = new AbortController();
    const timer = this.#clock.setTimeout(() => abort.abort(), this.#requestMs);
    try {
      const headers: Record<string, string> = {};
      if (body !== undefined) headers["content-type"] = "application/json";
      if (token !== undefined) headers.authorization = `Bearer ${token}`;
      const init: RequestInit = { method, headers, signal: abort.signal, cache: "no-store" };
      if (body !== undefined) init.body = JSON.stringify(body);
      const response = await this.#fetch(this.#url + path, init);
      // The body may be cut off as well.
      const text = await response.text();
      if (!response.ok) throw errorOf(parse(text), response.status, retryAfterS(response.headers.get("retry-after")));
      if (text === "") return undefined;
      const answer = parse(text);
      if (answer === undefined) throw new RideshareError("bad_answer", `${method} ${path}: the answer is not JSON`);
      return answer;
    } catch (error) {
      if (error instanceof RideshareError) throw error;
      throw new RideshareError("network", `${method} ${path.split("?")[0]}: no answer`, { cause: error });
    } finally {
      this.#clock.clearTimeout(timer);
    }
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function retryAfterS(header: string | null): number | undefined {
  const seconds = Number(header);
  return header !== null && Number.isFinite(seconds) && seconds >= 0 ? seconds : undefined;
}
