/**
 * The one event stream of the page: what moves, and how the processes are. It is opened again when it ends, after a growing
 * pause, and closed while nobody looks at the tab.
 */

import { backoffMs, sseParser } from "../pure/sse";
import { query, refusal } from "./client";
import { storedToken } from "./session";
import type { Live, Pod, RideStatus } from "./types";

export interface RideChange {
  ride_id: string;
  status: RideStatus | "ended";
  previous_status: string | null;
}

export interface Feed {
  /** Since when nothing has come; null while the stream is open. */
  lostAt: number | null;
  /** Why, as the last try said. */
  fault: string | null;
  live: Live | null;
  liveAt: number;
  pods: Pod[] | null;
  changes: RideChange[];
}

/** What to ask for: a page that shows no map needs no lists. */
export interface Wish {
  limit: number;
  box: string | null;
}

/** A server that says nothing for so long is gone: it sends a comment every 15 s, and a picture every 2 s. */
const SILENCE_MS = 20_000;
/** After so long in the background the stream is closed. */
const HIDDEN_MS = 30_000;
const CHANGES_MAX = 50;
/** Many wishes in a row, as a map moves, open one stream. */
const SETTLE_MS = 400;

export class LiveFeed {
  private feed: Feed = { lostAt: null, fault: null, live: null, liveAt: 0, pods: null, changes: [] };
  private readonly watchers = new Set<(feed: Feed) => void>();
  private wish: Wish = { limit: 1, box: null };
  private connection: AbortController | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private hidden: ReturnType<typeof setTimeout> | undefined;
  private tries = 0;
  private running = false;

  constructor() {
    document.addEventListener("visibilitychange", () => {
      clearTimeout(this.hidden);
      if (document.hidden) this.hidden = setTimeout(() => this.close(), HIDDEN_MS);
      else if (this.running && !this.connection) this.open();
    });
  }

  get current(): Feed {
    return this.feed;
  }

  watch(watcher: (feed: Feed) => void): () => void {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }

  start(): void {
    this.running = true;
    this.open();
  }

  stop(): void {
    this.running = false;
    this.close();
    this.change({ lostAt: null, fault: null, live: null, pods: null, changes: [] });
  }

  ask(wish: Wish): void {
    if (wish.limit === this.wish.limit && wish.box === this.wish.box) return;
    this.wish = wish;
    if (this.running) this.schedule(SETTLE_MS);
  }

  private change(part: Partial<Feed>): void {
    this.feed = { ...this.feed, ...part };
    for (const watcher of this.watchers) watcher(this.feed);
  }

  private close(): void {
    clearTimeout(this.timer);
    this.connection?.abort();
    this.connection = null;
  }

  private schedule(ms: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), ms);
  }

  private open(): void {
    this.close();
    if (!this.running || document.hidden || !storedToken()) return;
    const connection = new AbortController();
    this.connection = connection;
    void this.read(connection).catch((error: unknown) => {
      if (this.connection !== connection) return;
      connection.abort();
      this.connection = null;
      this.tries += 1;
      const fault = error instanceof Error ? error.message : "The connection was lost.";
      this.change({ lostAt: this.feed.lostAt ?? Date.now(), fault });
      this.schedule(backoffMs(this.tries, Math.random()));
    });
  }

  private async read(connection: AbortController): Promise<void> {
    let silence: ReturnType<typeof setTimeout> | undefined;
    const listen = () => {
      clearTimeout(silence);
      silence = setTimeout(() => connection.abort(), SILENCE_MS);
    };
    listen();
    try {
      const response = await fetch(`/admin/v1/stream${query({ limit: this.wish.limit, box: this.wish.box })}`, {
        headers: { authorization: `Bearer ${storedToken() ?? ""}`, accept: "text/event-stream" },
        credentials: "omit",
        cache: "no-store",
        signal: connection.signal,
      });
      if (!response.ok) throw await refusal(response);
      if (!response.body) throw new Error("The stream has no body.");
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      const parse = sseParser();
      for (;;) {
        const { done, value } = await reader.read();
        if (this.connection !== connection) return;
        if (done) throw new Error("The server ended the stream.");
        listen();
        for (const { event, data } of parse(value)) this.take(event, data);
      }
    } catch (error) {
      throw error instanceof DOMException || error instanceof TypeError ? new Error("The server cannot be reached.") : error;
    } finally {
      clearTimeout(silence);
    }
  }

  private take(event: string, data: string): void {
    this.tries = 0;
    const fresh = { lostAt: null, fault: null };
    if (event === "live") this.change({ ...fresh, live: JSON.parse(data) as Live, liveAt: Date.now() });
    else if (event === "health") this.change({ ...fresh, pods: (JSON.parse(data) as { pods: Pod[] }).pods });
    else if (event === "ride") {
      const changes = [JSON.parse(data) as RideChange, ...this.feed.changes].slice(0, CHANGES_MAX);
      this.change({ ...fresh, changes });
    }
  }
}

export const liveFeed = new LiveFeed();
