/** docker/RUNBOOK.md of this version of the program. */

import { useEffect, useState } from "preact/hooks";

import { text } from "../api/client";
import { parse } from "../pure/markdown";
import type { Inline } from "../pure/markdown";
import { useLoad, useTitle } from "../ui/hooks";
import { Card, Failed, Loading } from "../ui/parts";

function Inlines({ of }: { of: Inline[] }) {
  return (
    <>
      {of.map((inline, n) => {
        if (inline.kind === "code") return <code key={n}>{inline.text}</code>;
        if (inline.kind === "strong") return <strong key={n}>{inline.text}</strong>;
        // Files beside the runbook are not in the program.
        if (inline.kind === "link" && inline.href?.startsWith("#")) {
          return (
            <a key={n} href={inline.href}>
              {inline.text}
            </a>
          );
        }
        return inline.kind === "link" ? <code key={n}>{inline.text}</code> : inline.text;
      })}
    </>
  );
}

export function RunbookPage() {
  useTitle("Runbook");
  const runbook = useLoad("runbook", () => text("/console/assets/runbook.md"));
  const [chosen, setChosen] = useState(location.hash.slice(1));
  useEffect(() => {
    const moved = () => setChosen(location.hash.slice(1));
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  useEffect(() => {
    if (runbook.data && chosen) document.getElementById(chosen)?.scrollIntoView();
  }, [runbook.data, chosen]);
  if (runbook.data === null) {
    return runbook.error ? <Failed error={runbook.error} retry={runbook.reload} /> : <Loading lines={12} />;
  }
  const blocks = parse(runbook.data);
  const sections = blocks.flatMap((block) => (block.kind === "heading" && block.level === 2 ? [block] : []));
  return (
    <div class="stack">
      <Card title="Sections">
        <div class="row">
          {sections.map(({ id, text }) => (
            <a key={id} href={`#${id}`} class="badge">
              {text}
            </a>
          ))}
        </div>
      </Card>
      <article class="prose">
        {blocks.map((block, n) => {
          switch (block.kind) {
            case "heading":
              if (block.level === 1) return <h1 key={n}>{block.text}</h1>;
              return block.level === 2 ? (
                <h2 key={n} id={block.id} class={block.id === chosen ? "chosen" : ""}>
                  {block.text}
                </h2>
              ) : (
                <h3 key={n} id={block.id}>
                  {block.text}
                </h3>
              );
            case "paragraph":
              return (
                <p key={n}>
                  <Inlines of={block.inlines} />
                </p>
              );
            case "code":
              return (
                <pre key={n} tabIndex={0}>
                  {block.text}
                </pre>
              );
            case "list": {
              const items = block.items.map((item, m) => (
                <li key={m}>
                  <Inlines of={item} />
                </li>
              ));
              return block.ordered ? <ol key={n}>{items}</ol> : <ul key={n}>{items}</ul>;
            }
            case "table":
              return (
                <div key={n} class="scroll" tabIndex={0}>
                  <table class="table">
                    <thead>
                      <tr>
                        {block.head.map((cell, m) => (
                          <th key={m}>
                            <Inlines of={cell} />
                          </th>
                        ))}
                      </tr>
                    </thead>
                    <tbody>
                      {block.rows.map((row, m) => (
                        <tr key={m}>
                          {row.map((cell, k) => (
                            <td key={k}>
                              <Inlines of={cell} />
                            </td>
                          ))}
                        </tr>
                      ))}
                    </tbody>
                  </table>
                </div>
              );
          }
        })}
      </article>
    </div>
  );
}
