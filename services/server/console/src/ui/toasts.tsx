/** Short messages at the bottom of the page, read aloud by screen readers. */

import { useEffect, useState } from "preact/hooks";

interface Toast {
  id: number;
  text: string;
  bad: boolean;
}

const SHOWN_MS = 5_000;
const TOASTS_MAX = 3;

let next = 0;
let show: (toast: Toast) => void = () => {};

export function toast(text: string, bad = false): void {
  next += 1;
  show({ id: next, text, bad });
}

export function Toasts() {
  const [toasts, setToasts] = useState<Toast[]>([]);
  useEffect(() => {
    show = (toast) => {
      setToasts((before) => [...before, toast].slice(-TOASTS_MAX));
      setTimeout(() => setToasts((before) => before.filter(({ id }) => id !== toast.id)), SHOWN_MS);
    };
    return () => void (show = () => {});
  }, []);
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.map(({ id, text, bad }) => (
        <div key={id} class={bad ? "toast bad" : "toast"}>
          {text}
        </div>
      ))}
    </div>
  );
}
