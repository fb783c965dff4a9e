/** Messages that a consumer gave up: why, what was in them, and trying them again. */

import { useState } from "preact/hooks";

import { get } from "../api/client";
import type { Consumers, DeadLetter, WholeDeadLetter } from "../api/types";
import { count } from "../pure/format";
import { parseQuery } from "../pure/query";
import { navigate, replaceSearch, searchParam, to } from "../router";
import { ActButton } from "../ui/dialogs";
import type { ActPlan } from "../ui/dialogs";
import { useLoad, useMay, usePages, useTitle } from "../ui/hooks";
import { Card, Copy, Empty, Failed, Json, Loading, More, Reload, Stale, Table, Time } from "../ui/parts";
import type { Column } from "../ui/parts";

export function DeadLettersPage() {
  useTitle("Dead letters");
  const [consumer, setConsumer] = useState(searchParam("consumer"));
  const [total, setTotal] = useState<number | null>(null);
  const consumers = useLoad("consumers", () => get<Consumers>("consumers"));
  const load = async (cursor: string | null) => {
    const page = await get<{ dead_letters: DeadLetter[]; total: number | null; next_cursor: string | null }>("dead-letters", {
      consumer,
      cursor,
    });
    setTotal(page.total);
    return { rows: page.dead_letters, next: page.next_cursor };
  };
  const pages = usePages(`letters ${consumer}`, load, 10_000);
  const choose = (consumer: string) => {
    setConsumer(consumer);
    replaceSearch({ consumer });
  };
  const columns: Column<DeadLetter>[] = [
    {
      name: "Letter",
      cell: (letter) => (
        <a class="mono" href={to.letter(letter.sequence)} data-row="" aria-label={`Dead letter ${letter.sequence}`}>
          {letter.sequence}
        </a>
      ),
    },
    { name: "Given up", cell: (letter) => <Time at={letter.failed_at} /> },
    { name: "Consumer", cell: (letter) => <span class="mono">{letter.consumer}</span> },
    { name: "Why", cell: (letter) => <span style={{ overflowWrap: "anywhere" }}>{letter.reason}</span> },
    { name: "Tries", cell: (letter) => count(letter.deliveries), num: true },
    { name: "Acts", cell: (letter) => <LetterActs letter={letter} acted={pages.reload} />, end: true },
  ];
  const names = [...new Set([...(consumers.data?.consumers.map(({ name }) => name) ?? []), ...(consumer ? [consumer] : [])])];
  return (
    <div class="stack">
      <div class="head">
        <h1>Dead letters</h1>
        <span class="acts">
          <a class="button" href={to.runbook("DeadLetters")}>
            Runbook
          </a>
        </span>
      </div>
      <div class="filters">
        <label class="field">
          <span>Consumer</span>
          <select class="input" value={consumer} onChange={(event) => choose(event.currentTarget.value)}>
            <option value="">All</option>
            {names.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
      </div>
      {pages.rows && pages.error && <Stale error={pages.error} retry={pages.reload} />}
      <Card
        title={total === null ? "Newest first" : `${count(total)} ${total === 1 ? "letter" : "letters"}, newest first`}
        aside={<Reload reload={pages.reload} />}
        flush
      >
        {pages.rows === null ? (
          pages.error ? (
            <Failed error={pages.error} retry={pages.reload} />
          ) : (
            <Loading />
          )
        ) : pages.rows.length === 0 ? (
          <Empty title="No message was given up">
            {consumer ? `None of ${consumer}.` : "A message that fails three times, or cannot be read, would be here."}
          </Empty>
        ) : (
          <Table rows={pages.rows} columns={columns} rowKey={(letter) => String(letter.sequence)} label="Dead letters" />
        )}
        <More hasMore={pages.hasMore && pages.rows !== null} loading={pages.loadingMore} more={pages.more} />
      </Card>
    </div>
  );
}

const REQUEUED: Record<string, string> = {
  handled_before: "It was handled before: the letter is removed.",
  gone: "The letter is not there any more: it was handled, or somebody removed it.",
};

function LetterActs({ letter, acted }: { letter: DeadLetter; acted: () => void }) {
  const support = useMay("support");
  if (!support) return null;
  const requeue: ActPlan = {
    title: `Requeue letter ${letter.sequence}`,
    effect: (
      <>
        <span class="mono">{letter.consumer}</span> handles the message again. If that works, the letter is removed; if not, it stays, and
        you see why.
      </>
    ),
    button: "Requeue",
    reason: "optional",
    path: `dead-letters/${letter.sequence}/requeue`,
    done: (answer) => REQUEUED[String(answer["outcome"])] ?? "Handled: the letter is removed.",
  };
  const remove: ActPlan = {
    title: `Remove letter ${letter.sequence}`,
    effect: "The message is lost for this consumer, for good.",
    button: "Remove",
    danger: true,
    reason: "optional",
    path: `dead-letters/${letter.sequence}/remove`,
    done: () => "The letter is removed.",
  };
  return (
    <span class="row nowrap">
      <ActButton plan={remove} acted={acted} danger>
        Remove
      </ActButton>
      <ActButton plan={requeue} acted={acted} primary>
        Requeue
      </ActButton>
    </span>
  );
}

export function DeadLetterPage({ id }: { id: string }) {
  useTitle(`Dead letter ${id}`);
  const loaded = useLoad(`letter ${id}`, () => get<{ dead_letter: WholeDeadLetter }>(`dead-letters/${id}`));
  if (loaded.data === null) {
    return <Card>{loaded.error ? <Failed error={loaded.error} retry={loaded.reload} /> : <Loading lines={8} />}</Card>;
  }
  const letter = loaded.data.dead_letter;
  const entity = parseQuery(letter.message_id);
  return (
    <div class="stack">
      <div class="head">
        <h1>Dead letter {letter.sequence}</h1>
        <span class="acts">
          <LetterActs letter={letter} acted={() => navigate(to.page("dead-letters"))} />
        </span>
      </div>
      <div class="notice bad">
        <span class="grow" style={{ overflowWrap: "anywhere" }}>
          {letter.reason}
        </span>
        <a class="button" href={to.runbook("DeadLetters")}>
          Runbook
        </a>
      </div>
      <div class="columns even">
        <Card title="What failed">
          <dl class="facts">
            <dt>Consumer</dt>
            <dd class="mono">{letter.consumer}</dd>
            <dt>Subject</dt>
            <dd class="mono">{letter.subject}</dd>
            <dt>Message</dt>
            <dd class="mono">
              {letter.message_id}
              <Copy text={letter.message_id} label="message id" />
            </dd>
            {entity.kind === "id" && (
              <>
                <dt>Of</dt>
                <dd class="mono">
                  {letter.subject.startsWith("ride.") ? <a href={to.ride(entity.id)}>{entity.id}</a> : entity.id}
                  <Copy text={entity.id} label="id" />
                </dd>
              </>
            )}
            <dt>Stored in</dt>
            <dd class="mono">
              {letter.stream}, {letter.stream_sequence}
            </dd>
            <dt>Tries</dt>
            <dd>{letter.deliveries}</dd>
            <dt>Given up</dt>
            <dd>
              <Time at={letter.failed_at} /> (<Time at={letter.failed_at} form="ago" />)
            </dd>
          </dl>
        </Card>
        <Card title="Headers" flush>
          {letter.headers.length === 0 ? (
            <Empty title="No headers" />
          ) : (
            <table class="table" aria-label="Headers">
              <tbody>
                {letter.headers.map(([name, value], n) => (
                  <tr key={n}>
                    <td class="mono nowrap">{name}</td>
                    <td class="mono" style={{ overflowWrap: "anywhere" }}>
                      {value}
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </Card>
      </div>
      <Card title="Body">
        <Json of={letter.body} />
      </Card>
    </div>
  );
}
