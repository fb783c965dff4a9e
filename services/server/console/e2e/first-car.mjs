// From `rideshare demo` to the first car that is seen moving in a browser: prints what took how long. Nothing is asserted.
//
//   node e2e/first-car.mjs
//
//   RIDESHARE    the program, built
//   CHROMIUM     the browser

import { spawn } from "node:child_process";

import { chromium } from "playwright-core";

const program = process.env.RIDESHARE;
// The browser is running, as that of a person is.
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
const began = performance.now();
const since = () => `${((performance.now() - began) / 1_000).toFixed(2)} s`;
const demo = spawn(program, ["demo"], { stdio: ["ignore", "ignore", "pipe"] });
try {
  const url = await new Promise((resolve, reject) => {
    let log = "";
    demo.stderr.on("data", (data) => {
      log += data;
      const url = /http:\/\/127\.0\.0\.1:\d+\/console\S*#token=\S+/.exec(log)?.[0];
      if (url) resolve(url);
    });
    demo.once("exit", () => reject(new Error(`the demo ended:\n${log}`)));
  });
  console.log(`the console's address is printed: ${since()}`);
  await page.goto(url.replace(/\/console[^#]*#/, "/console/map#"));
  await page.waitForSelector("canvas");
  console.log(`the map is there: ${since()}`);
  await page.waitForFunction(() => Number(document.querySelector("canvas").dataset.drivers) > 0);
  console.log(`cars are on it: ${since()}`);
  await page.waitForFunction(() => Number(document.querySelector("canvas").dataset.moving) > 0);
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
  console.log(`a car is seen moving: ${since()}`);
} finally {
  await browser.close();
  demo.kill("SIGINT");
}
