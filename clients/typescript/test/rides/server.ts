import { spawn, type ChildProcess } from "node:child_process";
import { createServer, type AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { existsSync } from "node:fs";

/** Everybody in the test has one address: the limits by address are raised, those of a socket and of sockets stay. */
const LIMITS = [
  "http_address", "http_user", "sign_in_address", "nearby", "shares", "commands", "points", "refresh", "codes_address", "codes_asker",
  "codes_number", "codes_first", "codes_prefix", "codes_all", "wrong_codes_address", "wrong_codes_first", "wrong_codes_all",
].map((name) => `${name}=10000000/1000000`).join(",");

/** The program that is tested: RIDESHARE, or the debug build of this tree. */
export function program(): string {
  const built = fileURLToPath(new URL("../../../../../target/debug/rideshare", import.meta.url));
  const found = process.env.RIDESHARE ?? built;
  if (!existsSync(found)) throw new Error(`${found} is missing: cargo build -p server, or set RIDESHARE`);
  return found;
}

export class RunningServer {
  private constructor(
    readonly port: number,
    readonly url: string,
    private readonly process: ChildProcess,
    private readonly log: () => string,
  ) {}

  /** All services embedded; rides may be faster than life. */
  static async start(args: readonly string[] = [], env: Record<string, string> = {}): Promise<RunningServer> {
    const port = await freePort();
    const child = spawn(program(), args, {
      env: { PATH: process.env.PATH, HTTP_ADDR: `127.0.0.1:${port}`, TRACK_MAX_SPEED_MPS: "1000000", LIMITS, RUST_LOG: "warn", ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let log = "";
    const keep = (data: unknown) => (log = (log + String(data)).slice(-20_000));
    child.stdout?.on("data", keep);
    child.stderr?.on("data", keep);
    const url = `http://127.0.0.1:${port}`;
    const server = new RunningServer(port, url, child, () => log);
    for (let tries = 0; tries < 600; tries += 1) {
      if (child.exitCode !== null) throw new Error(`the program has ended: ${log}`);
      const ready = await fetch(`${url}/health/ready`).then((answer) => answer.ok, () => false);
      if (ready) return server;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    await server.stop();
    throw new Error(`the program is not ready: ${log}`);
  }

  get output(): string {
    return this.log();
  }

  async stop(): Promise<void> {
    if (this.process.exitCode !== null) return;
    const ended = new Promise((resolve) => this.process.once("exit", resolve));
    this.process.kill("SIGTERM");
    const late = setTimeout(() => this.process.kill("SIGKILL"), 40_000);
    await ended;
    clearTimeout(late);
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
