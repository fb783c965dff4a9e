import { expect, test } from "vitest";

import { backoffMs, sseParser } from "../src/pure/sse";

const stream = 'event: live\ndata: {"a":1}\n\n: ping\n\nevent: health\r\ndata: {"b":\r\ndata: 2}\r\nid: 7\r\n\r\ndata:x\n\n';
const events = [
  { event: "live", data: '{"a":1}', id: null },
  { event: "health", data: '{"b":\n2}', id: "7" },
  { event: "message", data: "x", id: "7" },
];

test("events are the same however the stream is cut", () => {
  for (let length = 1; length <= stream.length; length += 1) {
    const parse = sseParser();
    const seen = [];
    for (let from = 0; from < stream.length; from += length) seen.push(...parse(stream.slice(from, from + length)));
    expect(seen, `in pieces of ${length}`).toEqual(events);
  }
});

test("an event that is not complete is no event, and has a limit", () => {
  const parse = sseParser();
  expect(parse("data: 1\n")).toEqual([]);
  expect(parse("\n")).toEqual([{ event: "message", data: "1", id: null }]);
  expect(() => sseParser()("x".repeat(17 * 1024 * 1024))).toThrow("too long");
});

test("pauses grow to half a minute", () => {
  expect([1, 2, 3, 4, 5, 6, 99].map((tries) => backoffMs(tries, 1))).toEqual([1e3, 2e3, 4e3, 8e3, 16e3, 30e3, 30e3]);
  expect(backoffMs(3, 0)).toBe(2_000);
});
