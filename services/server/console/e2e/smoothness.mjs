// How smooth the map is with many drivers: frames and the time of the script in each, in a headless Chromium. Nothing is asserted: what it
// prints depends on the machine, and there is no graphics card in most that run it. The pictures of the fleet are made here; the page is dist/.
//
//   node e2e/smoothness.mjs [DRIVERS]
//
//   CHROMIUM     the browser

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join } from "node:path";

import { chromium } from "playwright-core";

const DRIVERS = Number(process.argv[2] ?? 5_000);
/** As the platform sends them. */
const PICTURE_MS = 2_000;
const SECONDS = 10;
const CENTRE = { lat: 40.7484, lng: -73.9857 };
const DIST = new URL("../dist", import.meta.url).pathname;
const KINDS = { ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html" };

const id = (n, kind) => `0190b7a0-0000-7000-8${kind}00-${n.toString(16).padStart(12, "0")}`;

/** Everybody drives in a circle of their own, some 10 m a second, so that each picture moves all of them. */
function picture(turn) {
  const positions = Array.from({ length: DRIVERS }, (_, n) => {
    const [ring, start] = [0.001 + 0.01 * ((n * 0.618) % 1), n * 2.39996];
    const angle = start + turn * 0.02;
    const [lat, lng] = [CENTRE.lat + 0.12 * (((n * 0.7548) % 1) - 0.5), CENTRE.lng + 0.16 * (((n * 0.5698) % 1) - 0.5)];
    return {
      driver_id: id(n, 0),
      location: { lat: lat + ring * Math.sin(angle), lng: lng + ring * Math.cos(angle) },
      heading_deg: (((-angle * 180) / Math.PI) % 360) + 360,
      speed_mps: 10,
      recorded_at: new Date().toISOString(),
      age_s: 1,
      vehicle_type: "car",
      on_duty: true,
      ride_id: n % 3 === 0 ? id(n, 1) : null,
    };
  });
  const at = (n, by) => ({ lat: CENTRE.lat + 0.1 * (((n * by) % 1) - 0.5), lng: CENTRE.lng + 0.14 * (((n * by * 1.7) % 1) - 0.5) });
  const time = new Date().toISOString();
  const rides = Array.from({ length: Math.floor(DRIVERS / 3) }, (_, n) => ({
    ride_id: id(n * 3, 1), status: n % 2 ? "started" : "pickup", version: 1, driver_id: id(n * 3, 0), passenger_id: id(n, 2),
    pickup: at(n, 0.11), dropoff: at(n, 0.77), vehicle_type: "car", market_id: "world", created_at: time, updated_at: time,
  }));
  return {
    time, box: null, positions, searches: [], rides, truncated: { positions: false, searches: false, rides: false }, unavailable: [],
  };
}

const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://here");
  const json = (body) => response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(body));
  if (pathname === "/admin/v1/stream") {
    response.writeHead(200, { "content-type": "text/event-stream" });
    const send = (name, data) => response.write(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
    send("health", { pods: [] });
    let turn = 0;
    const next = () => send("live", picture(turn++));
    next();
    const timer = setInterval(next, PICTURE_MS);
    request.on("close", () => clearInterval(timer));
    return;
  }
  if (pathname === "/admin/v1/me") return json({ name: "console", role: "admin", trace_url: null });
  if (pathname === "/admin/v1/markets") return json({ type: "FeatureCollection", version: "none", features: [] });
  if (pathname.startsWith("/admin/")) return json({ total: 0, dead_letters: [], next_cursor: null });
  const file = pathname.startsWith("/console/assets/") ? join(DIST, pathname.slice("/console".length)) : join(DIST, "index.html");
  response.writeHead(200, { "content-type": KINDS[extname(file)] }).end(readFileSync(file));
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const url = `http://127.0.0.1:${server.address().port}`;

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  page.on("pageerror", (error) => console.error(error));
  page.on("console", (message) => message.type() === "error" && console.error(message.text()));
  // The time that the thread worked, so that other programs on the machine do not count.
  const devtools = await page.context().newCDPSession(page);
  await devtools.send("Performance.enable", { timeDomain: "threadTicks" });
  const worked = async () => {
    const { metrics } = await devtools.send("Performance.getMetrics");
    return metrics.find(({ name }) => name === "ScriptDuration").value * 1_000;
  };
  await page.addInitScript(() => {
    const frames = [];
    globalThis.frames_ = frames;
    const ask = requestAnimationFrame;
    globalThis.requestAnimationFrame = (draw) =>
      ask((now) => {
        const began = performance.now();
        draw(now);
        frames.push([now, performance.now() - began]);
      });
    globalThis.tasks_ = [];
    new PerformanceObserver((list) => tasks_.push(...list.getEntries().map(({ duration }) => duration))).observe({ type: "longtask" });
  });
  await page.goto(`${url}/console/map#token=${"0".repeat(64)}`);
  await page.waitForSelector("canvas");
  await page.waitForTimeout(3 * PICTURE_MS);
  for (const [what, keys] of [["the whole fleet", []], ["nearer, with headings", ["+", "+", "+"]]]) {
    await page.locator("canvas").focus();
    for (const key of keys) await page.keyboard.press(key);
    await page.waitForTimeout(1_000);
    await page.evaluate(() => void (frames_.length = tasks_.length = 0));
    const before = await worked();
    await page.waitForTimeout(SECONDS * 1_000);
    const work = (await worked()) - before;
    const [frames, tasks] = await page.evaluate(() => [frames_, tasks_]);
    const sorted = (values) => values.toSorted((a, b) => a - b);
    const script = sorted(frames.map(([, ms]) => ms));
    const gaps = sorted(frames.slice(1).map(([at], n) => at - frames[n][0]));
    const part = (values, q) => (values[Math.floor(values.length * q)] ?? 0).toFixed(1);
    console.log(
      `${DRIVERS} drivers, ${what}: ${(frames.length / SECONDS).toFixed(1)} frames a second; script ${(work / frames.length).toFixed(1)} ms of the thread a frame, all in; by the clock median ${part(script, 0.5)}, ` +
        `p95 ${part(script, 0.95)}, most ${part(script, 0.999)}; ms between frames: median ${part(gaps, 0.5)}, p95 ${part(gaps, 0.95)}; ` +
        `tasks over 50 ms: ${tasks.length}, longest ${Math.max(0, ...tasks).toFixed(0)} ms`,
    );
  }
} finally {
  await browser.close();
  server.closeAllConnections();
  server.close();
}
