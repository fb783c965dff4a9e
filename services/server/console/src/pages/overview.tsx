/** Whether the city is well, at a glance: what is wrong first, each with what to do. */

import { useEffect, useState } from "preact/hooks";

import { get, text } from "../api/client";
import type { Consumers, DeadLetter, Streams } from "../api/types";
import { coarse, count, duration, percent } from "../pure/format";
import { SERVICES, issues, outboxOldest, publishRate } from "../pure/health";
import { to } from "../router";
import { useFeed, useLoad, useTitle } from "../ui/hooks";
import { Icon } from "../ui/icons";
import { Badge, Card, Empty, Failed, Id, Loading, Status, Time, Unavailable } from "../ui/parts";

/** One every 5 s: ten minutes. It is of this tab, and outlives the page. */
const RATES_MAX = 120;
const rates: number[] = [];
let last: { at: number; sequences: Record<string, number> } | null = null;

function record(streams: Streams): void {
  const sequences: Record<string, number> = {};
  for (const stream of streams.streams) if (stream.last_sequence !== null) sequences[stream.name] = stream.last_sequence;
  // The server observes the streams every 5 s: two answers of one observation differ by nothing.
  const now = { at: Date.now() - streams.observed_ago_s * 1000, sequences };
  if (last && now.at - last.at < 1_000) return;
  const rate = last && publishRate(last, now);
  if (rate !== null) rates.push(rate);
  if (rates.length > RATES_MAX) rates.shift();
  last = now;
}

export function OverviewPage() {
  useTitle("Overview");
  const feed = useFeed();
  const streams = useLoad("streams", () => get<Streams>("streams"), 5_000);
  const consumers = useLoad("consumers", () => get<Consumers>("consumers"), 5_000);
  const letters = useLoad(
    "letters",
    () => get<{ dead_letters: DeadLetter[]; total: number }>("dead-letters", { limit: 5 }),
    10_000,
  );
  const metrics = useLoad("metrics", () => text("/metrics"), 10_000);
  const [, setRecorded] = useState(0);
  useEffect(() => {
    if (streams.data) {
      record(streams.data);
      setRecorded((n) => n + 1);
    }
  }, [streams.data]);
  const outbox = metrics.data ? outboxOldest(metrics.data) : {};
  const found = issues({
    pods: feed.pods,
    streams: streams.data,
    consumers: consumers.data?.consumers ?? null,
    deadLetters: letters.data?.total ?? null,
    outboxOldest: outbox,
    services: SERVICES,
  });
  const { live, pods } = feed;
  const known = pods !== null && streams.data !== null && consumers.data !== null;
  const bad = found.filter(({ tone }) => tone === "bad").length;
  const tone = feed.lostAt !== null || bad > 0 ? "bad" : found.length > 0 ? "warn" : "good";
  const lag = consumers.data?.consumers.reduce((sum, { lag }) => sum + (lag ?? 0), 0);
  const oldest = Math.max(0, ...Object.values(outbox));
  const onDuty = live?.positions.filter(({ on_duty }) => on_duty);
  const more = (cut: boolean | undefined) => (cut ? "+" : "");
  return (
    <div class="stack">
      <h1 class="sr-only">Overview</h1>
      {known || found.length > 0 || feed.lostAt !== null ? (
        <div class={`verdict ${tone}`} role="status">
          <Icon name={tone} />
          <div>
            <strong>{verdict(tone, found.length, feed.lostAt !== null)}</strong>
            <p>{feed.lostAt !== null ? (feed.fault ?? "Nothing comes from the server.") : summary(pods?.length ?? 0, lag ?? 0)}</p>
          </div>
        </div>
      ) : (
        <Card title="Looking at the platform">
          <Loading lines={2} />
        </Card>
      )}
      {found.length > 0 && (
        <Card title="To look at" flush>
          <ul class="issues">
            {found.map((issue) => (
              <li key={issue.key}>
                <Badge tone={issue.tone}>{issue.tone === "bad" ? "now" : "soon"}</Badge>
                <strong>{issue.title}</strong>
                <p>{issue.advice}</p>
                <span class="acts">
                  <a class="button" href={to.runbook(issue.runbook)}>
                    Runbook
                  </a>
                  <a class="button" href={to.page(issue.page)} data-row="">
                    Look
                  </a>
                </span>
              </li>
            ))}
          </ul>
        </Card>
      )}
      {live && <Unavailable parts={live.unavailable} />}
      <div class="tiles">
        <Tile label="Drivers on duty" href={to.page("map")} value={onDuty && `${count(onDuty.length)}${more(live?.truncated.positions)}`} />
        <Tile label="Searches" href={to.page("map")} value={live && `${count(live.searches.length)}${more(live.truncated.searches)}`} />
        <Tile
          label="Rides under way"
          href={`${to.page("rides")}?status=live`}
          value={live && `${count(live.rides.length)}${more(live.truncated.rides)}`}
        />
        <Tile label="Messages behind" href={to.page("streams")} value={lag === undefined ? null : count(lag)} tone={(lag ?? 0) > 1_000 ? "bad" : ""} />
        <Tile
          label="Dead letters"
          href={to.page("dead-letters")}
          value={letters.data && count(letters.data.total)}
          tone={(letters.data?.total ?? 0) > 0 ? "warn" : ""}
        />
        <Tile
          label="Oldest unpublished"
          href={to.page("streams")}
          value={metrics.data === null ? null : oldest === 0 ? "none" : duration(oldest)}
          tone={oldest > 60 ? "bad" : ""}
        />
      </div>
      <div class="columns">
        <Card title="Events a second" aside={<span class="muted small">of all streams, for ten minutes at most</span>}>
          <Spark values={rates} />
        </Card>
        <Card title="Services" flush>
          {pods === null ? <Loading lines={4} /> : <Services />}
        </Card>
      </div>
      <div class="columns even">
        <Card title="Longest searches" aside={<a href={to.page("map")}>Map</a>} flush>
          {live === null ? (
            <Loading lines={3} />
          ) : live.searches.length === 0 ? (
            <Empty title="Nobody is searching" />
          ) : (
            <table class="table">
              <tbody>
                {live.searches.slice(0, 6).map((search) => (
                  <tr key={search.request_id}>
                    <td>
                      {search.user_id && <Id id={search.user_id} href={to.person(search.user_id)} label="passenger" row />}
                    </td>
                    <td>{search.vehicle_type}</td>
                    <td class="num">
                      <Time at={search.began_at} form="ago" />
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </Card>
        <Card title="Streams" aside={<a href={to.page("streams")}>All</a>} flush>
          {streams.data === null ? (
            streams.error ? (
              <Failed error={streams.error} retry={streams.reload} />
            ) : (
              <Loading lines={3} />
            )
          ) : (
            <table class="table">
              <tbody>
                {streams.data.streams.map((stream) => (
                  <tr key={stream.name}>
                    <td class="mono">{stream.name}</td>
                    <td class="num">{stream.fill === null ? <Status of={stream.state} /> : `${percent(stream.fill)} full`}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </Card>
      </div>
    </div>
  );
}

function verdict(tone: "good" | "warn" | "bad", issues: number, lost: boolean): string {
  if (lost) return "The console has lost the platform";
  if (tone === "good") return "All is well";
  if (issues === 1) return tone === "bad" ? "One thing needs you now" : "One thing to look at";
  return tone === "bad" ? `${issues} things need you` : `${issues} things to look at`;
}

function summary(pods: number, lag: number): string {
  const processes = pods === 1 ? "One process is" : `${pods} processes are`;
  return `${processes} there; ${lag === 0 ? "no message waits" : lag === 1 ? "one message waits" : `${count(lag)} messages wait`} to be handled.`;
}

function Tile({ label, value, href, tone = "" }: { label: string; value: string | null | undefined; href: string; tone?: string }) {
  return (
    <a class={`tile ${tone}`} href={href}>
      <span class="label">{label}</span>
      <div class="value">{value ?? "–"}</div>
    </a>
  );
}

/** Each service with the processes that run it. */
function Services() {
  const { pods } = useFeed();
  return (
    <table class="table">
      <tbody>
        {SERVICES.map((service) => {
          const mine = (pods ?? []).filter((pod) => pod.services.includes(service));
          const ready = mine.filter((pod) => pod.status === "ready" || pod.status === "degraded").length;
          const state = mine.length === 0 ? "missing" : ready === mine.length ? "ready" : "not ready";
          return (
            <tr key={service}>
              <td>
                <a href={to.page("pods")}>{service}</a>
              </td>
              <td class="num muted">
                {ready} of {mine.length}
              </td>
              <td class="num">
                <Status of={state} />
              </td>
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}

function Spark({ values }: { values: number[] }) {
  if (values.length < 2) {
    return <Empty title="Counting">A line appears within a quarter of a minute.</Empty>;
  }
  const most = Math.max(...values, 1);
  const [width, height] = [600, 64];
  // Two minutes at least, so that the first points are no wall; then as long as there are points.
  const shownPoints = Math.max(24, values.length);
  const x = (n: number) => width - ((values.length - 1 - n) / (shownPoints - 1)) * width;
  const y = (value: number) => height - 2 - (value / most) * (height - 6);
  const points = values.map((value, n) => `${x(n).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const now = values[values.length - 1] ?? 0;
  const shown = (value: number) => (value < 9.95 ? value.toFixed(1) : count(Math.round(value)));
  const label = `${shown(now)} a second now, at most ${shown(most)} in the last ${coarse(values.length * 5)}`;
  return (
    <figure>
      <svg class="spark" viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none" role="img" aria-label={label}>
        <polygon points={`${x(0).toFixed(1)},${height} ${points} ${width},${height}`} fill="currentColor" opacity="0.14" />
        <polyline points={points} fill="none" stroke="currentColor" stroke-width="1.8" vector-effect="non-scaling-stroke" />
      </svg>
      <figcaption class="muted small">{label}</figcaption>
    </figure>
  );
}
