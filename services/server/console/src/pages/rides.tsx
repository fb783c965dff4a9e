/** The list of rides: by status, market, person. */

import { useState } from "preact/hooks";

import { get } from "../api/client";
import type { Ride } from "../api/types";
import { parsePhone } from "../pure/query";
import { navigate, replaceSearch, searchParam, to } from "../router";
import { usePages, useTitle } from "../ui/hooks";
import { Card, Empty, Failed, Id, Loading, MoneyText, More, Reload, Stale, Status, Table, Time } from "../ui/parts";
import type { Column } from "../ui/parts";
import { find } from "../api/find";
import { asApiError } from "../ui/hooks";
import { toast } from "../ui/toasts";

const STATUSES = ["live", "pickup", "waiting", "started", "arrived", "completed", "cancelled"];

export const RIDE_COLUMNS: Column<Ride>[] = [
  { name: "Ride", cell: (ride) => <Id id={ride.ride_id} href={to.ride(ride.ride_id)} label="ride" row /> },
  { name: "Status", cell: (ride) => <Status of={ride.status} /> },
  { name: "Began", cell: (ride) => <Time at={ride.created_at} /> },
  { name: "Last event", cell: (ride) => <Time at={ride.updated_at} form="ago" /> },
  { name: "Driver", cell: (ride) => <Id id={ride.driver_id} href={to.person(ride.driver_id)} label="driver" /> },
  { name: "Passenger", cell: (ride) => <Id id={ride.passenger_id} href={to.person(ride.passenger_id)} label="passenger" /> },
  { name: "Market", cell: (ride) => ride.market_id ?? <span class="muted none">–</span> },
  { name: "Total", cell: (ride) => <MoneyText of={ride.total} />, num: true },
  { name: "Payment", cell: (ride) => (ride.payment_status ? <Status of={ride.payment_status} /> : <span class="muted none">–</span>) },
];

export function loadRides(filters: Record<string, string>) {
  return async (cursor: string | null) => {
    const page = await get<{ rides: Ride[]; next_cursor: string | null }>("rides", { ...filters, cursor });
    return { rows: page.rides, next: page.next_cursor };
  };
}

export function RidesPage() {
  useTitle("Rides");
  const [filters, setFilters] = useState({ status: searchParam("status"), market: searchParam("market") });
  const [phone, setPhone] = useState("");
  const pages = usePages(`rides ${JSON.stringify(filters)}`, loadRides(filters), 5_000);
  const change = (part: Partial<typeof filters>) => {
    const next = { ...filters, ...part };
    setFilters(next);
    replaceSearch(next);
  };
  const byPhone = async (event: Event) => {
    event.preventDefault();
    const number = parsePhone(phone);
    if (!number) return toast("A phone number has 7 to 15 digits, with its country: +1 212 555 0123.", true);
    try {
      const found = await find({ kind: "phone", phone: number });
      if ("path" in found) navigate(found.path);
      else toast(found.nothing, true);
    } catch (error) {
      toast(asApiError(error).message, true);
    }
  };
  return (
    <div class="stack">
      <div class="head">
        <h1>Rides</h1>
      </div>
      <form class="filters" onSubmit={byPhone}>
        <label class="field">
          <span>Status</span>
          <select class="input" value={filters.status} onChange={(event) => change({ status: event.currentTarget.value })}>
            <option value="">All</option>
            {STATUSES.map((status) => (
              <option key={status} value={status}>
                {status === "live" ? "under way" : status}
              </option>
            ))}
          </select>
        </label>
        <label class="field">
          <span>Market</span>
          <input
            class="input"
            value={filters.market}
            placeholder="market id"
            autoComplete="off"
            onChange={(event) => change({ market: event.currentTarget.value.trim() })}
          />
        </label>
        <label class="field">
          <span>Driver’s or passenger’s phone</span>
          <input
            class="input"
            type="tel"
            value={phone}
            placeholder="+1 212 555 0123"
            autoComplete="off"
            onInput={(event) => setPhone(event.currentTarget.value)}
          />
        </label>
        <button type="submit" class="button">
          Find
        </button>
      </form>
      {pages.rows && pages.error && <Stale error={pages.error} retry={pages.reload} />}
      <Card title="Newest first" aside={<Reload reload={pages.reload} />} flush>
        {pages.rows === null ? (
          pages.error ? (
            <Failed error={pages.error} retry={pages.reload} />
          ) : (
            <Loading lines={8} />
          )
        ) : pages.rows.length === 0 ? (
          <Empty title="No ride">{filters.status || filters.market ? "None matches these filters." : "Nobody has ridden yet."}</Empty>
        ) : (
          <Table rows={pages.rows} columns={RIDE_COLUMNS} rowKey={(ride) => ride.ride_id} dense label="Rides" />
        )}
        <More hasMore={pages.hasMore && pages.rows !== null} loading={pages.loadingMore} more={pages.more} />
      </Card>
    </div>
  );
}
