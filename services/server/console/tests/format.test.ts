import { readFileSync } from "node:fs";

import { describe, expect, test } from "vitest";

import { ago, bytes, instant, coarse, decimals, duration, metres, minorUnits, money, percent, shortId, title, utc, when } from "../src/pure/format";

test("a text that is no time has none", () => {
  expect(instant("2026-11-27T08:00:00Z")?.getTime()).toBe(Date.UTC(2026, 10, 27, 8));
  for (const text of ["yesterday", "2026-13-01T00:00:00Z", ""]) expect(instant(text)).toBeNull();
});

describe("money", () => {
  test.each([
    [1_234, "USD", "$12.34"],
    [-5, "EUR", "−€0.05"],
    [1_234, "JPY", "¥1,234"],
    [7, "KWD", "KWD 0.007"],
    [100, "HUF", "HUF 1.00"],
    [0, "USD", "$0.00"],
    [1_234, "no currency", "12.34 no currency"],
  ])("%i of %s is %s", (amount, currency, text) => {
    expect(money({ amount, currency }).replaceAll("\u00a0", " ")).toBe(text);
  });

  test.each([
    ["12.34", "USD", 1_234],
    ["12,3", "USD", 1_230],
    [" 5 ", "USD", 500],
    ["500", "JPY", 500],
    ["0.007", "KWD", 7],
    ["0.29", "USD", 29],
    ["1.1", "JPY", null],
    ["12.345", "USD", null],
    ["0", "USD", null],
    ["-5", "USD", null],
    ["1e3", "USD", null],
    ["", "USD", null],
    ["9999999999", "USD", null],
  ])("%s typed as %s is %s", (text, currency, amount) => {
    expect(minorUnits(text, currency)).toBe(amount);
  });
});

test("currencies have the decimals that the platform counts by", () => {
  const rust = readFileSync(new URL("../../../../streams/src/event/money.rs", import.meta.url), "utf8");
  const table = rust.slice(rust.indexOf("fn decimals"), rust.indexOf("_ => 2"));
  const arms = [...table.matchAll(/((?:"[A-Z]{3}"[\s|]*)+)=> (\d)/g)];
  expect(arms.length).toBe(2);
  for (const [, codes, digits] of arms) {
    for (const [code] of codes?.matchAll(/[A-Z]{3}/g) ?? []) expect(decimals(code), code).toBe(Number(digits));
  }
  expect(["USD", "EUR", "HUF"].map(decimals)).toEqual([2, 2, 2]);
});

describe("times", () => {
  test.each([
    [0, "0 ms"],
    [0.85, "850 ms"],
    [4.21, "4.2 s"],
    [9.96, "10 s"],
    [59.6, "1 min"],
    [200, "3 min 20 s"],
    [3_600, "1 h"],
    [7_500, "2 h 5 min"],
    [274_000, "3 d 4 h"],
    [-3, "3.0 s"],
  ])("%d s is %s", (seconds, text) => expect(duration(seconds)).toBe(text));

  test("how long ago", () => {
    const now = new Date("2026-01-02T10:00:00Z");
    const before = (seconds: number) => new Date(now.getTime() - seconds * 1000);
    expect([0.3, 12, 119, 3_601, 90_000, -40].map((seconds) => ago(before(seconds), now))).toEqual([
      "now",
      "12 s ago",
      "1 min ago",
      "1 h ago",
      "1 d ago",
      "in 40 s",
    ]);
    expect(coarse(59.4)).toBe("59 s");
  });

  test("the day and the year are left out where they are today's", () => {
    const now = new Date(2026, 5, 15, 12);
    expect(when(new Date(2026, 5, 15, 9, 5, 7), now)).toBe("09:05:07");
    expect(when(new Date(2026, 5, 14, 9, 5, 7), now)).toBe("14 Jun 09:05:07");
    expect(when(new Date(2025, 5, 15, 9, 5, 7), now)).toBe("15 Jun 2025 09:05:07");
    expect(utc(new Date("2026-01-02T10:00:00.123Z"))).toBe("2026-01-02 10:00:00.123 UTC");
    expect(utc(new Date("none"))).toBe("no time");
  });
});

test("lengths, sizes, parts, ids", () => {
  expect([3, 994, 995, 12_340, 150_000].map(metres)).toEqual(["3 m", "994 m", "1.0 km", "12.3 km", "150 km"]);
  expect([0, 1_023, 1_536, 603_979_776].map(bytes)).toEqual(["0 B", "1023 B", "1.5 KiB", "576 MiB"]);
  expect([0, 0.004, 0.5, 1].map(percent)).toEqual(["0 %", "0.4 %", "50 %", "100 %"]);
  expect(shortId("0190b7a0-0000-7000-8000-0000000000ab")).toBe("…000000ab");
  expect(shortId("short")).toBe("short");
  expect(title("no_show")).toBe("No show");
});
