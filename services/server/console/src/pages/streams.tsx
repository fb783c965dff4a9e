/** Streams and consumers: how full, how far behind. */

import { useState } from "preact/hooks";

import { get } from "../api/client";
import type { Consumer, Consumers, Stream, Streams } from "../api/types";
import { bytes, count, duration, percent } from "../pure/format";
import { BASE, to } from "../router";
import { useLoad, useTitle } from "../ui/hooks";
import type { Loaded } from "../ui/hooks";
import { Badge, Card, Failed, Loading, Meter, Stale, Status, Table } from "../ui/parts";
import type { Column } from "../ui/parts";

const number = (value: number | null) => (value === null ? <span class="muted">–</span> : count(value));

const RETENTION: Record<string, string> = {
  limits: "all",
  interest: "until all consumers have it",
  workqueue: "until one consumer has it",
};

const STREAM_COLUMNS: Column<Stream>[] = [
  {
    name: "Stream",
    cell: (stream) => (
      <span>
        <span class="mono nowrap">{stream.name}</span>
        <br />
        <span class="muted small">{stream.subjects.join(", ")}</span>
      </span>
    ),
  },
  { name: "State", cell: (stream) => <span title={stream.detail ?? ""}><Status of={stream.state} /></span> },
  { name: "Messages", cell: (stream) => number(stream.messages), num: true },
  {
    name: "Filled",
    cell: (stream) => (
      <span style={{ display: "grid", gap: "4px", minWidth: "120px" }}>
        <span class="nowrap">
          {stream.bytes === null ? "–" : bytes(stream.bytes)} <span class="muted">of {bytes(stream.max_bytes)}</span>
        </span>
        {stream.fill !== null && <Meter part={stream.fill} label={`${percent(stream.fill)} full`} />}
      </span>
    ),
  },
  {
    name: "Stores",
    cell: (stream) => (
      <span>
        <span class="nowrap">
          {RETENTION[stream.retention] ?? stream.retention}, {duration(stream.max_age_s)}
        </span>
        <br />
        <span class="muted small">
          in {stream.storage === "file" ? "a file" : "memory"}; {stream.discard === "old" ? "drops the oldest" : "refuses more"} when full
        </span>
      </span>
    ),
  },
  { name: "Last", cell: (stream) => number(stream.last_sequence), num: true },
];

const CONSUMER_COLUMNS: Column<Consumer>[] = [
  { name: "Consumer", cell: (consumer) => <span class="mono">{consumer.name}</span> },
  { name: "Service", cell: (consumer) => consumer.service },
  {
    name: "State",
    cell: (consumer) => (
      <span class="row nowrap" title={consumer.detail ?? ""}>
        <Status of={consumer.state} />
        {consumer.fast && <Badge title="The fast lane: a core subscription brings events before the stream does">fast</Badge>}
      </span>
    ),
  },
  {
    name: "Lag",
    cell: (consumer) => ((consumer.lag ?? 0) > 1_000 ? <Badge tone="bad">{count(consumer.lag ?? 0)}</Badge> : number(consumer.lag)),
    num: true,
  },
  { name: "Waiting", cell: (consumer) => number(consumer.pending), num: true },
  {
    name: "In hand",
    cell: (consumer) => (
      <span>
        {number(consumer.ack_pending)} <span class="muted">of {count(consumer.max_ack_pending)}</span>
      </span>
    ),
    num: true,
  },
  { name: "Redelivered", cell: (consumer) => number(consumer.redelivered), num: true },
  { name: "Delivered", cell: (consumer) => number(consumer.delivered), num: true },
  {
    name: "Tries",
    cell: (consumer) => <span class="nowrap">{consumer.max_deliver} × {duration(consumer.ack_wait_s)}</span>,
  },
  {
    name: "Dead letters",
    cell: (consumer) => <a href={`${BASE}/dead-letters?consumer=${consumer.name}`}>Letters</a>,
    end: true,
  },
];

export function StreamsPage() {
  useTitle("Streams and consumers");
  const streams = useLoad("streams", () => get<Streams>("streams"), 5_000);
  const consumers = useLoad("consumers", () => get<Consumers>("consumers"), 5_000);
  const [service, setService] = useState("");
  const services = [...new Set(consumers.data?.consumers.map(({ service }) => service) ?? [])];
  const shown = consumers.data?.consumers.filter((consumer) => service === "" || consumer.service === service) ?? [];
  // Whoever is behind comes first; the others as the topology lists them.
  const sorted = [...shown].sort((a, b) => (b.lag ?? 0) - (a.lag ?? 0));
  const differences = streams.data?.differences ?? [];
  return (
    <div class="stack">
      <div class="head">
        <h1>Streams and consumers</h1>
      </div>
      {differences.length > 0 && (
        <div class="notice" role="alert">
          <div class="grow">
            <strong>The topology differs from the settings</strong>
            {differences.map((difference) => (
              <div key={difference}>{difference}</div>
            ))}
          </div>
          <a class="button" href={to.runbook("StreamStuck")}>
            Runbook
          </a>
        </div>
      )}
      <Card title="Streams" aside={<Observed of={streams} />} flush>
        <Part of={streams}>
          {(data) => <Table rows={data.streams} columns={STREAM_COLUMNS} rowKey={({ name }) => name} label="Streams" />}
        </Part>
      </Card>
      <Card
        title="Consumers"
        aside={
          <span class="row">
            <Observed of={consumers} />
            <select class="input" aria-label="Service" value={service} onChange={(event) => setService(event.currentTarget.value)}>
              <option value="">All services</option>
              {services.map((service) => (
                <option key={service}>{service}</option>
              ))}
            </select>
          </span>
        }
        flush
      >
        <Part of={consumers}>
          {() => <Table rows={sorted} columns={CONSUMER_COLUMNS} rowKey={({ name }) => name} label="Consumers" />}
        </Part>
      </Card>
    </div>
  );
}

function Observed({ of }: { of: Loaded<{ observed_ago_s: number }> }) {
  return of.data && <span class="muted small">observed {duration(Math.max(1, Math.round(of.data.observed_ago_s)))} ago</span>;
}

function Part<T>({ of, children }: { of: Loaded<T>; children: (data: T) => preact.ComponentChildren }) {
  if (of.data === null) return of.error ? <Failed error={of.error} retry={of.reload} /> : <Loading lines={7} />;
  return (
    <>
      {of.error && <Stale error={of.error} retry={of.reload} />}
      {children(of.data)}
    </>
  );
}
