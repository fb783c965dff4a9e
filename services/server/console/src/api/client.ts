/** Requests to `/admin/v1`. Every request has a limit of time, and every failure is an `ApiError` with a sentence for people. */

import { storedToken, storeToken } from "./session";

const WAIT_MS = 25_000;

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
    readonly field: string | null = null,
  ) {
    super(detail);
  }
}

type Params = Record<string, string | number | null | undefined>;

export function query(params: Params): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    if (value !== null && value !== undefined && value !== "") search.set(name, String(value));
  }
  const text = search.toString();
  return text === "" ? "" : `?${text}`;
}

let onSignedOut: () => void = () => {};

/** Called when the server does not know the token any more. */
export function whenSignedOut(then: () => void): void {
  onSignedOut = then;
}

/** An answer that is no success, as an error. A token that was refused is forgotten. */
export async function refusal(response: Response): Promise<ApiError> {
  const problem = (await response.json().catch(() => ({}))) as Record<string, unknown>;
  if (response.status === 401) {
    storeToken(null);
    onSignedOut();
  }
  const text = (name: string) => (typeof problem[name] === "string" ? problem[name] : null);
  const detail = text("detail") ?? text("title") ?? `The server answered ${response.status}.`;
  return new ApiError(response.status, text("code") ?? "unknown", detail, text("field"));
}

async function request<T>(method: string, path: string, body: unknown, headers: Record<string, string>): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers: { authorization: `Bearer ${storedToken() ?? ""}`, ...headers },
      body: body === undefined ? null : JSON.stringify(body),
      credentials: "omit",
      cache: "no-store",
      signal: AbortSignal.timeout(WAIT_MS),
    });
  } catch (error) {
    const late = error instanceof DOMException && error.name === "TimeoutError";
    throw new ApiError(0, "unreachable", late ? "The server did not answer in time." : "The server cannot be reached.");
  }
  if (!response.ok) throw await refusal(response);
  return (await response.json()) as T;
}

export function get<T>(path: string, params: Params = {}): Promise<T> {
  return request("GET", `/admin/v1/${path}${query(params)}`, undefined, {});
}

/** An act. With the same key it has one effect, however often it is sent. */
export function act<T>(method: "POST" | "PUT", path: string, key: string, body: unknown): Promise<T> {
  const headers = { "content-type": "application/json", "idempotency-key": key };
  return request(method, `/admin/v1/${path}`, body, headers);
}

/** A text that needs no token: of the console itself, or the metrics of the process that serves it. */
export async function text(path: string): Promise<string> {
  const response = await fetch(path, { credentials: "omit", signal: AbortSignal.timeout(WAIT_MS) });
  if (!response.ok) throw new ApiError(response.status, "unknown", `The server answered ${response.status} for ${path}.`);
  return response.text();
}
