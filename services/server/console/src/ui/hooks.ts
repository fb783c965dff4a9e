/** What pages share: loading, pages of a list, the live feed, the clock, the operator. */

import { createContext } from "preact";
import { useCallback, useContext, useEffect, useRef, useState } from "preact/hooks";

import { ApiError } from "../api/client";
import { liveFeed } from "../api/live";
import type { Feed } from "../api/live";
import type { Me, Role } from "../api/types";

export const Operator = createContext<Me>({ name: "", role: "viewer", trace_url: null });

const ROLES: Role[] = ["viewer", "support", "admin"];

export function useMay(role: Role): boolean {
  return ROLES.indexOf(useContext(Operator).role) >= ROLES.indexOf(role);
}

export function asApiError(error: unknown): ApiError {
  return error instanceof ApiError ? error : new ApiError(0, "bug", error instanceof Error ? error.message : String(error));
}

export interface Loaded<T> {
  data: T | null;
  error: ApiError | null;
  /** When `data` came; 0 before that. */
  at: number;
  reload: () => void;
}

/**
 * Loads when `key` changes, and again every `everyMs`. What was there stays while it loads again, also if that fails. An answer to
 * an older question is dropped. A key of null loads nothing.
 */
export function useLoad<T>(key: string | null, load: () => Promise<T>, everyMs = 0): Loaded<T> {
  const [state, setState] = useState<{ key: string | null; data: T | null; error: ApiError | null; at: number }>({
    key,
    data: null,
    error: null,
    at: 0,
  });
  const loader = useRef(load);
  loader.current = load;
  const turn = useRef(0);
  const reload = useCallback(() => {
    turn.current += 1;
    const mine = turn.current;
    if (key === null) return;
    loader.current().then(
      (data) => mine === turn.current && setState({ key, data, error: null, at: Date.now() }),
      (error: unknown) =>
        mine === turn.current &&
        setState((before) => ({
          key,
          data: before.key === key ? before.data : null,
          error: asApiError(error),
          at: before.at,
        })),
    );
  }, [key]);
  useEffect(() => {
    reload();
    if (everyMs === 0) return () => void (turn.current += 1);
    const timer = setInterval(() => document.hidden || reload(), everyMs);
    return () => {
      turn.current += 1;
      clearInterval(timer);
    };
  }, [reload, everyMs]);
  const current = state.key === key;
  return { data: current ? state.data : null, error: current ? state.error : null, at: state.at, reload };
}

export interface Pages<T> {
  rows: T[] | null;
  error: ApiError | null;
  /** Whether there are more. */
  hasMore: boolean;
  loadingMore: boolean;
  more: () => void;
  reload: () => void;
}

/** The most pages that are asked for until one has a row: a page may be empty and still have a next one. */
const EMPTY_PAGES_MAX = 20;

export interface Page<T> {
  rows: T[];
  next: string | null;
}

async function filled<T>(load: (cursor: string | null) => Promise<Page<T>>, from: string | null): Promise<Page<T>> {
  let page = await load(from);
  for (let n = 1; n < EMPTY_PAGES_MAX && page.rows.length === 0 && page.next !== null; n += 1) page = await load(page.next);
  return page;
}

/** A list by cursor. While only its first page is shown, that is loaded again every `everyMs`. */
export function usePages<T>(
  key: string,
  load: (cursor: string | null) => Promise<Page<T>>,
  everyMs = 0,
): Pages<T> {
  const [grown, setGrown] = useState<{ key: string; rows: T[]; next: string | null; error: ApiError | null } | null>(null);
  const [loadingMore, setLoadingMore] = useState(false);
  const first = useLoad(key, () => filled(load, null), grown?.key === key ? 0 : everyMs);
  const mine = grown?.key === key ? grown : null;
  const next = mine ? mine.next : (first.data?.next ?? null);
  const rows = first.data ? [...first.data.rows, ...(mine?.rows ?? [])] : null;
  const more = () => {
    if (next === null || loadingMore) return;
    setLoadingMore(true);
    filled(load, next)
      .then(
        (page) => setGrown({ key, rows: [...(mine?.rows ?? []), ...page.rows], next: page.next, error: null }),
        (error: unknown) => setGrown({ key, rows: mine?.rows ?? [], next, error: asApiError(error) }),
      )
      .finally(() => setLoadingMore(false));
  };
  const reload = () => {
    setGrown(null);
    first.reload();
  };
  return { rows, error: mine?.error ?? first.error, hasMore: next !== null, loadingMore, more, reload };
}

export function useFeed(): Feed {
  const [feed, setFeed] = useState(liveFeed.current);
  useEffect(() => {
    setFeed(liveFeed.current);
    return liveFeed.watch(setFeed);
  }, []);
  return feed;
}

/** The time, again every `everyMs`. */
export function useNow(everyMs = 1_000): Date {
  const [now, setNow] = useState(() => new Date());
  useEffect(() => {
    const timer = setInterval(() => setNow(new Date()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return now;
}

export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} · rideshare console`;
  }, [title]);
}
