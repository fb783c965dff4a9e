/** The story of a ride: what happened, who was offered it, where it went, what it cost, and whether the books agree. */

import { useContext, useMemo, useState } from "preact/hooks";

import { get } from "../api/client";
import type { Explanation, LedgerEntry, Offer, Story } from "../api/types";
import { MapCanvas } from "../map/MapCanvas";
import { NO_SCENE } from "../map/view";
import { duration, metres, minorUnits, money, shortId, title, utc } from "../pure/format";
import { outcomeText, rulesText, whyText } from "../pure/explain";
import { findings, offerOutcome, timeline } from "../pure/timeline";
import type { Entry } from "../pure/timeline";
import { to } from "../router";
import { ActButton, Dialog } from "../ui/dialogs";
import type { ActPlan } from "../ui/dialogs";
import { Operator, useLoad, useMay, useNow, useTitle } from "../ui/hooks";
import { Badge, Card, Copy, Empty, Failed, Json, Loading, MoneyText, Reload, Stale, Status, Time, Unavailable } from "../ui/parts";
import * as format from "../pure/format";

const LIVE_MS = 3_000;
/** A payment is tried, and a late point may come, after the end. */
const ENDED_MS = 15_000;

export function RidePage({ id }: { id: string }) {
  useTitle(`Ride ${shortId(id)}`);
  const [every, setEvery] = useState(LIVE_MS);
  const story = useLoad(`ride ${id}`, () => get<Story>(`rides/${id}`), every);
  // What is not there does not come.
  if (story.error?.status === 404 && every !== 0) setEvery(0);
  const ended = story.data ? isFinal(story.data) : false;
  if (ended && every === LIVE_MS) setEvery(ENDED_MS);
  if (story.data === null) {
    return story.error ? (
      <Card>
        <Failed error={story.error} retry={story.reload} />
      </Card>
    ) : (
      <Card>
        <Loading lines={10} />
      </Card>
    );
  }
  return <StoryView story={story.data} reload={story.reload} error={story.error} />;
}

function isFinal({ ride }: Story): boolean {
  return ride.status === "completed" || ride.status === "cancelled";
}

function StoryView({ story, reload, error }: { story: Story; reload: () => void; error: ReturnType<typeof useLoad>["error"] }) {
  const { ride, driver, passenger, track } = story;
  const now = useNow(5_000);
  const found = findings(story, now);
  const scene = useMemo(
    () => {
      const points = track?.points ?? [];
      const [counted, strays] = [points.filter(({ on_track }) => on_track !== false), points.filter(({ on_track }) => on_track === false)];
      return { ...NO_SCENE, track: { points: counted, strays, pickup: ride.pickup, dropoff: ride.dropoff } };
    },
    [track, ride.pickup.lat, ride.pickup.lng, ride.dropoff.lat, ride.dropoff.lng],
  );
  const end = isFinal(story) ? new Date(ride.updated_at) : now;
  return (
    <div class="stack">
      <div class="head">
        <h1>Ride {shortId(ride.ride_id)}</h1>
        <Status of={ride.status} />
        <Chain story={story} />
        <Reload reload={reload} />
        <Acts story={story} reload={reload} />
      </div>
      {error && <Stale error={error} retry={reload} />}
      <Unavailable parts={story.unavailable} />
      {found.length > 0 && (
        <section class="card" aria-label="What stands out">
          <ul class="issues">
            {found.map(({ tone, text }) => (
              <li key={text}>
                <Badge tone={tone}>{tone === "bad" ? "cause" : "look"}</Badge>
                <span>{text}</span>
              </li>
            ))}
          </ul>
        </section>
      )}
      <dl class="strip">
        <div>
          <dt>Passenger</dt>
          <dd>
            <a href={to.person(ride.passenger_id)} title={ride.passenger_id}>
              {passenger ? (passenger.name ?? passenger.phone) : shortId(ride.passenger_id)}
            </a>
            <small>{passenger?.name && passenger.phone}</small>
          </dd>
        </div>
        <div>
          <dt>Driver</dt>
          <dd>
            <a href={to.person(ride.driver_id)} title={ride.driver_id}>
              {driver ? (driver.name ?? driver.phone) : shortId(ride.driver_id)}
            </a>
            <small>{driver?.plate}</small>
          </dd>
        </div>
        <div>
          <dt>Began</dt>
          <dd>
            <Time at={ride.created_at} />
            <small>
              <Time at={ride.created_at} form="ago" />
            </small>
          </dd>
        </div>
        <div>
          <dt>{isFinal(story) ? "Took" : "For"}</dt>
          <dd>{duration((end.getTime() - Date.parse(ride.created_at)) / 1000)}</dd>
        </div>
        <div>
          <dt>Distance</dt>
          <dd>{ride.distance_m === null ? (track?.distance_m ? metres(track.distance_m) : "–") : metres(ride.distance_m)}</dd>
        </div>
        <div>
          <dt>Total</dt>
          <dd>
            <MoneyText of={ride.total ?? ride.cancel_fee} />
          </dd>
        </div>
      </dl>
      <div class="story">
        <div class="stack">
          <Card title="What happened" flush>
            <Timeline story={story} />
          </Card>
          <Notes story={story} reload={reload} />
          <Card title="Ids">
            <Ids story={story} />
          </Card>
        </div>
        <div class="stack">
          <Card title="Track" aside={<TrackFacts story={story} />} flush>
            <div style={{ height: "300px" }}>
              <MapCanvas scene={scene} label="Track of the ride" />
            </div>
          </Card>
          <Card title="Offers" flush>
            <Offers story={story} />
          </Card>
          <Card title="Fare and payment" flush>
            <Fare story={story} />
          </Card>
          <Card title="Ledger" aside={<LedgerSum entries={story.ledger} />} flush>
            <Ledger story={story} />
          </Card>
        </div>
      </div>
    </div>
  );
}

function Chain({ story: { chain, events } }: { story: Story }) {
  return chain.verifies ? (
    <Badge tone="good" title="Each event has the hash of the one before, and all of them were computed again">
      ✓ {events.length === 1 ? "1 event" : `${events.length} events`} verified
    </Badge>
  ) : (
    <Badge tone="bad" title={chain.fault ?? ""}>
      ✗ hash chain broken
    </Badge>
  );
}

function Acts({ story, reload }: { story: Story; reload: () => void }) {
  const { ride, payment } = story;
  const support = useMay("support");
  if (!support) return null;
  const billed = ride.status === "arrived";
  const end: ActPlan = {
    title: "End this ride",
    effect: billed
      ? "The ride is completed as the platform, and billed by the estimate. Driver and passenger are sent the event."
      : "The ride is cancelled as the platform, free of charge. Driver and passenger are sent the event, and may ride again.",
    button: "End the ride",
    danger: true,
    reason: "required",
    path: `rides/${ride.ride_id}/end`,
    done: (answer) => `The ride is ${String(answer["status"])}.`,
  };
  const captured = payment?.status === "captured" ? payment.amount.amount - payment.refunded.amount : 0;
  return (
    <span class="acts">
      {!isFinal(story) && (
        <ActButton plan={end} acted={reload} danger>
          End the ride
        </ActButton>
      )}
      {payment && captured > 0 && <Refund story={story} most={{ ...payment.amount, amount: captured }} reload={reload} />}
    </span>
  );
}

function Refund({ story: { ride }, most, reload }: { story: Story; most: format.Money; reload: () => void }) {
  const [text, setText] = useState("");
  const { currency } = most;
  const plan: ActPlan = {
    title: "Refund",
    effect: `The passenger gets money back, and the platform bears it. At most ${money(most)} of this ride can be refunded.`,
    button: "Refund",
    danger: true,
    reason: "required",
    path: `rides/${ride.ride_id}/refund`,
    fields: (
      <label class="field">
        <span>Amount, {currency}</span>
        <input
          class="input"
          name="amount"
          inputMode="decimal"
          autoComplete="off"
          autoFocus
          required
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
        />
      </label>
    ),
    body: () => {
      const amount = minorUnits(text, currency);
      if (amount === null) return `The amount must be above 0 and have at most ${format.decimals(currency)} decimals.`;
      return amount > most.amount ? `At most ${money(most)} can be refunded.` : { amount: { amount, currency } };
    },
    done: (answer) => `Refunded ${money(answer["amount"] as format.Money)}.`,
  };
  return (
    <ActButton plan={plan} acted={reload}>
      Refund
    </ActButton>
  );
}

function Timeline({ story }: { story: Story }) {
  const entries = timeline(story);
  if (entries.length === 0) return <Empty title="No event is stored" />;
  return (
    <ol class="timeline">
      {entries.map((entry, n) => (
        <Line key={entry.key} entry={entry} before={entries[n - 1] ?? null} />
      ))}
    </ol>
  );
}

function Line({ entry, before }: { entry: Entry; before: Entry | null }) {
  const at = new Date(entry.at);
  const gap = before ? (at.getTime() - Date.parse(before.at)) / 1000 : null;
  return (
    <li>
      <div class="at">
        <time dateTime={entry.at} title={utc(at)}>
          {format.clockMillis(at)}
        </time>
        {gap !== null && <small>+{duration(gap)}</small>}
      </div>
      <div class="mark" aria-hidden="true">
        <i class={entry.tone} />
      </div>
      <div class="what">
        <strong>{entry.title}</strong>
        {entry.detail !== "" && <p>{entry.detail}</p>}
        {entry.person && (
          <p>
            <a href={to.person(entry.person)}>Driver {shortId(entry.person)}</a>
          </p>
        )}
        {entry.event && (
          <details>
            <summary>
              {entry.event.subject}, version {entry.event.version} {entry.event.verifies ? "✓" : "✗ does not verify"}
            </summary>
            <dl class="facts small" style={{ marginTop: "6px" }}>
              <dt>Message</dt>
              <dd class="mono">{entry.event.message_id}</dd>
              <dt>Hash</dt>
              <dd class="mono">{entry.event.hash}</dd>
              <dt>Of the one before</dt>
              <dd class="mono">{entry.event.previous_hash}</dd>
              {entry.event.trace_id && (
                <>
                  <dt>Trace</dt>
                  <dd>
                    <Trace id={entry.event.trace_id} />
                  </dd>
                </>
              )}
            </dl>
            <Json of={entry.event.body} />
          </details>
        )}
      </div>
    </li>
  );
}

function TrackFacts({ story: { track } }: { story: Story }) {
  if (track === null) return null;
  const shown = track.points.length < track.total_points ? ` (${track.points.length} shown)` : "";
  const strays = track.points.filter(({ on_track }) => on_track === false).length;
  return (
    <span class="muted small" title={strays > 0 ? "Of another device, or GPS jumps: they are grey, and are not billed" : undefined}>
      {format.count(track.total_points)} points{shown}
      {strays > 0 && `, ${format.count(strays)} left out`}
      {track.distance_m !== null && `, ${metres(track.distance_m)}`}
      {track.is_final ? ", final" : ""}
    </span>
  );
}

/** A trace: a link where the platform knows who shows traces, and the id to look for anywhere else. */
function Trace({ id }: { id: string }) {
  const { trace_url } = useContext(Operator);
  return (
    <span class="mono">
      {trace_url ? (
        <a href={trace_url.replaceAll("{trace_id}", id)} target="_blank" rel="noreferrer">
          {id}
        </a>
      ) : (
        id
      )}
      <Copy text={id} label="trace id" />
    </span>
  );
}

/** Why the driver of an offer was chosen: the recorded decision, which match makes again. */
function WhyDialog({ offer, story, close }: { offer: Offer; story: Story; close: () => void }) {
  const path = `matches/${offer.match_id}/explanation`;
  const { data, error, reload } = useLoad(path, () => get<Explanation>(path));
  return (
    <Dialog close={close} label="Why this driver" wide>
      <div class="inner">
        <div class="head">
          <h2>Why this driver</h2>
          {data?.decisions.length ? (
            <Badge tone={data.reproduced ? "good" : "bad"} title="The recorded inputs were run through the engine again">
              {data.reproduced ? "✓ decided the same again" : "✗ decides otherwise now"}
            </Badge>
          ) : null}
          <span class="acts">
            <button type="button" class="button" onClick={close}>
              Close
            </button>
          </span>
        </div>
        {error && <Failed error={error} retry={reload} />}
        {!data && !error && <Loading lines={6} />}
        {data && <WhyText explanation={data} story={story} />}
        <p class="muted small nowrap">
          In a shell <Copy text={`rideshare dispatch explain --match ${offer.match_id}`} label="the command that explains the match" />
        </p>
      </div>
    </Dialog>
  );
}

function WhyText({ explanation, story: { ride } }: { explanation: Explanation; story: Story }) {
  const [decision] = explanation.decisions;
  if (!decision) {
    return (
      <Empty title="The decision is not recorded">
        {explanation.reason ?? ""} Decisions are stored for MATCH_RECORD_HOURS, usually a day.
      </Empty>
    );
  }
  return (
    <>
      <p>
        <strong>{outcomeText(decision)}</strong>, <Time at={decision.at} form="millis" />. {rulesText(decision)}
      </p>
      {!explanation.reproduced && explanation.reason && <p class="muted">{explanation.reason}</p>}
      <div class="scroll">
        <table class="table cards" aria-label="Candidates">
          <thead>
            <tr>
              <th scope="col">Driver</th>
              <th scope="col" class="num" title="From the driver to the pickup, straight">
                Straight
              </th>
              <th scope="col" class="num">
                ETA
              </th>
              <th scope="col">Why</th>
            </tr>
          </thead>
          <tbody>
            {decision.candidates.map((candidate) => (
              <tr key={candidate.driver_id} class={candidate.why === "offered" ? "chosen" : ""}>
                <td data-label="Driver" class="nowrap">
                  <a href={to.person(candidate.driver_id)} title={candidate.driver_id}>
                    {candidate.driver_id === ride.driver_id ? "This driver" : shortId(candidate.driver_id)}
                  </a>
                </td>
                <td data-label="Straight" class="num">
                  {metres(candidate.distance_m)}
                </td>
                <td data-label="ETA" class="num nowrap">
                  {duration(candidate.eta_s)}
                </td>
                <td data-label="Why">{whyText(candidate)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {decision.left_out > 0 && <p class="muted small">And {format.count(decision.left_out)} farther ones.</p>}
    </>
  );
}

function Offers({ story }: { story: Story }) {
  const { offers, ride, driver } = story;
  const [asked, setAsked] = useState<Offer | null>(null);
  if (offers === null) return <Empty title="Offers are not known now" />;
  if (offers.length === 0) return <Empty title="No offer is stored">Offers are stored for a day.</Empty>;
  const name = (offer: Offer) => (offer.match_id === ride.match_id ? (driver?.name ?? "This driver") : "Another driver");
  return (
    <div class="scroll">
      <table class="table cards tight" aria-label="Offers">
        <thead>
          <tr>
            <th scope="col">Sent</th>
            <th scope="col">To</th>
            <th scope="col" title="The driver's way to the pickup, and the time for it, when the offer was made">
              Away
            </th>
            <th scope="col">Outcome</th>
            <th scope="col">
              <span class="sr-only">Why</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {offers.map((offer) => {
            const { text, tone } = offerOutcome(offer);
            return (
              <tr key={offer.match_id} class={offer.match_id === ride.match_id ? "chosen" : ""}>
                <td data-label="Sent">
                  <Time at={offer.found_at} form="clock" />
                </td>
                <td data-label="To" class="nowrap">
                  <a href={to.person(offer.driver_id)} title={offer.driver_id}>
                    {name(offer)}
                  </a>
                </td>
                <td data-label="Away" class="nowrap">
                  {typeof offer.pickup_distance_m !== "number" || typeof offer.pickup_eta_s !== "number" ? (
                    <span class="muted none">–</span>
                  ) : (
                    `${metres(offer.pickup_distance_m)}, ${duration(offer.pickup_eta_s)}`
                  )}
                </td>
                <td data-label="Outcome">
                  <span>
                    <Badge tone={tone}>{offer.reason ?? offer.state}</Badge> {offer.state !== "accepted" && <span class="muted">{text}</span>}
                  </span>
                </td>
                <td class="end">
                  <button
                    type="button"
                    class="button plain"
                    aria-label={`Why this driver, offer of ${offer.found_at ?? "an unknown time"}`}
                    onClick={() => setAsked(offer)}
                  >
                    Why?
                  </button>
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
      {asked && <WhyDialog offer={asked} story={story} close={() => setAsked(null)} />}
    </div>
  );
}

function Fare({ story: { ride, payment, refunds } }: { story: Story }) {
  if (!ride.fare && !payment && !ride.cancel_fee) {
    return <Empty title={ride.status === "cancelled" ? "It cost nothing" : "Not billed yet"} />;
  }
  return (
    <table class="table" aria-label="Fare and payment">
      <tbody>
        {ride.fare?.lines.map((line, n) => (
          <tr key={n}>
            <td>{line.name === "minimum" ? "Up to the minimum" : title(line.name)}</td>
            <td class="num">
              <MoneyText of={line.amount} />
            </td>
          </tr>
        ))}
        {ride.fare && (
          <tr class="sum">
            <td>Total{ride.fare.estimated ? ", estimated" : ""}</td>
            <td class="num">
              <MoneyText of={ride.fare.total} />
            </td>
          </tr>
        )}
        {!ride.fare && ride.cancel_fee && (
          <tr class="sum">
            <td>Cancellation fee</td>
            <td class="num">
              <MoneyText of={ride.cancel_fee} />
            </td>
          </tr>
        )}
        {ride.driver_payout && (
          <tr>
            <td class="muted">of it to the driver</td>
            <td class="num">
              <MoneyText of={ride.driver_payout} />
            </td>
          </tr>
        )}
        {ride.platform_fee && (
          <tr>
            <td class="muted">of it to the platform</td>
            <td class="num">
              <MoneyText of={ride.platform_fee} />
            </td>
          </tr>
        )}
        {payment && (
          <tr>
            <td>
              Payment <Status of={payment.status} /> <Time at={payment.tried_at} />
            </td>
            <td class="num">
              <MoneyText of={payment.amount} />
            </td>
          </tr>
        )}
        {refunds.map((refund) => (
          <tr key={refund.refund_id}>
            <td>
              Refund by {refund.by}: {refund.reason}
            </td>
            <td class="num">
              <MoneyText of={{ ...refund.amount, amount: -refund.amount.amount }} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function LedgerSum({ entries }: { entries: LedgerEntry[] }) {
  if (entries.length === 0) return null;
  const sum = entries.reduce((sum, { amount }) => sum + amount.amount, 0);
  return sum === 0 ? <Badge tone="good">✓ adds up to 0</Badge> : <Badge tone="bad">✗ does not add up</Badge>;
}

/** `passenger:0190…` by what it means here. */
function accountName(account: string, { ride }: Story): string {
  if (account === `passenger:${ride.passenger_id}`) return "Passenger";
  if (account === `driver:${ride.driver_id}`) return "Driver";
  if (account.startsWith("cash:")) return `Cash (${account.slice("cash:".length)})`;
  return account === "platform:revenue" ? "Platform revenue" : account;
}

const MOVEMENTS = ["fare", "cancellation", "capture", "refund"];

function Ledger({ story }: { story: Story }) {
  if (story.ledger.length === 0) return <Empty title="No money has moved" />;
  // Billing and capture may have one time; within a movement the debit comes first.
  const entries = [...story.ledger].sort(
    (a, b) =>
      MOVEMENTS.indexOf(a.kind) - MOVEMENTS.indexOf(b.kind) ||
      Date.parse(a.at) - Date.parse(b.at) ||
      a.transaction_id.localeCompare(b.transaction_id) ||
      b.amount.amount - a.amount.amount,
  );
  return (
    <div class="scroll">
      <table class="table" aria-label="Ledger">
        <thead>
          <tr>
            <th scope="col">Movement</th>
            <th scope="col">Account</th>
            <th scope="col" class="num">
              Debit
            </th>
            <th scope="col" class="num">
              Credit
            </th>
          </tr>
        </thead>
        <tbody>
          {entries.map((entry, n) => {
            const first = entries[n - 1]?.transaction_id !== entry.transaction_id;
            const { amount } = entry.amount;
            return (
              <tr key={entry.entry_id}>
                <td>{first ? title(entry.kind) : ""}</td>
                <td title={entry.account}>{accountName(entry.account, story)}</td>
                <td class="num">{amount > 0 && <MoneyText of={entry.amount} />}</td>
                <td class="num">{amount < 0 && <MoneyText of={{ ...entry.amount, amount: -amount }} />}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

function Notes({ story, reload }: { story: Story; reload: () => void }) {
  const [text, setText] = useState("");
  const support = useMay("support");
  const plan: ActPlan = {
    title: "Add a note",
    effect: "Everybody with the console can read it. It cannot be changed later.",
    button: "Add",
    reason: "none",
    path: `rides/${story.ride.ride_id}/notes`,
    fields: (
      <label class="field">
        <span>Note</span>
        <textarea
          class="input"
          name="text"
          maxLength={1_000}
          required
          autoFocus
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
        />
      </label>
    ),
    body: () => ({ text: text.trim() }),
    done: () => "The note is stored.",
  };
  const acted = () => {
    setText("");
    reload();
  };
  return (
    <Card
      title="Notes"
      aside={
        support && (
          <ActButton plan={plan} acted={acted}>
            Add a note
          </ActButton>
        )
      }
      flush
    >
      {story.notes.length === 0 ? (
        <Empty title="No notes">What you find out about a complaint, the next one wants to know.</Empty>
      ) : (
        <ul class="issues">
          {story.notes.map((note) => (
            <li key={note.note_id} style={{ gridTemplateColumns: "minmax(0, 1fr) auto" }}>
              <span style={{ whiteSpace: "pre-wrap", overflowWrap: "anywhere" }}>{note.text}</span>
              <span class="muted small nowrap">
                {note.by}, <Time at={note.at} />
              </span>
            </li>
          ))}
        </ul>
      )}
    </Card>
  );
}

function Ids({ story: { ride, payment, events } }: { story: Story }) {
  // That of the first event; one that is in another trace says so.
  const trace = events[0]?.trace_id;
  const rows: [string, string | null | undefined][] = [
    ["Ride", ride.ride_id],
    ["Match", ride.match_id],
    ["Search", ride.request_id],
    ["Passenger", ride.passenger_id],
    ["Driver", ride.driver_id],
    ["Payment", payment?.payment_id],
  ];
  return (
    <dl class="facts">
      {rows.map(
        ([name, id]) =>
          id && (
            <>
              <dt>{name}</dt>
              <dd class="mono">
                {id}
                <Copy text={id} label={`${name.toLowerCase()} id`} />
              </dd>
            </>
          ),
      )}
      {trace && (
        <>
          <dt>Trace</dt>
          <dd>
            <Trace id={trace} />
          </dd>
        </>
      )}
      <dt>Market</dt>
      <dd>{ride.market_id ?? "–"}</dd>
      <dt>Vehicle</dt>
      <dd>{ride.vehicle_type}</dd>
      <dt>Pickup</dt>
      <dd class="mono">
        {ride.pickup.lat.toFixed(5)}, {ride.pickup.lng.toFixed(5)}
      </dd>
      <dt>Dropoff</dt>
      <dd class="mono">
        {ride.dropoff.lat.toFixed(5)}, {ride.dropoff.lng.toFixed(5)}
      </dd>
    </dl>
  );
}

