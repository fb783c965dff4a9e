import { expect, test } from "vitest";

import { parseQuery } from "../src/pure/query";

const id = "0190b7a0-1234-7000-8000-0000000000ab";

test.each([
  ["", { kind: "nothing" }],
  ["   ", { kind: "nothing" }],
  [id, { kind: "id", id }],
  [` ${id.toUpperCase()} `, { kind: "id", id }],
  [`ride.pickup-${id}-1767348000123456`, { kind: "id", id }],
  [`https://ops.example/console/rides/${id}`, { kind: "id", id }],
  ["+12125550123", { kind: "phone", phone: "+12125550123" }],
  ["+1 (212) 555-0123", { kind: "phone", phone: "+12125550123" }],
  ["0012125550123", { kind: "phone", phone: "+12125550123" }],
  ["12125550123", { kind: "phone", phone: "+12125550123" }],
  ["+44\u00a020 7946 0018", { kind: "phone", phone: "+442079460018" }],
  ["0212 555", { kind: "unknown", text: "0212 555" }],
  ["12345", { kind: "unknown", text: "12345" }],
  ["+1234567890123456", { kind: "unknown", text: "+1234567890123456" }],
  ["Ann", { kind: "unknown", text: "Ann" }],
])("%s", (text, query) => expect(parseQuery(text)).toEqual(query));
