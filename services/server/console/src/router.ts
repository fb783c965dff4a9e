/** Addresses of the console, and moving between them without loading the page again. */

export const BASE = "/console";

export type Route =
  | { page: "overview" | "map" | "rides" | "drivers" | "people" | "streams" | "dead-letters" | "pods" | "acts" | "runbook" }
  | { page: "ride" | "person" | "dead-letter"; id: string }
  | { page: "missing"; path: string };

const PAGES = ["map", "rides", "drivers", "people", "streams", "dead-letters", "pods", "acts", "runbook"] as const;

export function parseRoute(path: string): Route {
  const parts = path.replace(/^\/console\/?/, "").split("/").filter((part) => part !== "");
  const [first, id] = parts;
  if (first === undefined) return { page: "overview" };
  if (parts.length === 1) {
    const page = PAGES.find((page) => page === first);
    if (page) return { page };
  }
  if (parts.length === 2 && id !== undefined) {
    if (first === "rides") return { page: "ride", id };
    if (first === "people") return { page: "person", id };
    if (first === "dead-letters") return { page: "dead-letter", id };
  }
  return { page: "missing", path };
}

export const to = {
  page: (page: string) => (page === "overview" ? BASE : `${BASE}/${page}`),
  ride: (id: string) => `${BASE}/rides/${id}`,
  person: (id: string) => `${BASE}/people/${id}`,
  letter: (sequence: number) => `${BASE}/dead-letters/${sequence}`,
  runbook: (section: string) => `${BASE}/runbook#${section.toLowerCase()}`,
};

export function navigate(path: string): void {
  if (path === location.pathname + location.search + location.hash) return;
  history.pushState(null, "", path);
  dispatchEvent(new Event("rideshare:moved"));
}

/** Changes what comes after `?`, without an entry in the history. */
export function replaceSearch(params: Record<string, string>): void {
  const search = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== ""));
  const text = search.toString();
  history.replaceState(null, "", location.pathname + (text === "" ? "" : `?${text}`));
}

export function searchParam(name: string): string {
  return new URLSearchParams(location.search).get(name) ?? "";
}

/** Links of the console are followed within the page; the browser has all others, and clicks with a modifier. */
export function followLinks(): void {
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = (event.target as Element | null)?.closest("a");
    if (!link || link.target || link.origin !== location.origin || !link.pathname.startsWith(BASE)) return;
    if (link.getAttribute("href")?.startsWith("#")) return;
    event.preventDefault();
    navigate(link.pathname + link.search + link.hash);
  });
}
