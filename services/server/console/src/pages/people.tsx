/** People: found by phone, and all that an operator needs to know of one. */

import { useState } from "preact/hooks";

import { get } from "../api/client";
import { find } from "../api/find";
import type { Person } from "../api/types";
import { shortId } from "../pure/format";
import { parseQuery } from "../pure/query";
import { navigate, to } from "../router";
import { ActButton } from "../ui/dialogs";
import type { ActPlan } from "../ui/dialogs";
import { asApiError, useLoad, useMay, usePages, useTitle } from "../ui/hooks";
import { Badge, Card, Copy, Empty, Failed, Id, Loading, MoneyText, More, Reload, Stale, Table, Time, Unavailable } from "../ui/parts";
import { DriverActs, Standing, vehicle } from "./drivers";
import { RIDE_COLUMNS, loadRides } from "./rides";

export function PeoplePage() {
  useTitle("People");
  const [text, setText] = useState("");
  const [answer, setAnswer] = useState<string | null>(null);
  const submit = async (event: Event) => {
    event.preventDefault();
    setAnswer("Looking…");
    try {
      const found = await find(parseQuery(text));
      if ("path" in found) navigate(found.path);
      else setAnswer(found.nothing);
    } catch (error) {
      setAnswer(asApiError(error).message);
    }
  };
  return (
    <div class="stack">
      <div class="head">
        <h1>People</h1>
      </div>
      <Card title="Find somebody">
        <form class="filters" onSubmit={submit}>
          <label class="field grow" style={{ maxWidth: "420px" }}>
            <span>Phone number, or user id</span>
            <input
              class="input"
              name="phone"
              autoComplete="off"
              autoFocus
              required
              placeholder="+1 212 555 0123"
              value={text}
              onInput={(event) => {
                setText(event.currentTarget.value);
                setAnswer(null);
              }}
            />
          </label>
          <button type="submit" class="button primary">
            Find
          </button>
        </form>
        <p class="muted small" role="status" style={{ marginTop: "10px" }}>
          {answer ?? "Each look-up by phone is an act: it is stored with your name."}
        </p>
      </Card>
    </div>
  );
}

export function PersonPage({ id }: { id: string }) {
  useTitle(`Person ${shortId(id)}`);
  const [every, setEvery] = useState(10_000);
  const person = useLoad(`person ${id}`, () => get<Person>(`users/${id}`), every);
  const rides = usePages(`rides of ${id}`, loadRides({ user: id }), every / 2);
  // What is not there does not come.
  if (person.error?.status === 404 && every !== 0) setEvery(0);
  if (person.data === null) {
    return <Card>{person.error ? <Failed error={person.error} retry={person.reload} /> : <Loading lines={8} />}</Card>;
  }
  const { user, debts, search } = person.data;
  const { driver } = user;
  return (
    <div class="stack">
      <div class="head">
        <h1>{user.name ?? user.phone}</h1>
        {driver ? <Standing driver={driver} /> : <Badge>passenger</Badge>}
        {person.data.sockets > 0 ? <Badge tone="live">connected</Badge> : <Badge>not connected</Badge>}
        <Reload reload={person.reload} />
        <PersonActs person={person.data} acted={person.reload} />
      </div>
      {person.error && <Stale error={person.error} retry={person.reload} />}
      <Unavailable parts={person.data.unavailable} />
      {person.data.live_ride_ids.map((ride) => (
        <div key={ride} class="notice good">
          <span class="grow">A ride is under way.</span>
          <a class="button" href={to.ride(ride)}>
            Its story
          </a>
        </div>
      ))}
      {debts?.map((debt) => (
        <div key={debt.debt_id} class="notice bad">
          <span class="grow">
            Owes <MoneyText of={debt.amount} /> since <Time at={debt.since} />: the payment of a ride was refused, and the next search is too.
          </span>
          <a class="button" href={to.ride(debt.ride_id)}>
            The ride
          </a>
        </div>
      ))}
      <Card title="Rides" aside={<Reload reload={rides.reload} />} flush>
        {rides.rows === null ? (
          rides.error ? (
            <Failed error={rides.error} retry={rides.reload} />
          ) : (
            <Loading />
          )
        ) : rides.rows.length === 0 ? (
          <Empty title="No ride yet" />
        ) : (
          <Table rows={rides.rows} columns={RIDE_COLUMNS} rowKey={(ride) => ride.ride_id} dense label="Rides of this person" />
        )}
        <More hasMore={rides.hasMore && rides.rows !== null} loading={rides.loadingMore} more={rides.more} />
      </Card>
      <div class="columns even">
        <Card title="Account">
          <dl class="facts">
            <dt>Phone</dt>
            <dd>
              {user.phone} <Copy text={user.phone} label="phone" />
            </dd>
            <dt>Since</dt>
            <dd>
              <Time at={user.created_at} />
            </dd>
            <dt>User</dt>
            <dd class="mono">
              {user.user_id}
              <Copy text={user.user_id} label="user id" />
            </dd>
            {driver && (
              <>
                <dt>Vehicle</dt>
                <dd>{vehicle(driver)}</dd>
                <dt>Plate</dt>
                <dd class="mono">{driver.plate}</dd>
                <dt>Driver since</dt>
                <dd>
                  <Time at={driver.registered_at} />
                </dd>
              </>
            )}
            {search && (
              <>
                <dt>Search</dt>
                <dd>
                  {search.vehicle_type}, began <Time at={search.began_at} form="ago" />, ends <Time at={search.expires_at} form="ago" />{" "}
                  <Id id={search.request_id} label="search" />
                </dd>
              </>
            )}
            {debts === null && (
              <>
                <dt>Debts</dt>
                <dd class="muted">not known now</dd>
              </>
            )}
          </dl>
        </Card>
        <Card title="Sign-ins" flush>
          {person.data.sign_ins.length === 0 ? (
            <Empty title="Signed in nowhere" />
          ) : (
            <table class="table cards" aria-label="Sign-ins">
              <thead>
                <tr>
                  <th scope="col">Device</th>
                  <th scope="col">Since</th>
                  <th scope="col">Seen</th>
                </tr>
              </thead>
              <tbody>
                {person.data.sign_ins.map((signIn) => (
                  <tr key={signIn.id}>
                    <td data-label="Device">{signIn.device ?? <span class="muted">not named</span>}</td>
                    <td data-label="Since">
                      <Time at={signIn.created_at} />
                    </td>
                    <td data-label="Seen">
                      <Time at={signIn.seen_at} form="ago" />
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </Card>
      </div>
    </div>
  );
}

function PersonActs({ person: { user }, acted }: { person: Person; acted: () => void }) {
  const support = useMay("support");
  const plan: ActPlan = {
    title: `Sign ${user.name ?? user.phone} out`,
    effect: "All sign-ins of this person end, and their sockets close. They sign in again with a code.",
    button: "Sign out everywhere",
    danger: true,
    reason: "optional",
    path: `users/${user.user_id}/sign-out`,
    done: (answer) => `${String(answer["ended"])} sign-ins ended.`,
  };
  return (
    <span class="acts">
      {support && (
        <ActButton plan={plan} acted={acted} danger>
          Sign out
        </ActButton>
      )}
      {user.driver && <DriverActs driver={user.driver} acted={acted} />}
    </span>
  );
}
