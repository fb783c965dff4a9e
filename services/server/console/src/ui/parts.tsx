/** The small parts of every page: times, ids, badges, cards, and the states of what is loaded. */

import { Component } from "preact";
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

import type { ApiError } from "../api/client";
import * as format from "../pure/format";
import { to } from "../router";
import { asApiError, useNow } from "./hooks";
import { Icon } from "./icons";
import { toast } from "./toasts";

export type Tone = "good" | "warn" | "bad" | "info" | "live" | "";

export function Time({ at, form = "when" }: { at: string | null | undefined; form?: "when" | "clock" | "millis" | "ago" }) {
  if (!at) return <span class="muted none">–</span>;
  const date = format.instant(at);
  // A foreign program may have written it: then it is shown as it is.
  if (date === null) return <span title="This is no time">{at}</span>;
  if (form === "ago") return <Ago date={date} />;
  const text = form === "when" ? format.when(date, new Date()) : form === "clock" ? format.clock(date) : format.clockMillis(date);
  return (
    <time class="nowrap" dateTime={at} title={format.utc(date)}>
      {text}
    </time>
  );
}

function Ago({ date }: { date: Date }) {
  const now = useNow(1_000);
  return (
    <time class="nowrap" dateTime={date.toISOString()} title={format.utc(date)}>
      {format.ago(date, now)}
    </time>
  );
}

export function MoneyText({ of }: { of: format.Money | null | undefined }) {
  return of ? <span class="nowrap">{format.money(of)}</span> : <span class="muted none">–</span>;
}

export function Copy({ text, label }: { text: string; label: string }) {
  const copy = (event: Event) => {
    event.stopPropagation();
    event.preventDefault();
    navigator.clipboard.writeText(text).then(
      () => toast(`Copied: ${label}`),
      () => toast("The browser does not allow copying here.", true),
    );
  };
  return (
    <button type="button" class="copy" aria-label={`Copy ${label}`} title={`Copy ${label}`} onClick={copy}>
      <Icon name="copy" />
    </button>
  );
}

/** An id by its end, whole in the tooltip. */
export function Id({ id, href, label, row }: { id: string; href?: string; label: string; row?: boolean }) {
  const text = format.shortId(id);
  return (
    <span class="id" title={id}>
      {href ? (
        <a href={href} {...(row ? { "data-row": "" } : {})} aria-label={`${label} ${id}`}>
          {text}
        </a>
      ) : (
        text
      )}
      <Copy text={id} label={label} />
    </span>
  );
}

export function Badge({ tone = "", children, title }: { tone?: Tone; children: ComponentChildren; title?: string | undefined }) {
  return (
    <span class={`badge ${tone}`} title={title}>
      {children}
    </span>
  );
}

const STATUS_TONES: Record<string, Tone> = {
  pickup: "live",
  waiting: "warn",
  started: "live",
  arrived: "info",
  completed: "good",
  cancelled: "",
  captured: "good",
  refused: "bad",
  pending: "warn",
  approved: "good",
  suspended: "bad",
  accepted: "good",
  declined: "warn",
  expired: "warn",
  closed: "",
  open: "live",
  ready: "good",
  degraded: "warn",
  "not ready": "bad",
  ok: "good",
  missing: "bad",
  unknown: "warn",
};

export function Status({ of }: { of: string }) {
  return <Badge tone={STATUS_TONES[of] ?? ""}>{format.words(of)}</Badge>;
}

export function Card({
  title,
  aside,
  children,
  flush,
  id,
}: {
  title?: string;
  aside?: ComponentChildren;
  children: ComponentChildren;
  flush?: boolean;
  id?: string;
}) {
  return (
    <section class="card" {...(id ? { id } : {})} {...(title ? { "aria-label": title } : {})}>
      {title !== undefined && (
        <header>
          <h2>{title}</h2>
          {aside}
        </header>
      )}
      {flush ? children : <div class="body">{children}</div>}
    </section>
  );
}

export function Loading({ lines = 5 }: { lines?: number }) {
  const widths = [92, 74, 85, 63, 79, 88, 70];
  return (
    <div class="bones" role="status" aria-label="Loading">
      {Array.from({ length: lines }, (_, n) => (
        <span key={n} style={{ width: `${widths[n % widths.length]}%` }} />
      ))}
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="state">
      <strong>{title}</strong>
      {children}
    </div>
  );
}

export function Failed({ error, retry }: { error: ApiError; retry?: () => void }) {
  const titles: Record<string, string> = {
    unreachable: "The server cannot be reached",
    unavailable: "The service behind this does not answer",
    forbidden: "Your role may not see this",
    not_found: "There is nothing with this id",
    bug: "This page could not be drawn",
  };
  return (
    <div class="state error" role="alert">
      <strong>{titles[error.code] ?? "This could not be loaded"}</strong>
      <span>{error.message}</span>
      {retry && (
        <button type="button" class="button" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

/** What is below it, or what went wrong while that was drawn. With another key it is a new one, and tries again. */
export class Boundary extends Component<{ children?: ComponentChildren }, { error: ApiError | null }> {
  override state = { error: null as ApiError | null };

  static override getDerivedStateFromError(error: unknown) {
    return { error: asApiError(error) };
  }

  override componentDidCatch(error: unknown) {
    console.error(error);
  }

  override render() {
    const { error } = this.state;
    return error ? <Failed error={error} retry={() => this.setState({ error: null })} /> : this.props.children;
  }
}

/** A part of a page that stays readable while loading it again fails. */
export function Stale({ error, retry }: { error: ApiError; retry: () => void }) {
  return (
    <div class="notice" role="alert">
      <span class="grow">What you see is old: {error.message}</span>
      <button type="button" class="button" onClick={retry}>
        Try again
      </button>
    </div>
  );
}

export function Unavailable({ parts }: { parts: string[] }) {
  if (parts.length === 0) return null;
  return (
    <div class="notice" role="alert">
      <span>
        {parts.join(" and ")} {parts.length === 1 ? "does" : "do"} not answer: a part of this page is missing. Look at{" "}
        <a href={to.page("pods")}>the pods</a>.
      </span>
    </div>
  );
}

export function Json({ of }: { of: unknown }) {
  return <pre class="json">{typeof of === "string" ? of : JSON.stringify(of, null, 2)}</pre>;
}

export function Meter({ part, label }: { part: number; label: string }) {
  const tone = part > 0.9 ? "bad" : part > 0.7 ? "warn" : "";
  return (
    <div class={`meter ${tone}`} role="img" aria-label={label} title={label}>
      <span style={{ width: `${Math.max(part > 0 ? 2 : 0, Math.min(100, part * 100))}%` }} />
    </div>
  );
}

export interface Column<T> {
  name: string;
  cell: (row: T) => ComponentChildren;
  num?: boolean;
  end?: boolean;
}

/** On a phone each row is a card. The first link with `data-row` in a row is where the row leads. */
export function Table<T>({
  rows,
  columns,
  rowKey,
  label,
  chosen,
}: {
  rows: T[];
  columns: Column<T>[];
  rowKey: (row: T) => string;
  label: string;
  chosen?: (row: T) => boolean;
}) {
  const open = (event: MouseEvent) => {
    const target = event.target as Element;
    if (target.closest("a, button, input, summary, select, dialog") || getSelection()?.toString()) return;
    (event.currentTarget as Element).querySelector<HTMLElement>("[data-row]")?.click();
  };
  return (
    <div class="scroll">
      <table class="table cards" aria-label={label}>
        <thead>
          <tr>
            {columns.map((column) => (
              <th key={column.name} scope="col" class={column.num ? "num" : ""}>
                {column.end ? <span class="sr-only">{column.name}</span> : column.name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={rowKey(row)} class={chosen?.(row) ? "link chosen" : "link"} onClick={open}>
              {columns.map((column) => (
                <td key={column.name} class={column.num ? "num" : column.end ? "end" : ""} data-label={column.end ? "" : column.name}>
                  {column.cell(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function More({ hasMore, loading, more }: { hasMore: boolean; loading: boolean; more: () => void }) {
  if (!hasMore) return null;
  return (
    <div class="more">
      <button type="button" class="button" disabled={loading} onClick={more}>
        {loading ? "Loading…" : "Show more"}
      </button>
    </div>
  );
}

export function Reload({ reload }: { reload: () => void }) {
  const [turned, setTurned] = useState(false);
  const click = () => {
    reload();
    setTurned(true);
    setTimeout(() => setTurned(false), 400);
  };
  return (
    <button type="button" class="button plain icon" onClick={click} aria-label="Load again" title="Load again" disabled={turned}>
      <Icon name="refresh" />
    </button>
  );
}
