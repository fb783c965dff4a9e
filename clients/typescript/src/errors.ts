import type { ErrorCode } from "./generated.js";

/** Why a call or a command has no result although the platform did not refuse it. */
export type LocalCode =
  /** The outbox is full: nothing was sent. */
  | "outbox_full"
  /** The command's time is over and it was not acked; it may have had its effect. */
  | "expired"
  /** An event says that the command can have no effect any more. */
  | "over"
  /** The frame would be larger than the platform reads. */
  | "frame_too_large"
  /** The sign-in has ended, here or elsewhere. */
  | "signed_out"
  /** `close()` was called. */
  | "closed"
  /** No answer: the network, or a timeout. */
  | "network"
  /** An answer that is not what the contract says, as from a proxy in between. */
  | "bad_answer";

/** A code of the platform, of this library, or one that a newer platform has. */
export type Code = ErrorCode | LocalCode | (string & {});

export interface ErrorDetails {
  /** The HTTP status, if there is one. */
  readonly status?: number | undefined;
  /** The field at fault: a path inside `data`. */
  readonly field?: string | undefined;
  /** The limit that was reached, by its name in `welcome.limits`. */
  readonly limit?: string | undefined;
  /** Seconds after which the same may succeed. */
  readonly retryAfterS?: number | undefined;
  /** When the same is allowed, if it came too early. */
  readonly allowedAt?: string | undefined;
  readonly cause?: unknown;
}

/** Every failure of this library: `code` is stable, `message` is for people. */
export class RideshareError extends Error {
  override readonly name = "RideshareError";
  readonly code: Code;
  readonly status: number | undefined;
  readonly field: string | undefined;
  readonly limit: string | undefined;
  readonly retryAfterS: number | undefined;
  readonly allowedAt: string | undefined;

  constructor(code: Code, message: string, details: ErrorDetails = {}) {
    super(message, { cause: details.cause });
    this.code = code;
    this.status = details.status;
    this.field = details.field;
    this.limit = details.limit;
    this.retryAfterS = details.retryAfterS;
    this.allowedAt = details.allowedAt;
  }
}

/** An error frame's `error`, or the body of a problem. */
export function errorOf(body: unknown, status?: number, retryAfterS?: number): RideshareError {
  const of = (typeof body === "object" && body !== null ? body : {}) as Record<string, unknown>;
  const text = (name: string) => (typeof of[name] === "string" ? (of[name] as string) : undefined);
  const seconds = typeof of.retry_after_s === "number" ? of.retry_after_s : retryAfterS;
  const code = text("code") ?? (status !== undefined && status >= 500 ? "unavailable" : "bad_answer");
  return new RideshareError(code, text("message") ?? text("detail") ?? text("title") ?? `status ${status}`, {
    status,
    field: text("field"),
    limit: text("limit"),
    retryAfterS: seconds,
    allowedAt: text("allowed_at"),
  });
}

/** Whether the same request may succeed later without anything else changing. */
export function isTransient(error: unknown): boolean {
  return error instanceof RideshareError && ["unavailable", "overloaded", "too_many_requests", "network"].includes(error.code);
}

/** Whether the platform said that it has not done what was asked: so it is safe to ask again, whatever it is. */
export function isNotDone(error: unknown): boolean {
  return error instanceof RideshareError && ["overloaded", "too_many_requests"].includes(error.code);
}
