/** The part of Markdown that the runbook is written in, as blocks. Pure. */

export type Inline = { text: string; kind: "text" | "code" | "strong" | "link"; href?: string };

export type Block =
  | { kind: "heading"; level: number; text: string; id: string }
  | { kind: "paragraph"; inlines: Inline[] }
  | { kind: "list"; ordered: boolean; items: Inline[][] }
  | { kind: "code"; text: string }
  | { kind: "table"; head: Inline[][]; rows: Inline[][][] };

/** As GitHub makes anchors of headings. */
export function anchor(heading: string): string {
  return heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, "")
    .trim()
    .replace(/\s/g, "-");
}

const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\(([^)\s]+)\)/g;

export function inlines(text: string): Inline[] {
  const parts: Inline[] = [];
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > from) parts.push({ kind: "text", text: text.slice(from, match.index) });
    const [whole, code, strong, label, href] = match;
    if (code !== undefined) parts.push({ kind: "code", text: code });
    else if (strong !== undefined) parts.push({ kind: "strong", text: strong });
    else parts.push({ kind: "link", text: (label ?? "").replaceAll("`", ""), href: href ?? "" });
    from = match.index + whole.length;
  }
  if (from < text.length) parts.push({ kind: "text", text: text.slice(from) });
  return parts;
}

const ITEM = /^\s*(?:[-*]|(\d+)\.)\s+(.*)$/;
const cells = (line: string) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => inlines(cell.trim()));

export function parse(markdown: string): Block[] {
  const lines = markdown.split(/\r?\n/);
  const blocks: Block[] = [];
  let n = 0;
  const line = () => lines[n] ?? "";
  while (n < lines.length) {
    if (line().trim() === "") {
      n += 1;
      continue;
    }
    const fence = /^\s*```/.exec(line());
    if (fence) {
      const code: string[] = [];
      for (n += 1; n < lines.length && !/^\s*```/.test(line()); n += 1) code.push(line());
      n += 1;
      blocks.push({ kind: "code", text: code.join("\n") });
      continue;
    }
    const heading = /^(#{1,6})\s+(.*)$/.exec(line());
    if (heading) {
      const text = (heading[2] ?? "").replaceAll("`", "");
      blocks.push({ kind: "heading", level: heading[1]?.length ?? 1, text, id: anchor(text) });
      n += 1;
      continue;
    }
    if (line().startsWith("|") && /^\|[\s:|-]+\|?$/.test(lines[n + 1] ?? "")) {
      const head = cells(line());
      const rows: Inline[][][] = [];
      for (n += 2; line().startsWith("|"); n += 1) rows.push(cells(line()));
      blocks.push({ kind: "table", head, rows });
      continue;
    }
    const item = ITEM.exec(line());
    if (item) {
      const items: string[] = [];
      const ordered = item[1] !== undefined;
      for (; n < lines.length && line().trim() !== "" && !/^\s*```/.test(line()); n += 1) {
        const next = ITEM.exec(line());
        if (next) items.push(next[2] ?? "");
        else items.push(`${items.pop() ?? ""} ${line().trim()}`);
      }
      blocks.push({ kind: "list", ordered, items: items.map(inlines) });
      continue;
    }
    const text: string[] = [];
    for (; n < lines.length && line().trim() !== "" && !/^(#{1,6}\s|\s*```|\|)/.test(line()) && !ITEM.test(line()); n += 1) {
      text.push(line().trim());
    }
    // A line that none of the above takes, such as a lone `|`.
    if (text.length === 0) {
      text.push(line().trim());
      n += 1;
    }
    blocks.push({ kind: "paragraph", inlines: inlines(text.join(" ")) });
  }
  return blocks;
}
