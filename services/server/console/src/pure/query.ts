/** What somebody put into the search box. Pure. */

export type Query =
  | { kind: "phone"; phone: string }
  | { kind: "id"; id: string }
  | { kind: "nothing" }
  | { kind: "unknown"; text: string };

const UUID = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/i;

/** An id may be inside of something else: a message id, a link, a line of a log. */
export function parseQuery(text: string): Query {
  const trimmed = text.trim();
  if (trimmed === "") return { kind: "nothing" };
  const id = UUID.exec(trimmed)?.[0];
  if (id) return { kind: "id", id: id.toLowerCase() };
  const phone = parsePhone(trimmed);
  return phone ? { kind: "phone", phone } : { kind: "unknown", text: trimmed };
}

/** E.164, from a number as people write it: `+1 (212) 555-0123`, `0012125550123`. */
export function parsePhone(text: string): string | null {
  if (!/^[+\d\s().\-/\u00a0]+$/.test(text)) return null;
  const digits = text.replace(/\D/g, "").replace(text.trim().startsWith("+") ? /^$/ : /^00/, "");
  return digits.length >= 7 && digits.length <= 15 && !digits.startsWith("0") ? `+${digits}` : null;
}
