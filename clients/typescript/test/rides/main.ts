import { Proxy } from "./proxy.js";
import { Random } from "./random.js";
import { PATIENT, ride, type Outcome } from "./ride.js";
import { RunningServer } from "./server.js";

// node main.js [--seeds N] [--demo N] [--from N] [--at-once N]: rides through a bad network, each with its seed, on one server; and rides on
// servers that misbehave by their seed (`rideshare demo --faults`).

const number = (name: string, otherwise: number) => {
  const at = process.argv.indexOf(name);
  return at < 0 ? otherwise : Number(process.argv[at + 1]);
};
const from = number("--from", 1);
const numbers = (length: number) => Array.from({ length }, (_, n) => from + n);
const seeds = numbers(number("--seeds", 10));
const demos = numbers(number("--demo", 3));
const atOnce = number("--at-once", 8);
/** When the network becomes good: a ride that hangs then hangs by a fault of the client. */
const HEALED_AFTER_MS = 25_000;
const LIMIT_MS = 90_000;

const server = await RunningServer.start();
const failed: string[] = [];
const totals = { rides: 0, connections: 0, faults: 0, events: 0, handlerFailures: 0, restarts: 0, farthest: 0 };

async function limited<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took more than ${LIMIT_MS / 1_000} s`)), LIMIT_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function run(seed: number, distanceM: number): Promise<void> {
  const random = new Random(seed);
  const driver = await Proxy.start(server.port, random);
  const passenger = await Proxy.start(server.port, random);
  const heals = setTimeout(() => [driver, passenger].forEach((proxy) => proxy.heal()), HEALED_AFTER_MS);
  const trouble = { random, handlerFails: seed % 4 === 0 ? 0.2 : 0, restarts: seed % 3 === 0 ? 0.15 : 0 };
  try {
    const urls = { driver: driver.url, passenger: passenger.url };
    const outcome = await limited(ride(seed, (who) => urls[who], trouble), "the ride");
    compare(outcome, distanceM);
    add(outcome);
  } catch (error) {
    failed.push(`seed ${seed}: ${error instanceof Error ? error.message : String(error)}`);
    console.error(failed.at(-1));
  } finally {
    clearTimeout(heals);
    for (const proxy of [driver, passenger]) {
      proxy.stop();
      totals.connections += proxy.connections;
      totals.faults += proxy.faults;
    }
  }
}

function add({ events, handlerFailures, restarts }: Outcome): void {
  totals.rides += 1;
  totals.events += events;
  totals.handlerFailures += handlerFailures;
  totals.restarts += restarts;
}

/** A ride on a server that misbehaves on purpose. */
async function demo(seed: number, distanceM: number): Promise<void> {
  const server = await RunningServer.start(["demo", "--faults", String(seed)], { RUST_LOG: "warn,server=info" });
  try {
    const outcome = await limited(ride(seed, () => server.url, { random: new Random(seed), handlerFails: 0, restarts: 0 }, PATIENT), "the ride");
    compare(outcome, distanceM);
    add(outcome);
  } catch (error) {
    failed.push(`demo --faults ${seed}: ${error instanceof Error ? error.message : String(error)}`);
    console.error(failed.at(-1), server.output);
  } finally {
    await server.stop();
  }
}

function compare({ distanceM: receipt }: Outcome, distanceM: number): void {
  const off = Math.abs(receipt - distanceM) / distanceM;
  if (!(off <= 0.01)) throw new Error(`the receipt says ${receipt} m, without faults ${distanceM} m`);
  totals.farthest = Math.max(totals.farthest, off);
}

/** Some at once. */
async function each(seeds: readonly number[], run: (seed: number) => Promise<void>): Promise<void> {
  const left = [...seeds];
  await Promise.all(
    Array.from({ length: Math.min(atOnce, left.length) }, async () => {
      for (let seed = left.shift(); seed !== undefined; seed = left.shift()) await run(seed);
    }),
  );
}

const began = Date.now();
try {
  const calm = await limited(ride(0, () => server.url, { random: new Random(0), handlerFails: 0, restarts: 0 }), "the ride without faults");
  console.log(`without faults: ${calm.distanceM} m, ${calm.events} events`);
  await each(seeds, (seed) => run(seed, calm.distanceM));
  await each(demos, (seed) => demo(seed, calm.distanceM));
} catch (error) {
  failed.push(String(error));
  console.error(error);
} finally {
  await server.stop();
}
console.log(
  `${totals.rides} of ${seeds.length + demos.length} rides in ${Math.round((Date.now() - began) / 1_000)} s: ${totals.connections} connections with ` +
    `${totals.faults} faults, ${totals.events} events handled once each and in order, ${totals.handlerFailures} failures of handlers, ` +
    `${totals.restarts} restarts of an app, receipts within ${(totals.farthest * 100).toFixed(2)} % of the ride without faults`,
);
if (failed.length > 0 || totals.rides !== seeds.length + demos.length) {
  if (server.output) console.error(server.output.slice(-2_000));
  console.error(`FAILED: ${failed.length}\n${failed.join("\n")}`);
  process.exitCode = 1;
}
// A retry that nobody waits for any more does not hold the program.
setTimeout(() => process.exit(), 2_000).unref();
