import { expect, test } from "vitest";

import { parseRoute, to } from "../src/router";

test.each([
  ["/console", { page: "overview" }],
  ["/console/", { page: "overview" }],
  ["/console/map", { page: "map" }],
  ["/console/rides", { page: "rides" }],
  ["/console/rides/1", { page: "ride", id: "1" }],
  ["/console/people/1", { page: "person", id: "1" }],
  ["/console/dead-letters/4", { page: "dead-letter", id: "4" }],
  ["/console/none", { page: "missing", path: "/console/none" }],
  ["/console/rides/1/2", { page: "missing", path: "/console/rides/1/2" }],
])("%s", (path, route) => expect(parseRoute(path)).toEqual(route));

test("links lead to pages that there are", () => {
  for (const path of [to.page("overview"), to.page("pods"), to.ride("1"), to.person("1"), to.letter(1)]) {
    expect(parseRoute(path).page).not.toBe("missing");
  }
  expect(to.runbook("DeadLetters")).toBe("/console/runbook#deadletters");
});
