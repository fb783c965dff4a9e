import { test } from "node:test";
import type { Rideshare } from "../../src/index.js";

/** It is compiled, and never runs: what is marked must not compile. */
export async function calls(client: Rideshare): Promise<unknown[]> {
  // @ts-expect-error the path has an id
  await client.call("GET /v1/rides/{id}");
  // @ts-expect-error stars are a number
  await client.call("POST /v1/rides/{id}/rating", { path: { id: "r" }, body: { stars: "five" } });
  // @ts-expect-error there is no such route
  await client.call("GET /v1/nothing");
  // @ts-expect-error a ride is started with its PIN
  await client.send("ride.start", { ride_id: "r" });
  // @ts-expect-error positions are not sent as commands
  await client.send("location.update", {});
  // @ts-expect-error there is no such event
  client.on("ride.finished", () => {});
  client.on("ride.completed", ({ ride_id, distance_m }, { seq }) => [ride_id, distance_m?.toFixed(), seq.toFixed()]);
  client.on("location.live", ({ eta_s, stale }) => [eta_s?.toFixed(), stale]);
  const { version } = await client.send("ride.arrive", { ride_id: "r" });
  const { rides } = await client.call("GET /v1/rides", { query: { limit: 5 } });
  const { ride } = await client.state();
  return [version.toFixed(), rides.map(({ ride_id }) => ride_id), ride?.driver_id];
}

test("calls, commands and events have the types of the documents", () => {});
