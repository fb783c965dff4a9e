// A platform for the tests: two real processes on the NATS and PostgreSQL of scripts/with-servers, and a simulated city in it.

import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Everybody signs in from one address, which the defaults would refuse. */
const LIMITS = [
  "http_address",
  "http_user",
  "sign_in_address",
  "commands",
  "codes_address",
  "codes_asker",
  "codes_number",
  "codes_prefix",
  "codes_all",
]
  .map((name) => `${name}=10000000/1000000`)
  .join(",");

export const TOKENS = { admin: "the-admin-of-the-tests", viewer: "the-viewer-of-the-tests" };

/** Calls `look` until it returns something, for a minute. */
export async function until(what, look) {
  const end = Date.now() + 60_000;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`a minute has passed, and still not: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

export class Platform {
  constructor(program) {
    this.program = program;
    this.work = mkdtempSync(join(tmpdir(), "rideshare-console."));
    this.children = [];
    const tokens = join(this.work, "tokens");
    const line = ([role, token]) => `${role} ${role} ${createHash("sha256").update(token).digest("hex")}\n`;
    writeFileSync(tokens, Object.entries(TOKENS).map(line).join(""), { mode: 0o600 });
    this.env = {
      ...process.env,
      QUEUE_TYPE: "nats",
      NO_COLOR: "1",
      RUST_LOG: "info,users=warn",
      HTTP_ADDR: "127.0.0.1:0",
      OTP_DELIVERY: "response",
      JWT_SECRET: randomBytes(32).toString("hex"),
      ADMIN_TOKENS_FILE: tokens,
      MARKETS_FILE: new URL("../../src/commands/demo_markets.geojson", import.meta.url).pathname,
      TRACE_URL: "https://traces.example/trace/{trace_id}",
      TRACK_MAX_SPEED_MPS: "5000",
      TRACK_FINAL_WAIT_S: "2",
      LIMITS,
    };
  }

  /** Starts `rideshare …`; its log is kept for a failure. */
  start(args, more = {}) {
    const child = spawn(this.program, args, { env: { ...this.env, ...more }, stdio: ["ignore", "pipe", "pipe"] });
    child.log = "";
    const listen = (data) => (child.log += data);
    child.stdout.on("data", listen);
    child.stderr.on("data", listen);
    this.children.push(child);
    return child;
  }

  /** A process with all services, and its address. */
  async pod(id, more = {}) {
    const child = this.start(["run"], { POD_ID: id, ...more });
    child.url = await until(`${id} serves`, () => {
      if (child.exitCode !== null) throw new Error(`${id} ended:\n${child.log}`);
      return /http:\/\/127\.0\.0\.1:\d+/.exec(child.log)?.[0];
    });
    return child;
  }

  async stop() {
    for (const child of this.children.reverse()) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM");
      const kill = setTimeout(() => child.kill("SIGKILL"), 20_000);
      await ended;
      clearTimeout(kill);
    }
    rmSync(this.work, { recursive: true });
  }
}

export async function admin(url, path) {
  const response = await fetch(`${url}/admin/v1/${path}`, { headers: { authorization: `Bearer ${TOKENS.admin}` } });
  if (!response.ok) throw new Error(`GET ${path}: ${response.status} ${await response.text()}`);
  return response.json();
}

async function post(url, path, body, token) {
  const response = await fetch(`${url}/v1/${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...(token ? { authorization: `Bearer ${token}` } : {}) },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`POST ${path}: ${response.status} ${await response.text()}`);
  return response.json();
}

/** A new driver; pending where DRIVER_APPROVAL is manual. */
export async function registerDriver(url, phone, plate) {
  const { code, request_id } = await post(url, "auth/otp", { phone });
  const { access_token, user } = await post(url, "auth/token", { phone, code, request_id });
  await post(url, "drivers", { vehicle_type: "car", plate, make: "Kia", model: "Niro", color: "black" }, access_token);
  return user.id ?? user.user_id;
}

/** Publishes as any program can: NATS' own protocol over a socket. Returns once the server has answered. */
export async function publish(subject, headers, body) {
  const { hostname, port } = new URL(process.env.NATS_URL);
  const socket = connect(Number(port), hostname);
  const head = `NATS/1.0\r\n${headers.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n`;
  const length = Buffer.byteLength(head);
  socket.write(
    `CONNECT {"verbose":false,"headers":true}\r\nHPUB ${subject} ${length} ${length + Buffer.byteLength(body)}\r\n${head}${body}\r\nPING\r\n`,
  );
  let answer = "";
  for await (const data of socket) {
    answer += data;
    if (answer.includes("-ERR")) throw new Error(answer);
    if (answer.includes("PONG")) break;
  }
  socket.destroy();
}
