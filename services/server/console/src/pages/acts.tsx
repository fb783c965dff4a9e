/** The audit of operators: who did what, to whom, why. */

import { get } from "../api/client";
import type { Act } from "../api/types";
import { money, title, words } from "../pure/format";
import { to } from "../router";
import { usePages, useTitle } from "../ui/hooks";
import { Badge, Card, Empty, Failed, Id, Loading, More, Reload, Stale, Table, Time } from "../ui/parts";
import type { Column } from "../ui/parts";

/** What it was done to, and what else the event says. */
function Subject({ of }: { of: Act }) {
  const person = of.driver_id ?? of.user_id;
  return (
    <span class="row">
      {of.ride_id && (
        <span class="nowrap">
          ride <Id id={of.ride_id} href={to.ride(of.ride_id)} label="ride" row />
        </span>
      )}
      {person && (
        <span class="nowrap">
          {of.driver_id ? "driver" : "user"} <Id id={person} href={to.person(person)} label="person" row />
        </span>
      )}
      {of.consumer && (
        <span>
          letter of <span class="mono">{of.consumer}</span>
        </span>
      )}
      {of.amount && <strong>{money(of.amount)}</strong>}
      {of.until && (
        <span>
          until <Time at={of.until} />
        </span>
      )}
      {of.previous_status && <span class="muted">was {words(of.previous_status)}</span>}
      {of.found !== undefined && <span class="muted">{of.found === 0 ? "found nobody" : `found ${of.found}`}</span>}
    </span>
  );
}

const COLUMNS: Column<Act>[] = [
  { name: "When", cell: (act) => <Time at={act.acted_at} /> },
  {
    name: "Who",
    cell: (act) => (
      <span class="row nowrap">
        {act.by} <Badge>{act.role}</Badge>
      </span>
    ),
  },
  { name: "Did", cell: (act) => title(act.act) },
  { name: "To", cell: (act) => <Subject of={act} /> },
  { name: "Why", cell: (act) => act.reason ?? <span class="muted">–</span> },
];

export function ActsPage() {
  useTitle("Acts of operators");
  const load = async (cursor: string | null) => {
    const page = await get<{ acts: Act[]; next_cursor: string | null }>("acts", { cursor });
    return { rows: page.acts, next: page.next_cursor };
  };
  const pages = usePages("acts", load, 10_000);
  return (
    <div class="stack">
      <div class="head">
        <h1>Acts of operators</h1>
      </div>
      {pages.rows && pages.error && <Stale error={pages.error} retry={pages.reload} />}
      <Card title="Newest first" aside={<Reload reload={pages.reload} />} flush>
        {pages.rows === null ? (
          pages.error ? (
            <Failed error={pages.error} retry={pages.reload} />
          ) : (
            <Loading lines={8} />
          )
        ) : pages.rows.length === 0 ? (
          <Empty title="Nobody has done anything">Every act, and every look-up by phone, is stored for a year.</Empty>
        ) : (
          <Table rows={pages.rows} columns={COLUMNS} rowKey={(act) => act.act_id} label="Acts of operators" />
        )}
        <More hasMore={pages.hasMore && pages.rows !== null} loading={pages.loadingMore} more={pages.more} />
      </Card>
    </div>
  );
}
