/** Drivers by standing: who waits for approval first. */

import { useState } from "preact/hooks";

import { get } from "../api/client";
import { DOCUMENT_KINDS } from "../api/types";
import type { Document, Driver } from "../api/types";
import { title } from "../pure/format";
import { replaceSearch, searchParam, to } from "../router";
import { ActButton, ActDialog } from "../ui/dialogs";
import type { ActPlan } from "../ui/dialogs";
import { useLoad, useMay, usePages, useTitle } from "../ui/hooks";
import { Badge, Card, Empty, Failed, Loading, More, Reload, Stale, Status, Table, Time } from "../ui/parts";
import type { Column } from "../ui/parts";

const TABS: [string, string][] = [
  ["pending", "To approve"],
  ["approved", "Approved"],
  ["suspended", "Suspended"],
  ["", "All"],
];

export function vehicle(driver: Driver): string {
  const model = [driver.color, driver.make, driver.model].filter((part) => part !== null).join(" ");
  return model === "" ? title(driver.vehicle_type) : `${model} (${driver.vehicle_type})`;
}

export function DriversPage() {
  useTitle("Drivers");
  const [status, setStatus] = useState(() => {
    const status = searchParam("status");
    return status === "all" ? "" : status || "pending";
  });
  const load = async (cursor: string | null) => {
    const page = await get<{ drivers: Driver[]; next_cursor: string | null }>("drivers", { status, cursor });
    return { rows: page.drivers, next: page.next_cursor };
  };
  const pages = usePages(`drivers ${status}`, load, 10_000);
  const choose = (status: string) => {
    setStatus(status);
    replaceSearch({ status: status === "" ? "all" : status });
  };
  const columns: Column<Driver>[] = [
    {
      name: "Driver",
      cell: (driver) => (
        <a href={to.person(driver.user_id)} data-row="" title={driver.user_id}>
          {driver.name ?? "No name"}
        </a>
      ),
    },
    { name: "Plate", cell: (driver) => <span class="mono">{driver.plate}</span> },
    { name: "Vehicle", cell: vehicle },
    { name: "Status", cell: (driver) => <Standing driver={driver} /> },
    { name: "Registered", cell: (driver) => <Time at={driver.registered_at} /> },
    {
      name: "On duty",
      cell: (driver) =>
        driver.on_duty === null ? <span class="muted">not known</span> : driver.on_duty ? <Badge tone="live">on duty</Badge> : <span class="muted">no</span>,
    },
    { name: "Acts", cell: (driver) => <DriverActs driver={driver} acted={pages.reload} />, end: true },
  ];
  return (
    <div class="stack">
      <div class="head">
        <h1>Drivers</h1>
        <Reload reload={pages.reload} />
      </div>
      <div class="tabs" role="tablist" aria-label="Standing">
        {TABS.map(([value, name]) => (
          <button key={value} type="button" role="tab" aria-selected={status === value} onClick={() => choose(value)}>
            {name}
          </button>
        ))}
      </div>
      {pages.rows && pages.error && <Stale error={pages.error} retry={pages.reload} />}
      <Card flush>
        {pages.rows === null ? (
          pages.error ? (
            <Failed error={pages.error} retry={pages.reload} />
          ) : (
            <Loading />
          )
        ) : pages.rows.length === 0 ? (
          status === "pending" ? (
            <Empty title="Nobody waits for approval">New drivers wait here where DRIVER_APPROVAL, or their market, is manual.</Empty>
          ) : (
            <Empty title="No driver" />
          )
        ) : (
          <Table rows={pages.rows} columns={columns} rowKey={(driver) => driver.user_id} label="Drivers" />
        )}
        <More hasMore={pages.hasMore && pages.rows !== null} loading={pages.loadingMore} more={pages.more} />
      </Card>
    </div>
  );
}

export function Standing({ driver }: { driver: Driver }) {
  return (
    <span class="row">
      <Status of={driver.status} />
      {driver.suspended_until && (
        <span class="muted small">
          until <Time at={driver.suspended_until} />
        </span>
      )}
    </span>
  );
}

export function DriverActs({ driver, acted }: { driver: Driver; acted: () => void }) {
  const admin = useMay("admin");
  const [suspending, setSuspending] = useState(false);
  const [documents, setDocuments] = useState(false);
  if (!admin) return null;
  const who = driver.name ?? driver.plate;
  const approve: ActPlan = {
    title: `Approve ${who}`,
    effect: `${who}, ${vehicle(driver)}, plate ${driver.plate}, may go on duty and gets offers.`,
    button: "Approve",
    reason: "optional",
    path: `drivers/${driver.user_id}/approve`,
    done: () => `${who} is approved.`,
  };
  return (
    <span class="row nowrap">
      <button type="button" class="button" onClick={() => setDocuments(true)}>
        Documents
      </button>
      {driver.status !== "suspended" && (
        <button type="button" class="button danger" onClick={() => setSuspending(true)}>
          Suspend
        </button>
      )}
      {driver.status !== "approved" && (
        <ActButton plan={approve} acted={acted} primary>
          Approve
        </ActButton>
      )}
      {suspending && <Suspend driver={driver} acted={acted} close={() => setSuspending(false)} />}
      {documents && <Documents driver={driver} close={() => setDocuments(false)} />}
    </span>
  );
}

function Suspend({ driver, acted, close }: { driver: Driver; acted: () => void; close: () => void }) {
  const [until, setUntil] = useState("");
  const who = driver.name ?? driver.plate;
  const plan: ActPlan = {
    title: `Suspend ${who}`,
    effect: "The driver goes off duty, and open offers go to others. A ride under way goes on.",
    button: "Suspend",
    danger: true,
    reason: "required",
    path: `drivers/${driver.user_id}/suspend`,
    fields: (
      <label class="field">
        <span>Until (optional); then the driver is again what they were before the suspension</span>
        <input class="input" type="datetime-local" name="until" value={until} onInput={(event) => setUntil(event.currentTarget.value)} />
      </label>
    ),
    body: () => {
      if (until === "") return {};
      const time = new Date(until);
      return time.getTime() > Date.now() ? { until: time.toISOString() } : "The end must be in the future.";
    },
    done: () => `${who} is suspended.`,
  };
  return <ActDialog plan={plan} close={close} acted={acted} />;
}

interface Row {
  kind: Document["kind"];
  number: string;
  expires_on: string;
}

const DOCUMENTS_MAX = 20;

function Documents({ driver, close }: { driver: Driver; close: () => void }) {
  const stored = useLoad(`documents ${driver.user_id}`, () => get<{ documents: Document[] }>(`drivers/${driver.user_id}/documents`));
  const [edited, setEdited] = useState<Row[] | null>(null);
  const rows = edited ?? stored.data?.documents.map(({ kind, number, expires_on }) => ({ kind, number: number ?? "", expires_on })) ?? [];
  const change = (at: number, part: Partial<Row>) => setEdited(rows.map((row, n) => (n === at ? { ...row, ...part } : row)));
  const unused = DOCUMENT_KINDS.find((kind) => kind === "other" || !rows.some((row) => row.kind === kind)) ?? "other";
  const plan: ActPlan = {
    title: `Documents of ${driver.name ?? driver.plate}`,
    effect: "With an expired document a driver is taken off duty.",
    button: "Store the list",
    reason: "optional",
    method: "PUT",
    path: `drivers/${driver.user_id}/documents`,
    fields: stored.error ? (
      <Failed error={stored.error} retry={stored.reload} />
    ) : stored.data === null ? (
      <Loading lines={3} />
    ) : (
      <div class="stack" style={{ gap: "8px" }}>
        {rows.length === 0 && <p class="muted">None is stored.</p>}
        {rows.map((row, n) => (
          <div key={n} class="row">
            <select
              class="input"
              aria-label="Kind"
              value={row.kind}
              onChange={(event) => change(n, { kind: event.currentTarget.value as Document["kind"] })}
            >
              {DOCUMENT_KINDS.map((kind) => (
                <option key={kind}>{kind}</option>
              ))}
            </select>
            <input
              class="input grow"
              aria-label="Number"
              placeholder="number"
              autoComplete="off"
              value={row.number}
              onInput={(event) => change(n, { number: event.currentTarget.value })}
            />
            <input
              class="input"
              type="date"
              aria-label="Expires on"
              required
              value={row.expires_on}
              onInput={(event) => change(n, { expires_on: event.currentTarget.value })}
            />
            <button type="button" class="button icon" aria-label={`Remove ${row.kind}`} onClick={() => setEdited(rows.filter((_, m) => m !== n))}>
              ×
            </button>
          </div>
        ))}
        {rows.length < DOCUMENTS_MAX && (
          <button type="button" class="button" onClick={() => setEdited([...rows, { kind: unused, number: "", expires_on: "" }])}>
            Add a document
          </button>
        )}
      </div>
    ),
    body: () =>
      stored.data === null
        ? "The stored list is not known yet."
        : { documents: rows.map(({ number, ...row }) => (number.trim() === "" ? row : { ...row, number: number.trim() })) },
    done: () => "The documents are stored.",
  };
  return <ActDialog plan={plan} close={close} acted={() => {}} />;
}
