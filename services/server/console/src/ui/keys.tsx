/** The keys of the console. They do nothing while somebody types, or with Control, Alt or Command. */

import { useEffect, useRef } from "preact/hooks";

import { Dialog } from "./dialogs";

/** After `g`. */
export const GO_KEYS: Record<string, string> = {
  overview: "o",
  map: "m",
  rides: "r",
  drivers: "d",
  people: "p",
  streams: "s",
  "dead-letters": "l",
  pods: "h",
  acts: "a",
  runbook: "b",
};

const GO_WAIT_MS = 1_500;

interface Keys {
  find: () => void;
  help: () => void;
  go: (page: string) => void;
}

/** Moves the focus to the next or previous row of the page. */
function step(by: 1 | -1): void {
  const rows = [...document.querySelectorAll<HTMLElement>("main [data-row]")];
  const at = rows.findIndex((row) => row === document.activeElement);
  const next = at < 0 ? (by === 1 ? 0 : rows.length - 1) : Math.max(0, Math.min(rows.length - 1, at + by));
  rows[next]?.focus();
  rows[next]?.closest("tr, li")?.scrollIntoView({ block: "nearest" });
}

export function useKeys(keys: Keys): void {
  const current = useRef(keys);
  current.current = keys;
  useEffect(() => {
    let goUntil = 0;
    const pressed = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
      if (target.matches("input, textarea, select") || document.querySelector("dialog[open]")) return;
      const going = performance.now() < goUntil;
      goUntil = 0;
      const page = going ? Object.entries(GO_KEYS).find(([, key]) => key === event.key)?.[0] : undefined;
      if (page) current.current.go(page);
      else if (event.key === "/") current.current.find();
      else if (event.key === "?") current.current.help();
      else if (event.key === "g") goUntil = performance.now() + GO_WAIT_MS;
      else if (event.key === "j") step(1);
      else if (event.key === "k") step(-1);
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}

const LINES: [string[], string][] = [
  [["/"], "Search: phone, ride, match, user"],
  [["?"], "These keys"],
  [["j"], "Next row"],
  [["k"], "Previous row"],
  [["Enter"], "Open the row"],
  [["Esc"], "Close"],
  [["g", "o"], "Overview"],
  [["g", "m"], "Map"],
  [["g", "r"], "Rides"],
  [["g", "d"], "Drivers"],
  [["g", "p"], "People"],
  [["g", "s"], "Streams"],
  [["g", "l"], "Dead letters"],
  [["g", "h"], "Pods"],
  [["g", "a"], "Acts"],
  [["g", "b"], "Runbook"],
  [["←", "↑", "→", "↓"], "Map: move"],
  [["+", "−", "0"], "Map: nearer, further, all"],
];

export function KeysOverlay({ close }: { close: () => void }) {
  return (
    <Dialog close={close} label="Keys" wide>
      <div class="inner">
        <h2>Keys</h2>
        <ul class="keys">
          {LINES.map(([keys, what]) => (
            <li key={what}>
              <span>{what}</span>
              <span class="nowrap">
                {keys.map((key) => (
                  <>
                    <kbd key={key}>{key}</kbd>{" "}
                  </>
                ))}
              </span>
            </li>
          ))}
        </ul>
        <div class="buttons">
          <button type="button" class="button" onClick={close}>
            Close
          </button>
        </div>
      </div>
    </Dialog>
  );
}
