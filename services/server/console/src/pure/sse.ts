/** Server-sent events, parsed from pieces of text. Pure. */

export interface SseEvent {
  event: string;
  data: string;
  id: string | null;
}

/** The most characters of an event that is not complete yet; a server that sends more is refused. */
const PENDING_MAX = 16 * 1024 * 1024;

/** Takes a piece of the stream, and returns the events that it completes. */
export function sseParser(): (piece: string) => SseEvent[] {
  let pending = "";
  let event = "";
  let id: string | null = null;
  let data: string[] = [];
  return (piece) => {
    pending += piece;
    const events: SseEvent[] = [];
    // A carriage return at the end may be the first half of a line's end.
    const ready = pending.endsWith("\r") ? pending.length - 1 : pending.length;
    let from = 0;
    const ends = /\r\n|\n|\r/g;
    for (let end = ends.exec(pending); end && end.index < ready; end = ends.exec(pending)) {
      const line = pending.slice(from, end.index);
      from = end.index + end[0].length;
      if (line === "") {
        if (data.length > 0) events.push({ event: event || "message", data: data.join("\n"), id });
        event = "";
        data = [];
        continue;
      }
      const colon = line.indexOf(":");
      if (colon === 0) continue;
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
      if (field === "event") event = value;
      else if (field === "data") data.push(value);
      else if (field === "id") id = value;
    }
    pending = pending.slice(from);
    if (pending.length > PENDING_MAX) throw new Error("an event of the stream is too long");
    return events;
  };
}

/** The pause before try number `tries` (from 1): 1 s, doubled up to 30 s, with a random part so that not all come at once. */
export function backoffMs(tries: number, random: number): number {
  const full = Math.min(30_000, 1_000 * 2 ** Math.min(tries - 1, 10));
  return Math.round(full / 2 + (full / 2) * random);
}
