/**
 * Where the library stores what must outlive the app: tokens, the newest `seq`, the outbox, positions. An app gives one that persists
 * (localStorage, AsyncStorage, Keychain for the tokens); by default it is memory.
 */
export interface Storage {
  get(key: string): string | null | undefined | Promise<string | null | undefined>;
  set(key: string, value: string): void | Promise<void>;
  remove(key: string): void | Promise<void>;
}

export class MemoryStorage implements Storage {
  readonly #values = new Map<string, string>();

  get(key: string): string | undefined {
    return this.#values.get(key);
  }

  set(key: string, value: string): void {
    this.#values.set(key, value);
  }

  remove(key: string): void {
    this.#values.delete(key);
  }
}

/** A JSON value that was stored; `undefined` if there is none, or if it cannot be read. */
export async function readJson<T>(storage: Storage, key: string): Promise<T | undefined> {
  const text = await storage.get(key);
  if (text === null || text === undefined) return undefined;
  try {
    return JSON.parse(text) as T;
  } catch {
    return undefined;
  }
}
