// The console in a real browser, on a real platform: scripts/check-console runs it beside NATS and PostgreSQL.
//
//   node e2e/run.mjs [SCREENSHOTS]
//
//   RIDESHARE    the program
//   CHROMIUM     the browser

import assert from "node:assert/strict";
import { join } from "node:path";

import { chromium } from "playwright-core";

import { Platform, TOKENS, admin, publish, registerDriver, until } from "./platform.mjs";

const shots = process.argv[2];
const platform = new Platform(process.env.RIDESHARE);
const PENDING = { phone: "+12125550177", plate: "WAITING1" };

/** What a browser logs as an error, or throws, fails the run. */
const faults = [];
let faultsExpected = false;

async function open(browser, url, token, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !faultsExpected) faults.push(`${page.url()}: ${message.text()}`);
  });
  page.on("pageerror", (error) => faults.push(`${page.url()}: ${error.message}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(url)) faults.push(`the console asked for ${request.url()}`);
  });
  if (token) await page.goto(`${url}/console#token=${token}`);
  return page;
}

let steps = 0;
async function step(what, run) {
  const began = Date.now();
  await run();
  steps += 1;
  console.log(`ok: ${what} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
}

async function prepare(url) {
  await registerDriver(url.manual, PENDING.phone, PENDING.plate);
  // Nobody can read this: users, match and location give it up at once.
  await publish("user.beacon", [["Nats-Msg-Id", "user.beacon-of-a-foreign-program"]], '{"active": "perhaps"}');
  // And this is in order by now, as after the cause of a failure was corrected.
  const { drivers } = await admin(url.city, "drivers?status=pending");
  const user_id = drivers[0].user_id;
  const recorded_at = new Date().toISOString();
  const beacon = { user_id, active: false, vehicle_type: "car", location: { lat: 40.75, lng: -73.98 }, recorded_at };
  const id = `user.beacon-${user_id}-${Date.parse(recorded_at)}000`;
  await publish(
    "dead_letter.user_beacon_match",
    [
      ["Nats-Msg-Id", `dead_letter-USER_STREAM-user_beacon_match-999999-${Date.parse(recorded_at)}000`],
      ["Dead-Letter-Stream", "USER_STREAM"],
      ["Dead-Letter-Subject", "user.beacon"],
      ["Dead-Letter-Sequence", "999999"],
      ["Dead-Letter-Consumer", "user_beacon_match"],
      ["Dead-Letter-Deliveries", "3"],
      ["Dead-Letter-Reason", "the disk of the database was full"],
      ["Dead-Letter-Time", recorded_at],
      ["Dead-Letter-Message-Id", id],
    ],
    JSON.stringify(beacon),
  );
  // Whoever wrote this one has no clock.
  await publish(
    "dead_letter.user_beacon_location",
    [
      ["Nats-Msg-Id", "dead_letter-USER_STREAM-user_beacon_location-999998-1"],
      ["Dead-Letter-Reason", "it was stored by a foreign program"],
      ["Dead-Letter-Time", "yesterday"],
    ],
    "{}",
  );
  await until("five dead letters", async () => (await admin(url.city, "dead-letters")).total === 5);
  const paid = await until("a ride is completed and paid", async () => {
    const { rides } = await admin(url.city, "rides?status=completed");
    return rides.find(({ payment_status }) => payment_status === "captured");
  });
  return admin(url.city, `rides/${paid.ride_id}`);
}

async function theConsole(browser, url, story) {
  const page = await open(browser, url.city, TOKENS.admin);
  const shot = async (name) => shots && page.screenshot({ path: join(shots, `${name}.png`) });
  const { ride, passenger } = story;

  await step("the printed link opens the console and leaves no token in the address", async () => {
    await page.getByText("processes are there").waitFor();
    assert.equal(page.url(), `${url.city}/console`);
    assert.equal(await page.evaluate(() => history.length <= 2 && location.hash), "");
    await page.locator(".link-state", { hasText: "Live" }).waitFor();
    await page.getByText("5 messages were given up").waitFor();
    await shot("overview");
  });

  await step("from a complaint by phone to the story of its ride in three steps", async () => {
    await page.keyboard.press("/");
    const spaced = passenger.phone.replace(/^(\+\d)(\d{3})(\d{3})/, "$1 ($2) $3-");
    await page.keyboard.type(spaced);
    await page.keyboard.press("Enter");
    await page.getByRole("link", { name: `ride ${ride.ride_id}` }).click();
    await page.waitForURL(`**/console/rides/${ride.ride_id}`);
    await page.getByText("5 events verified").or(page.getByText("4 events verified")).waitFor();
    const what = page.getByRole("region", { name: "What happened" });
    for (const text of ["Ride begins", "The passenger is in the vehicle", "Completed and billed", "Payment captured"]) {
      await what.getByText(text).waitFor();
    }
    await page.getByRole("table", { name: "Offers" }).getByText("accepted", { exact: true }).waitFor();
    await page.getByRole("region", { name: "Ledger" }).getByText("adds up to 0").waitFor();
    const [line] = story.ride.fare.lines;
    await page.getByRole("table", { name: "Fare and payment" }).getByText(line.name, { exact: false }).first().waitFor();
    await page.getByRole("region", { name: "Track" }).getByText(`${story.track.total_points} points`).waitFor();
    await what.getByText("ride.completed, version").click();
    await what.getByText(story.events.at(-1).hash).first().waitFor();
    await what.getByText("ride.completed, version").click();
    const trace = page.getByRole("region", { name: "Ids" }).getByRole("link", { name: story.events[0].trace_id });
    assert.equal(await trace.getAttribute("href"), `https://traces.example/trace/${story.events[0].trace_id}`);
    await shot("ride");
  });

  await step("why this driver is the recorded decision, with who was left out", async () => {
    const offer = page.getByRole("table", { name: "Offers" }).locator(".chosen");
    const [{ pickup_eta_s }] = story.offers.filter(({ match_id }) => match_id === ride.match_id);
    assert.ok(pickup_eta_s > 0);
    await offer.getByRole("button", { name: "Why this driver" }).click();
    const dialog = page.getByRole("dialog", { name: "Why this driver" });
    await dialog.getByText("decided the same again").waitFor();
    const candidates = dialog.getByRole("table", { name: "Candidates" });
    assert.equal(await candidates.locator(".chosen").getByText("Chosen").count(), 1);
    assert.equal(await candidates.locator(".chosen").getByText("This driver").count(), 1);
    await shot("why");
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "hidden" });
  });

  await step("a match id leads to the same ride", async () => {
    await page.keyboard.press("g");
    await page.keyboard.press("o");
    await page.waitForURL("**/console");
    await page.keyboard.press("/");
    await page.keyboard.type(ride.match_id);
    await page.keyboard.press("Enter");
    await page.waitForURL(`**/console/rides/${ride.ride_id}`);
    await page.getByText("events verified").waitFor();
    for (const [id, path] of [
      [ride.driver_id, `people/${ride.driver_id}`],
      [ride.request_id, `rides/${ride.ride_id}`],
    ]) {
      await page.keyboard.press("/");
      await page.keyboard.type(id);
      await page.keyboard.press("Enter");
      await page.waitForURL(`**/console/${path}`);
    }
    await page.keyboard.press("/");
    await page.keyboard.type("+1 212 555 0100");
    await page.keyboard.press("Enter");
    await page.getByText("Nobody has the number +12125550100.").waitFor();
    await page.keyboard.press("Escape");
  });

  await step("a refund has an amount, a reason and its place in the books", async () => {
    await page.getByRole("button", { name: "Refund" }).click();
    const dialog = page.getByRole("dialog", { name: "Refund" });
    await dialog.getByLabel("Amount").fill("99999");
    await dialog.getByLabel("Reason").fill("the driver took a long way");
    await dialog.getByRole("button", { name: "Refund" }).click();
    await dialog.getByRole("alert").getByText("can be refunded.").waitFor();
    await dialog.getByLabel("Amount").fill("1.50");
    await dialog.getByRole("button", { name: "Refund" }).click();
    await page.getByText("Refunded $1.50 by admin").waitFor();
    await page.getByRole("region", { name: "Ledger" }).getByText("adds up to 0").waitFor();
    const { refunds } = await admin(url.city, `rides/${ride.ride_id}`);
    assert.deepEqual(refunds.map(({ amount, reason }) => [amount.amount, reason]), [[150, "the driver took a long way"]]);
  });

  await step("a dead letter is read, and requeued once its cause is gone", async () => {
    await page.keyboard.press("g");
    await page.keyboard.press("l");
    const rows = page.getByRole("table", { name: "Dead letters" }).getByRole("row");
    await until("five letters", async () => (await rows.count()) === 6);
    await shot("dead-letters");
    await rows.filter({ hasText: "the disk of the database was full" }).getByRole("button", { name: "Requeue" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Requeue" }).click();
    await page.getByText("Handled: the letter is removed.").waitFor();
    await until("four letters", async () => (await rows.count()) === 5);
    // The other cannot be handled: the dialog says why, and the letter stays.
    faultsExpected = true;
    await rows.filter({ hasText: "user_beacon_users" }).getByRole("link").click();
    await page.getByRole("region", { name: "Body" }).getByText('"perhaps"').waitFor();
    await page.getByRole("region", { name: "Headers" }).waitFor();
    await page.getByRole("button", { name: "Requeue" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByRole("button", { name: "Requeue" }).click();
    await dialog.getByRole("alert").waitFor();
    await page.keyboard.press("Escape");
    faultsExpected = false;
    await page.getByRole("button", { name: "Remove" }).click();
    await dialog.getByRole("button", { name: "Remove" }).click();
    await page.getByText("The letter is removed.", { exact: true }).waitFor();
    await until("three letters", async () => (await admin(url.city, "dead-letters")).total === 3);
    // A letter whose time is none can be read like any other.
    await rows.filter({ hasText: "it was stored by a foreign program" }).getByRole("link").click();
    await page.getByText("yesterday (yesterday)").waitFor();
  });

  await step("a driver who waits is approved", async () => {
    await page.getByRole("link", { name: "Drivers", exact: true }).click();
    const row = page.getByRole("row").filter({ hasText: PENDING.plate });
    await row.waitFor();
    await shot("drivers");
    await row.getByRole("button", { name: "Documents" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByRole("button", { name: "Add a document" }).click();
    await dialog.getByLabel("Number").fill("D-771204");
    await dialog.getByLabel("Expires on").fill("2099-12-31");
    await dialog.getByRole("button", { name: "Store the list" }).click();
    await page.getByText("The documents are stored.").waitFor();
    await row.getByRole("button", { name: "Approve" }).click();
    await dialog.getByLabel("Reason").fill("papers seen");
    await dialog.getByRole("button", { name: "Approve" }).click();
    await page.getByText("Nobody waits for approval").waitFor();
    const { drivers } = await admin(url.city, "drivers?status=approved&limit=200");
    const approved = drivers.find(({ plate }) => plate === PENDING.plate);
    assert.equal(approved?.status, "approved");
    const { documents } = await admin(url.city, `drivers/${approved.user_id}/documents`);
    assert.deepEqual(documents.map(({ kind, number }) => [kind, number]), [["licence", "D-771204"]]);
  });

  await step("a car moves on the map", async () => {
    await page.keyboard.press("g");
    await page.keyboard.press("m");
    const place = page.locator("[data-place]");
    // Whoever is at a standstill, or has arrived, is left for another.
    await until("a chosen driver moves", async () => {
      const ride = page.locator(".wait", { hasText: "started" }).getByRole("button").first();
      if (!(await ride.isVisible())) return false;
      await ride.click();
      if (!(await place.isVisible())) return false;
      const before = await place.textContent();
      const moved = async () => (await place.isVisible()) && (await place.textContent()) !== before;
      for (let n = 0; n < 60; n += 1) {
        if (await moved()) return true;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      return false;
    });
    const canvas = page.locator("canvas");
    const [seen, later] = [await canvas.screenshot(), await until("pixels", async () => canvas.screenshot())];
    assert.ok(seen.length > 2_000 && later.length > 2_000, "the map is empty");
    await canvas.focus();
    const still = await canvas.screenshot();
    await page.keyboard.press("+");
    await until("the map is nearer", async () => !(await canvas.screenshot()).equals(still));
    await page.getByRole("region", { name: "Markets" }).getByRole("button", { name: "Berlin" }).click();
    await until("the map shows the other market", async () => !(await canvas.screenshot()).equals(still));
    await page.getByRole("button", { name: "New York" }).click();
    await shot("map");
  });

  await step("all that was done is in the audit of operators", async () => {
    await page.keyboard.press("g");
    await page.keyboard.press("a");
    const table = page.getByRole("table", { name: "Acts of operators" });
    for (const act of ["Driver approved", "Driver documents set", "Ride refunded", "Dead letter requeued", "Dead letter removed"]) {
      await table.getByText(act).first().waitFor();
    }
    await table.getByText("User looked up").first().waitFor();
    assert.ok(!(await table.textContent()).includes(passenger.phone));
    await shot("acts");
  });

  await step("the keys are shown, and rows are reached without a mouse", async () => {
    await page.keyboard.press("?");
    await page.getByRole("dialog", { name: "Keys" }).waitFor();
    await page.keyboard.press("Escape");
    await page.keyboard.press("g");
    await page.keyboard.press("r");
    await page.getByRole("table", { name: "Rides" }).waitFor();
    await page.keyboard.press("j");
    await page.keyboard.press("j");
    await page.keyboard.press("Enter");
    await page.waitForURL("**/console/rides/*-*");
  });
  await page.context().close();
}

/** Every page, at both widths and in both colours: nothing is cut off, every control has a name, and nothing is logged. */
async function everyPage(browser, url, story) {
  const pages = ["", "/map", "/rides", `/rides/${story.ride.ride_id}`, "/drivers?status=all", "/people"];
  pages.push(`/people/${story.ride.driver_id}`, "/streams", "/dead-letters", "/pods", "/acts", "/runbook#deadletters");
  for (const width of [1280, 390]) {
    for (const colorScheme of ["light", "dark"]) {
      await step(`every page at ${width} pixels, ${colorScheme}`, async () => {
        const viewport = { width, height: width === 390 ? 844 : 800 };
        const page = await open(browser, url.city, TOKENS.admin, { viewport, colorScheme });
        await page.locator("main").waitFor();
        for (const path of pages) {
          await page.goto(`${url.city}/console${path}`);
          await until(`${path} is loaded`, async () => (await page.locator("main").count()) === 1 && (await page.locator(".bones").count()) === 0);
          const faults = await page.evaluate(() => {
            const found = [];
            const over = document.documentElement.scrollWidth - innerWidth;
            if (over > 0) found.push(`is ${over} pixels too wide`);
            for (const control of document.querySelectorAll("button, a, input, select, textarea")) {
              const name = control.ariaLabel || control.textContent || control.title || control.labels?.[0]?.textContent;
              if (!name?.trim()) found.push(`has a control without a name: ${control.outerHTML.slice(0, 120)}`);
            }
            if (document.querySelector("main [role=alert]")) found.push(document.querySelector("main [role=alert]").textContent);
            return found;
          });
          assert.deepEqual(faults, [], `${path} at ${width}, ${colorScheme}`);
          const name = path.split(/[/?#]/)[1] || "overview";
          const one = path.includes(story.ride.ride_id) ? "-one" : "";
          if (shots) await page.screenshot({ path: join(shots, `${name}${one}-${width}-${colorScheme}.png`) });
        }
        await page.context().close();
      });
    }
  }
}

async function whoMayDoWhat(browser, url, story) {
  await step("a viewer sees the story and no act", async () => {
    const page = await open(browser, url.city, TOKENS.viewer);
    await page.getByText("processes are there").waitFor();
    await page.goto(`${url.city}/console/rides/${story.ride.ride_id}`);
    await page.getByText("events verified").waitFor();
    for (const name of ["Refund", "Add a note", "End the ride"]) assert.equal(await page.getByRole("button", { name }).count(), 0);
    await page.goto(`${url.city}/console/dead-letters`);
    await page.getByRole("table", { name: "Dead letters" }).waitFor();
    assert.equal(await page.getByRole("button", { name: "Requeue" }).count(), 0);
    await page.context().close();
  });
  await step("a token that nobody has is refused with a sentence", async () => {
    faultsExpected = true;
    const page = await open(browser, url.city, null);
    await page.goto(`${url.city}/console/rides`);
    await page.getByLabel("Operator’s token").fill("a-token-that-nobody-has");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByText("The platform does not know this token.").waitFor();
    faultsExpected = false;
    await page.getByLabel("Operator’s token").fill(TOKENS.viewer);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("heading", { name: "Rides" }).waitFor();
    await page.context().close();
  });
}

async function aLostPlatform(browser, url, pod) {
  await step("a lost platform is said to be lost, and found again", async () => {
    const page = await open(browser, url.manual, TOKENS.admin);
    await page.locator(".link-state", { hasText: "Live" }).waitFor();
    faultsExpected = true;
    pod.kill("SIGSTOP");
    await page.getByText("Stale since").waitFor({ timeout: 45_000 });
    await page.getByText("The console has lost the platform").waitFor();
    if (shots) await page.screenshot({ path: join(shots, "stale.png") });
    pod.kill("SIGCONT");
    await page.locator(".link-state", { hasText: "Live" }).waitFor({ timeout: 60_000 });
    await page.context().close();
    faultsExpected = false;
  });
}

let browser;
try {
  const city = await platform.pod("pod-city");
  const manual = await platform.pod("pod-manual", { DRIVER_APPROVAL: "manual" });
  const url = { city: city.url, manual: manual.url };
  platform.start(["simulate", "--url", url.city, "--drivers", "14", "--passengers", "10", "--rides", "100000", "--speed", "15", "--max-s", "900", "--calm"]);
  const story = await prepare(url);
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
  await theConsole(browser, url, story);
  await everyPage(browser, url, story);
  await whoMayDoWhat(browser, url, story);
  await aLostPlatform(browser, url, manual);
  assert.deepEqual(faults, [], "the browser logged errors");
  console.log(`${steps} steps passed, and the browser logged no error`);
} catch (error) {
  console.error(error);
  if (faults.length > 0) console.error("the browser logged:", faults);
  for (const child of platform.children) console.error(`--- ${child.spawnargs.slice(1).join(" ")}\n${child.log.slice(-3_000)}`);
  process.exitCode = 1;
} finally {
  await browser?.close();
  await platform.stop();
}
