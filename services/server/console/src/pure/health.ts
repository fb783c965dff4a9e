/** What is wrong with the platform, the worst first, each with what to do. Pure. */

import type { Consumer, Pod, Streams } from "../api/types";
import { bytes, count, duration, percent } from "./format";

export interface Issue {
  key: string;
  tone: "bad" | "warn";
  title: string;
  /** What to do about it. */
  advice: string;
  /** The section of the runbook. */
  runbook: string;
  /** The page of the console where it can be looked at. */
  page: string;
}

export interface Observed {
  pods: Pod[] | null;
  streams: Streams | null;
  consumers: Consumer[] | null;
  deadLetters: number | null;
  /** Of the oldest event that waits to be published, by service, seconds. */
  outboxOldest: Record<string, number>;
  /** The services that somebody must run. */
  services: readonly string[];
}

/** As in docker/alerts.yaml. */
const LAG_MAX = 1_000;
const OUTBOX_MAX_S = 60;
const FILL_MAX = 0.7;
/** Three heartbeats. */
const SILENT_S = 15;

export const SERVICES = ["users", "match", "rides", "location"] as const;

function sectionOf(part: string): string {
  if (part === "bus") return "NatsAway";
  if (part.startsWith("database")) return "PostgresAway";
  if (part.startsWith("breaker")) return "BreakerOpen";
  return "ConsumerLag";
}

export function issues(observed: Observed): Issue[] {
  const found: Issue[] = [];
  const add = (issue: Issue) => found.push(issue);
  const { pods } = observed;
  if (pods) {
    for (const service of observed.services) {
      if (!pods.some((pod) => pod.services.includes(service) && pod.last_seen_s < SILENT_S)) {
        add({
          key: `nobody-${service}`,
          tone: "bad",
          title: `No process runs ${service}`,
          advice: `Start one: rideshare run ${service}. Its messages wait until then.`,
          runbook: service === "match" ? "MatchWithoutLeader" : "ConsumerLag",
          page: "pods",
        });
      }
    }
    for (const pod of pods) {
      if (pod.status === null || pod.last_seen_s >= SILENT_S) {
        add({
          key: `silent-${pod.pod_id}`,
          tone: "bad",
          title: `${pod.pod_id} does not answer`,
          advice: `Its last heartbeat was ${duration(pod.last_seen_s)} ago. If it does not come back, restart it.`,
          runbook: "NatsAway",
          page: "pods",
        });
      }
      for (const part of pod.parts ?? []) {
        if (part.status === "ready") continue;
        const down = part.status === "not ready";
        add({
          key: `part-${pod.pod_id}-${part.name}`,
          tone: down ? "bad" : "warn",
          title: `${pod.pod_id}: ${part.name} is ${down ? "not ready" : "degraded"}`,
          advice: part.detail ?? "It gives no detail.",
          runbook: sectionOf(part.name),
          page: "pods",
        });
      }
    }
  }
  for (const stream of observed.streams?.streams ?? []) {
    if (stream.state === "missing") {
      add({
        key: `missing-${stream.name}`,
        tone: "bad",
        title: `${stream.name} is missing`,
        advice: stream.detail ?? "The processes create it again within seconds, and publish the last day's events to it.",
        runbook: "StreamStuck",
        page: "streams",
      });
    } else if (stream.fill !== null && stream.fill > FILL_MAX) {
      add({
        key: `full-${stream.name}`,
        tone: stream.fill > 0.9 ? "bad" : "warn",
        title: `${stream.name} is ${percent(stream.fill)} full`,
        advice: `It holds ${bytes(stream.bytes ?? 0)} of ${bytes(stream.max_bytes)}. Raise ${stream.name}_MAX_BYTES and restart one process.`,
        runbook: "StreamNearlyFull",
        page: "streams",
      });
    }
  }
  const differences = observed.streams?.differences ?? [];
  if (differences.length > 0) {
    const more = differences.length > 1 ? ` (and ${differences.length - 1} more)` : "";
    add({
      key: "differences",
      tone: "warn",
      title: "The topology differs from the settings",
      advice: `${differences[0]}${more}`,
      runbook: "StreamStuck",
      page: "streams",
    });
  }
  for (const consumer of observed.consumers ?? []) {
    if (consumer.state === "missing") {
      add({
        key: `consumer-${consumer.name}`,
        tone: "bad",
        title: `The consumer ${consumer.name} is missing`,
        advice: consumer.detail ?? "The processes create it again within seconds.",
        runbook: "StreamStuck",
        page: "streams",
      });
    } else if ((consumer.lag ?? 0) > LAG_MAX) {
      add({
        key: `lag-${consumer.name}`,
        tone: "bad",
        title: `${consumer.name} is ${count(consumer.lag ?? 0)} messages behind`,
        advice:
          (consumer.ack_pending ?? 0) > 0
            ? `${count(consumer.ack_pending ?? 0)} are being handled: if it does not shrink, the database is slow.`
            : `Nobody pulls: look whether a process of ${consumer.service} is ready.`,
        runbook: "ConsumerLag",
        page: "streams",
      });
    }
  }
  for (const [service, age] of Object.entries(observed.outboxOldest)) {
    if (age > OUTBOX_MAX_S) {
      add({
        key: `outbox-${service}`,
        tone: "bad",
        title: `Events of ${service} wait to be published, the oldest for ${duration(age)}`,
        advice: "The bus does not answer, a stream is full, or the relay does not run. Nothing is lost.",
        runbook: "OutboxOld",
        page: "streams",
      });
    }
  }
  if ((observed.deadLetters ?? 0) > 0) {
    const letters = observed.deadLetters ?? 0;
    add({
      key: "dead-letters",
      tone: "warn",
      title: letters === 1 ? "One message was given up" : `${count(letters)} messages were given up`,
      advice: "Read why, correct the cause, then requeue them.",
      runbook: "DeadLetters",
      page: "dead-letters",
    });
  }
  return found.sort((a, b) => Number(a.tone === "warn") - Number(b.tone === "warn"));
}

/** `rideshare_outbox_oldest_seconds{service="rides"} 0` of the metrics' text, by service. */
export function outboxOldest(metrics: string): Record<string, number> {
  const ages: Record<string, number> = {};
  for (const match of metrics.matchAll(/^rideshare_outbox_oldest_seconds\{[^}]*service="([^"]+)"[^}]*\} ([\d.e+-]+)$/gm)) {
    ages[match[1] ?? ""] = Number(match[2]);
  }
  return ages;
}

/** Events a second between two observations of all streams; null if a stream was created again or nothing is known. */
export function publishRate(
  before: { at: number; sequences: Record<string, number> },
  after: { at: number; sequences: Record<string, number> },
): number | null {
  const elapsed = (after.at - before.at) / 1000;
  if (elapsed <= 0) return null;
  let events = 0;
  for (const [name, sequence] of Object.entries(after.sequences)) {
    const earlier = before.sequences[name];
    if (earlier === undefined || sequence < earlier) return null;
    events += sequence - earlier;
  }
  return events / elapsed;
}
