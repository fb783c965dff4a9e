import type { Clock } from "./clock.js";
import { RideshareError } from "./errors.js";
import type { SignedInTokens } from "./generated.js";
import type { Http } from "./http.js";
import { readJson, type Storage } from "./storage.js";

const KEY = "sign_in";
/** A token is refreshed when less than this of its life is left: a minute, or a fifth if that is shorter. */
const REFRESH_BEFORE_S = 60;
/** The platform gives the same answer to the same refresh token for 30 s, and later takes it for a stolen one. */
const REFRESH_WITHIN_MS = 20_000;

/** What is stored of a sign-in. */
export interface StoredSignIn {
  readonly user_id: string;
  readonly access_token: string;
  readonly refresh_token: string;
}

/** The tokens of one sign-in: refreshed in time, by one request at a time, and stored as soon as the storage takes them. */
export class SignIn {
  readonly #http: Http;
  readonly #clock: Clock;
  readonly #storage: Storage;
  #tokens: StoredSignIn;
  /** The refresh token that this object last read from the storage or wrote to it: any other one there is of another tab. */
  #storedToken: string | undefined;
  /** The storage did not take the tokens: they are stored before the next use. */
  #unsaved = false;
  /** By the monotonic clock; `undefined` for a token of an earlier life of the app, which is used until it is refused. */
  #refreshAt: number | undefined;
  #refreshing: Promise<void> | undefined;
  #ended = false;
  /** Called once, when the sign-in has ended. */
  onEnd: () => void = () => {};
  /** Called when the storage failed. */
  onStorageFailed: (error: unknown) => void = () => {};

  constructor(http: Http, clock: Clock, storage: Storage, tokens: StoredSignIn) {
    this.#http = http;
    this.#clock = clock;
    this.#storage = storage;
    this.#tokens = tokens;
  }

  /** The sign-in that the answer to a code began. */
  static async begin(http: Http, clock: Clock, storage: Storage, answer: SignedInTokens): Promise<SignIn> {
    const signIn = new SignIn(http, clock, storage, storedOf(answer));
    await signIn.#accept(answer);
    return signIn;
  }

  /** That of an earlier life of the app, if there is one. */
  static async restore(http: Http, clock: Clock, storage: Storage): Promise<SignIn | undefined> {
    const stored = await readJson<StoredSignIn>(storage, KEY);
    if (typeof stored?.refresh_token !== "string") return undefined;
    const signIn = new SignIn(http, clock, storage, stored);
    signIn.#storedToken = stored.refresh_token;
    return signIn;
  }

  get userId(): string {
    return this.#tokens.user_id;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Milliseconds until the access token should be refreshed; `undefined` if that is not known. */
  refreshInMs(): number | undefined {
    return this.#refreshAt === undefined ? undefined : Math.max(0, this.#refreshAt - this.#clock.monotonic());
  }

  /**
   * An access token that is valid for a while.
   *
   * @throws RideshareError `signed_out`, or that no refresh was possible.
   */
  async token(): Promise<string> {
    if (this.#ended) throw signedOut();
    if (this.#unsaved) await this.#store();
    if (this.#refreshAt !== undefined && this.#clock.monotonic() >= this.#refreshAt) await this.#refresh();
    return this.#tokens.access_token;
  }

  /**
   * The platform refused `token`: the next one.
   *
   * @throws RideshareError `signed_out`, or that no refresh was possible.
   */
  async refused(token: string): Promise<string> {
    if (this.#ended) throw signedOut();
    if (this.#tokens.access_token === token) await this.#refresh();
    return this.#tokens.access_token;
  }

  /** Ends the sign-in, or with `everywhere` all of this user's. Afterwards the library has forgotten it. */
  async signOut(everywhere: boolean): Promise<void> {
    const call = { method: "POST", path: "/v1/auth/sign-out", body: { everywhere }, repeatable: true, withinMs: REFRESH_WITHIN_MS };
    try {
      await this.#http.call({ ...call, token: await this.token() });
    } catch (error) {
      // Ended already, as by a try whose answer was lost.
      if (!(error instanceof RideshareError && (error.code === "signed_out" || error.status === 401))) throw error;
    }
    await this.#end();
  }

  #refresh(): Promise<void> {
    this.#refreshing ??= this.#refreshNow().finally(() => (this.#refreshing = undefined));
    return this.#refreshing;
  }

  async #refreshNow(): Promise<void> {
    if (await this.#adopt()) return;
    const body = { refresh_token: this.#tokens.refresh_token };
    try {
      const call = { method: "POST", path: "/v1/auth/refresh", body, repeatable: true, withinMs: REFRESH_WITHIN_MS };
      await this.#accept((await this.#http.call(call)) as SignedInTokens);
    } catch (error) {
      if (!(error instanceof RideshareError && error.status === 401)) throw error;
      if (await this.#adopt()) return;
      await this.#end();
      throw signedOut(error);
    }
  }

  /** Another tab or process of the same app may have refreshed, and stored what it got. */
  async #adopt(): Promise<boolean> {
    const stored = await this.#read();
    const newer = stored?.user_id === this.#tokens.user_id && ![this.#tokens.refresh_token, this.#storedToken].includes(stored.refresh_token);
    if (!stored || !newer) return false;
    this.#tokens = stored;
    this.#storedToken = stored.refresh_token;
    this.#unsaved = false;
    this.#refreshAt = undefined;
    return true;
  }

  /** The tokens before these are used up, so these count whether the storage takes them or not. */
  async #accept(answer: SignedInTokens): Promise<void> {
    const life = answer.expires_in_s;
    this.#tokens = storedOf(answer);
    this.#refreshAt = this.#clock.monotonic() + (life - Math.min(REFRESH_BEFORE_S, life / 5)) * 1_000;
    await this.#store();
  }

  async #store(): Promise<void> {
    const tokens = this.#tokens;
    try {
      await this.#storage.set(KEY, JSON.stringify(tokens));
      this.#storedToken = tokens.refresh_token;
      this.#unsaved = false;
    } catch (error) {
      this.#unsaved = true;
      // What is there instead is older.
      this.#storedToken = (await this.#read())?.refresh_token;
      this.onStorageFailed(error);
    }
  }

  async #read(): Promise<StoredSignIn | undefined> {
    try {
      return await readJson<StoredSignIn>(this.#storage, KEY);
    } catch {
      return undefined;
    }
  }

  async #end(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    try {
      await this.#storage.remove(KEY);
    } catch (error) {
      this.onStorageFailed(error);
    } finally {
      this.onEnd();
    }
  }
}

function storedOf(answer: SignedInTokens): StoredSignIn {
  if (typeof answer?.access_token !== "string" || typeof answer.refresh_token !== "string" || typeof answer.user?.id !== "string") {
    throw new RideshareError("bad_answer", "the answer to a sign-in has no tokens");
  }
  return { user_id: answer.user.id, access_token: answer.access_token, refresh_token: answer.refresh_token };
}

function signedOut(cause?: unknown): RideshareError {
  return new RideshareError("signed_out", "the sign-in has ended: sign in again", { cause });
}
