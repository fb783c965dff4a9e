/** What moves: drivers, searches, offers and rides. */

import { useEffect, useMemo, useState } from "preact/hooks";

import { get } from "../api/client";
import { liveFeed } from "../api/live";
import type { DriverPosition, Live, Markets } from "../api/types";
import { MapCanvas } from "../map/MapCanvas";
import { NO_SCENE } from "../map/view";
import type { Chosen, DriverState, MarketArea, Scene } from "../map/view";
import { count, metres } from "../pure/format";
import { distanceM } from "../pure/mercator";
import type { Place } from "../pure/mercator";
import { to } from "../router";
import { useFeed, useLoad, useTitle } from "../ui/hooks";
import { Empty, Id, Loading, Status, Time, Unavailable } from "../ui/parts";

/** A place that is older says little. */
const OLD_S = 120;
const LISTED_MAX = 8;

function stateOf(driver: DriverPosition, offered: Set<string>): DriverState {
  if (driver.ride_id !== null) return "ride";
  if (!driver.on_duty || driver.age_s > OLD_S) return "stale";
  return offered.has(driver.driver_id) ? "offer" : "free";
}

/** The file may be read again while the page is open. */
const MARKETS_MS = 60_000;

/** The areas that have one: the world has none. */
function areasOf({ features }: Markets): MarketArea[] {
  return features.flatMap(({ geometry, properties }) => {
    if (!geometry) return [];
    const polygons = geometry.coordinates.map((rings) => rings.map((ring) => ring.map(([lng, lat]) => ({ lat, lng }))));
    return [{ id: properties.market_id, name: properties.name, polygons }];
  });
}

function sceneOf(live: Live, markets: MarketArea[]): Scene {
  const searches = new Map(live.searches.map((search) => [search.request_id, search]));
  const offered = new Set((live.offers ?? []).map(({ driver_id }) => driver_id));
  return {
    markets,
    drivers: live.positions.map((driver) => ({
      id: driver.driver_id,
      place: driver.location,
      // Whoever stands has no direction.
      headingDeg: (driver.speed_mps ?? 1) < 0.5 ? null : driver.heading_deg,
      state: stateOf(driver, offered),
    })),
    searches: live.searches.map(({ request_id, pickup, dropoff }) => ({ id: request_id, pickup, dropoff })),
    rides: live.rides.map(({ ride_id, driver_id, pickup, dropoff, status }) => ({
      id: ride_id,
      driverId: driver_id,
      pickup,
      dropoff,
      aboard: status === "started" || status === "arrived",
    })),
    offers: (live.offers ?? []).flatMap(({ driver_id, request_id }) => {
      const pickup = searches.get(request_id)?.pickup;
      return pickup ? [{ driverId: driver_id, pickup }] : [];
    }),
    track: null,
  };
}

export function MapPage() {
  useTitle("Map");
  const { live } = useFeed();
  const [chosen, setChosen] = useState<Chosen | null>(null);
  const [centre, setCentre] = useState<Place | null>(null);
  const [market, setMarket] = useState<{ id: string } | null>(null);
  const [box, setBox] = useState<string | null>(null);
  const markets = useLoad("markets", () => get<Markets>("markets"), MARKETS_MS);
  const areas = useMemo(() => (markets.data ? areasOf(markets.data) : []), [markets.data?.version]);
  // What is shown first depends on the markets.
  const known = markets.data !== null || markets.error !== null;
  const scene = useMemo(() => (live && known ? sceneOf(live, areas) : NO_SCENE), [live, known, areas]);
  // Where everything fits into an answer there is no need for a box, and the counts are those of the whole city.
  const cut = live !== null && (live.truncated.positions || live.truncated.searches || live.truncated.rides);
  const boxed = (live?.box ?? null) !== null;
  useEffect(() => liveFeed.ask({ limit: 1_000, box: cut || boxed ? box : null }), [cut, boxed, box]);
  const show = (chosen: Chosen, place: Place) => {
    setChosen(chosen);
    setCentre({ ...place });
  };
  return (
    <div class="live-map">
      <h1 class="sr-only">Map</h1>
      <MapCanvas scene={scene} chosen={chosen} centre={centre} market={market} choose={setChosen} moved={setBox} label="Map of drivers, searches and rides" />
      <aside aria-label="What the map shows">
        {live === null ? (
          <Loading />
        ) : (
          <>
            {live.unavailable.length > 0 && (
              <section>
                <Unavailable parts={live.unavailable} />
              </section>
            )}
            {chosen && <Details chosen={chosen} live={live} close={() => setChosen(null)} />}
            <Legend live={live} scene={scene} cut={cut} />
            {markets.data && areas.length > 0 && <MarketList areas={areas} markets={markets.data} show={(id) => setMarket({ id })} />}
            <Lists live={live} show={show} />
          </>
        )}
      </aside>
    </div>
  );
}

function Legend({ live, scene, cut }: { live: Live; scene: Scene; cut: boolean }) {
  const drivers = (state: DriverState) => scene.drivers.filter((driver) => driver.state === state).length;
  const dot = (token: string) => <circle cx="8" cy="8" r="5" fill={`var(--${token})`} />;
  const line = (token: string, dash: string) => (
    <path d="M1 8h14" stroke={`var(--${token})`} stroke-width="2" stroke-dasharray={dash} />
  );
  const ring = (
    <>
      <circle cx="8" cy="8" r="6" fill="none" stroke="var(--search)" stroke-width="2" />
      <circle cx="8" cy="8" r="2.5" fill="var(--search)" />
    </>
  );
  const rows = [
    { mark: dot("driver-free"), name: "Drivers, free", value: drivers("free") },
    { mark: dot("driver-ride"), name: "Drivers with a ride", value: drivers("ride") },
    { mark: dot("driver-stale"), name: "Off duty, or an old place", value: drivers("stale") },
    { mark: ring, name: "Searches", value: live.searches.length },
    { mark: line("driver-ride", ""), name: "Rides", value: live.rides.length },
  ];
  if (live.offers) {
    rows.splice(1, 0, { mark: dot("driver-offer"), name: "Drivers with an offer", value: drivers("offer") });
    rows.push({ mark: line("driver-offer", "4 3"), name: "Offers", value: live.offers.length });
  }
  return (
    <section>
      <h2>Now</h2>
      <ul class="legend">
        {rows.map(({ mark, name, value }) => (
          <li key={name}>
            <svg viewBox="0 0 16 16" aria-hidden="true">
              {mark}
            </svg>
            {name}
            <span class="num">{count(value)}</span>
          </li>
        ))}
      </ul>
      {cut && <p class="muted small">There are more: only the first 1,000 of each are sent. Move nearer to see all of a district.</p>}
    </section>
  );
}

function MarketList({ areas, markets, show }: { areas: MarketArea[]; markets: Markets; show: (id: string) => void }) {
  const currency = (id: string) => markets.features.find(({ properties }) => properties.market_id === id)?.properties.currency;
  return (
    <section aria-label="Markets">
      <h2>Markets</h2>
      <ul class="wait">
        {areas.map(({ id, name }) => (
          <li key={id}>
            <button type="button" data-row="" title={`Show ${name}`} onClick={() => show(id)}>
              <span>{name}</span>
              <span class="muted">{currency(id)}</span>
            </button>
          </li>
        ))}
      </ul>
      <p class="muted small">Version {markets.version.slice(0, 12)} of the file.</p>
    </section>
  );
}

function Details({ chosen, live, close }: { chosen: Chosen; live: Live; close: () => void }) {
  const head = (name: string) => (
    <div class="row">
      <h2 class="grow">{name}</h2>
      <button type="button" class="button plain" onClick={close}>
        Close
      </button>
    </div>
  );
  if (chosen.kind === "driver") {
    const driver = live.positions.find(({ driver_id }) => driver_id === chosen.id);
    if (!driver) return <Gone name="Driver" head={head} />;
    const { location } = driver;
    return (
      <section aria-label="Chosen driver" data-chosen={driver.driver_id}>
        {head("Driver")}
        <dl class="facts">
          <dt>Driver</dt>
          <dd>
            <Id id={driver.driver_id} href={to.person(driver.driver_id)} label="driver" />
          </dd>
          {driver.ride_id && (
            <>
              <dt>Ride</dt>
              <dd>
                <Id id={driver.ride_id} href={to.ride(driver.ride_id)} label="ride" />
              </dd>
            </>
          )}
          <dt>Place</dt>
          <dd class="mono" data-place="">
            {location.lat.toFixed(5)}, {location.lng.toFixed(5)}
          </dd>
          <dt>Speed</dt>
          <dd>{driver.speed_mps === null ? "unknown" : `${Math.round(driver.speed_mps * 3.6)} km/h`}</dd>
          <dt>Vehicle</dt>
          <dd>{driver.vehicle_type ?? "unknown"}</dd>
          <dt>Measured</dt>
          <dd>
            <Time at={driver.recorded_at} form="ago" />
          </dd>
          <dt>On duty</dt>
          <dd>{driver.on_duty ? "yes" : "no"}</dd>
        </dl>
      </section>
    );
  }
  if (chosen.kind === "search") {
    const search = live.searches.find(({ request_id }) => request_id === chosen.id);
    if (!search) return <Gone name="Search" head={head} />;
    const near = live.positions
      .filter(({ ride_id, on_duty }) => ride_id === null && on_duty)
      .map(({ location }) => distanceM(location, search.pickup))
      .sort((a, b) => a - b);
    return (
      <section aria-label="Chosen search">
        {head("Search")}
        <dl class="facts">
          {search.user_id && (
            <>
              <dt>Passenger</dt>
              <dd>
                <Id id={search.user_id} href={to.person(search.user_id)} label="passenger" />
              </dd>
            </>
          )}
          <dt>Began</dt>
          <dd>
            <Time at={search.began_at} form="ago" />
          </dd>
          <dt>Ends</dt>
          <dd>
            <Time at={search.expires_at} form="ago" />
          </dd>
          <dt>Vehicle</dt>
          <dd>{search.vehicle_type}</dd>
          <dt>Way</dt>
          <dd>{metres(distanceM(search.pickup, search.dropoff))} as the crow flies</dd>
          <dt>Nearest free</dt>
          <dd>{near[0] === undefined ? "nobody" : metres(near[0])}</dd>
        </dl>
      </section>
    );
  }
  const ride = live.rides.find(({ ride_id }) => ride_id === chosen.id);
  if (!ride) return <Gone name="Ride" head={head} />;
  return (
    <section aria-label="Chosen ride">
      {head("Ride")}
      <dl class="facts">
        <dt>Ride</dt>
        <dd>
          <Id id={ride.ride_id} href={to.ride(ride.ride_id)} label="ride" />
        </dd>
        <dt>Status</dt>
        <dd>
          <Status of={ride.status} />
        </dd>
        <dt>Began</dt>
        <dd>
          <Time at={ride.created_at} form="ago" />
        </dd>
        <dt>Driver</dt>
        <dd>
          <Id id={ride.driver_id} href={to.person(ride.driver_id)} label="driver" />
        </dd>
        <dt>Passenger</dt>
        <dd>
          <Id id={ride.passenger_id} href={to.person(ride.passenger_id)} label="passenger" />
        </dd>
      </dl>
    </section>
  );
}

function Gone({ name, head }: { name: string; head: (name: string) => preact.ComponentChildren }) {
  return (
    <section>
      {head(name)}
      <p class="muted">It is over, or not on this part of the map any more.</p>
    </section>
  );
}

/** The same as the map in words, for whoever cannot see it, and to find what waits longest. */
function Lists({ live, show }: { live: Live; show: (chosen: Chosen, place: Place) => void }) {
  const searches = live.searches.slice(0, LISTED_MAX);
  const rides = live.rides.slice(0, LISTED_MAX);
  const places = new Map(live.positions.map(({ driver_id, location }) => [driver_id, location]));
  return (
    <>
      <section>
        <h2>Longest searches</h2>
        {searches.length === 0 ? (
          <p class="muted">Nobody is searching.</p>
        ) : (
          <ul class="wait">
            {searches.map((search) => (
              <li key={search.request_id}>
                <button type="button" data-row="" onClick={() => show({ kind: "search", id: search.request_id }, search.pickup)}>
                  <span>
                    <span class="id" title={search.request_id}>
                      …{search.request_id.slice(-8)}
                    </span>{" "}
                    {search.vehicle_type}
                  </span>
                  <Time at={search.began_at} form="ago" />
                </button>
              </li>
            ))}
          </ul>
        )}
      </section>
      <section>
        <h2>Newest rides</h2>
        {rides.length === 0 ? (
          <Empty title="No ride is under way" />
        ) : (
          <ul class="wait">
            {rides.map((ride) => (
              <li key={ride.ride_id}>
                <button
                  type="button"
                  data-row=""
                  onClick={() => show({ kind: "driver", id: ride.driver_id }, places.get(ride.driver_id) ?? ride.pickup)}
                >
                  <span class="row">
                    <span class="id" title={ride.ride_id}>
                      …{ride.ride_id.slice(-8)}
                    </span>
                    <Status of={ride.status} />
                  </span>
                  <Time at={ride.created_at} form="ago" />
                </button>
              </li>
            ))}
          </ul>
        )}
      </section>
    </>
  );
}
