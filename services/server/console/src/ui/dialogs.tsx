/** Dialogs: the browser's own, so that focus stays inside and Escape closes. An act asks for its reason here, and is sent here. */

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { act } from "../api/client";
import type { Acted } from "../api/types";
import { asApiError } from "./hooks";
import { toast } from "./toasts";

export function Dialog({ close, label, wide, children }: { close: () => void; label: string; wide?: boolean; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const before = document.activeElement;
    dialog.current?.showModal();
    return () => before instanceof HTMLElement && before.focus({ preventScroll: true });
  }, []);
  const pressed = (event: MouseEvent) => event.target === dialog.current && close();
  return (
    <dialog ref={dialog} class={wide ? "wide" : ""} aria-label={label} onClose={close} onMouseDown={pressed}>
      {children}
    </dialog>
  );
}

export interface ActPlan {
  title: string;
  /** What will happen, for whom. */
  effect: ComponentChildren;
  button: string;
  danger?: boolean;
  /** Whether the server wants a reason. */
  reason: "required" | "optional" | "none";
  method?: "POST" | "PUT";
  path: string;
  /** The body beside the reason; a text is what is wrong with the fields. */
  body?: () => Record<string, unknown> | string;
  fields?: ComponentChildren;
  /** The sentence after it worked. */
  done: (answer: Acted & Record<string, unknown>) => string;
}

/**
 * Asks, and sends the act. The key of the act is made when the dialog opens: pressing twice, or again after an answer was lost, has
 * one effect. With a changed form it is another act.
 */
export function ActDialog({ plan, close, acted }: { plan: ActPlan; close: () => void; acted: () => void }) {
  const key = useRef<{ body: string; key: string } | null>(null);
  const [reason, setReason] = useState("");
  const [busy, setBusy] = useState(false);
  const [fault, setFault] = useState<string | null>(null);
  const send = async (event: Event) => {
    event.preventDefault();
    if (busy) return;
    const rest = plan.body?.() ?? {};
    if (typeof rest === "string") return setFault(rest);
    const body = plan.reason === "none" || reason.trim() === "" ? rest : { ...rest, reason: reason.trim() };
    const text = JSON.stringify(body);
    if (key.current?.body !== text) key.current = { body: text, key: uuid() };
    setBusy(true);
    setFault(null);
    try {
      const answer = await act<Acted & Record<string, unknown>>(plan.method ?? "POST", plan.path, key.current.key, body);
      toast(plan.done(answer));
      acted();
      dispatchEvent(new Event("rideshare:acted"));
      close();
    } catch (error) {
      setFault(asApiError(error).message);
      setBusy(false);
    }
  };
  return (
    <Dialog close={close} label={plan.title}>
      <form onSubmit={send}>
        <h2>{plan.title}</h2>
        <div>{plan.effect}</div>
        {plan.fields}
        {plan.reason !== "none" && (
          <label class="field">
            <span>Reason{plan.reason === "optional" ? " (optional)" : ""}; it is stored with your name</span>
            <input
              class="input"
              name="reason"
              maxLength={500}
              required={plan.reason === "required"}
              autoComplete="off"
              autoFocus={plan.fields === undefined}
              value={reason}
              onInput={(event) => setReason(event.currentTarget.value)}
            />
          </label>
        )}
        {fault !== null && (
          <div class="notice bad" role="alert">
            {fault}
          </div>
        )}
        <div class="buttons">
          <button type="button" class="button" onClick={close}>
            Cancel
          </button>
          <button type="submit" class={`button primary ${plan.danger ? "danger" : ""}`} disabled={busy}>
            {busy ? "Working…" : plan.button}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

/** `crypto.randomUUID` is missing where the console is served without TLS from another machine. */
function uuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

/** A button that opens the dialog of an act. */
export function ActButton({ plan, acted, danger, primary, children }: {
  plan: ActPlan;
  acted: () => void;
  danger?: boolean;
  primary?: boolean;
  children: ComponentChildren;
}) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <button type="button" class={`button ${danger ? "danger" : ""} ${primary ? "primary" : ""}`} onClick={() => setOpen(true)}>
        {children}
      </button>
      {open && <ActDialog plan={plan} close={() => setOpen(false)} acted={acted} />}
    </>
  );
}
