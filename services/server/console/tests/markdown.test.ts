import { readFileSync } from "node:fs";

import { expect, test } from "vitest";

import { anchor, inlines, parse } from "../src/pure/markdown";
import { issues } from "../src/pure/health";

const RUNBOOK = readFileSync(new URL("../../../../docker/RUNBOOK.md", import.meta.url), "utf8");

test("blocks", () => {
  const blocks = parse("# A `b`\n\none\ntwo\n\n- x\n  y\n- z\n\n```sql\nselect 1\n\n- 2\n```\n1. first\n\n| a | b |\n|---|---|\n| 1 | `2` |\n");
  expect(blocks).toEqual([
    { kind: "heading", level: 1, text: "A b", id: "a-b" },
    { kind: "paragraph", inlines: [{ kind: "text", text: "one two" }] },
    { kind: "list", ordered: false, items: [[{ kind: "text", text: "x y" }], [{ kind: "text", text: "z" }]] },
    { kind: "code", text: "select 1\n\n- 2" },
    { kind: "list", ordered: true, items: [[{ kind: "text", text: "first" }]] },
    {
      kind: "table",
      head: [[{ kind: "text", text: "a" }], [{ kind: "text", text: "b" }]],
      rows: [[[{ kind: "text", text: "1" }], [{ kind: "code", text: "2" }]]],
    },
  ]);
});

test("inlines", () => {
  expect(inlines("see **this** and `that`, [there](a.md)")).toEqual([
    { kind: "text", text: "see " },
    { kind: "strong", text: "this" },
    { kind: "text", text: " and " },
    { kind: "code", text: "that" },
    { kind: "text", text: ", " },
    { kind: "link", text: "there", href: "a.md" },
  ]);
});

test("any text ends", () => {
  for (const text of ["|", "|\n|", "```", "- ", "#", "\n\n", "| a |\n|---|", "1. a\n```\nb"]) expect(() => parse(text)).not.toThrow();
});

test("every section that the console links to is in the runbook", () => {
  const sections = parse(RUNBOOK).flatMap((block) => (block.kind === "heading" ? [block.id] : []));
  const part = (name: string, status: "not ready" | "degraded") => ({ name, status, detail: null });
  const pod = { pod_id: "a", services: [], time: "", uptime_s: 1, sockets: 0, subscriptions: 0, memory_bytes: 1, cpu_percent: 1 };
  const stream = { name: "S", subjects: [], retention: "", storage: "", discard: "", max_age_s: 1, max_bytes: 1, detail: null };
  const numbers = { messages: 1, bytes: 1, first_sequence: 1, last_sequence: 1, consumers: 1, created_at: null };
  const consumer = { name: "c", stream: "S", subject: "", service: "match", redelivered: 0, ack_floor: 0, delivered: 0, ack_wait_s: 1 };
  const more = { max_deliver: 1, max_ack_pending: 1, fast: false, created_at: null, detail: null, pending: 1, ack_pending: 0 };
  const found = issues({
    pods: [
      { ...pod, last_seen_s: 1, status: "not ready", parts: [part("bus", "not ready"), part("database rides", "not ready")] },
      { ...pod, pod_id: "b", last_seen_s: 20, status: null, parts: [part("breaker x", "degraded"), part("consumer c", "not ready")] },
    ],
    streams: {
      streams: [
        { ...stream, ...numbers, fill: 0.95, state: "ok" },
        { ...stream, ...numbers, name: "T", fill: null, state: "missing" },
      ],
      differences: ["S differs"],
      observed_ago_s: 1,
    },
    consumers: [
      { ...consumer, ...more, lag: 5_000, state: "ok" },
      { ...consumer, ...more, name: "d", lag: 0, state: "missing" },
    ],
    deadLetters: 2,
    outboxOldest: { rides: 90 },
    services: ["match", "users"],
  });
  expect(found.length).toBeGreaterThan(11);
  for (const { runbook } of found) expect(sections, runbook).toContain(anchor(runbook));
});
