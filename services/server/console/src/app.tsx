/** The frame of the console: who is signed in, navigation, search, keys, and the page of the address. */

import { useEffect, useRef, useState } from "preact/hooks";

import { ApiError, get, whenSignedOut } from "./api/client";
import { liveFeed } from "./api/live";
import { storedToken, storeToken, takeFragment } from "./api/session";
import type { Me } from "./api/types";
import { ActsPage } from "./pages/acts";
import { DeadLetterPage, DeadLettersPage } from "./pages/dead-letters";
import { DriversPage } from "./pages/drivers";
import { MapPage } from "./pages/map";
import { OverviewPage } from "./pages/overview";
import { PeoplePage, PersonPage } from "./pages/people";
import { PodsPage } from "./pages/pods";
import { RidePage } from "./pages/ride";
import { RidesPage } from "./pages/rides";
import { RunbookPage } from "./pages/runbook";
import { SignIn } from "./pages/sign-in";
import { StreamsPage } from "./pages/streams";
import { issues } from "./pure/health";
import { BASE, navigate, parseRoute, to } from "./router";
import type { Route } from "./router";
import { Finder } from "./ui/finder";
import { Operator, asApiError, useFeed, useLoad, useNow, useTitle } from "./ui/hooks";
import { Icon, Logo } from "./ui/icons";
import type { IconName } from "./ui/icons";
import { GO_KEYS, KeysOverlay, useKeys } from "./ui/keys";
import { Boundary, Empty, Failed, Loading, Time } from "./ui/parts";
import { currentTheme, nextTheme } from "./ui/theme";
import { Toasts } from "./ui/toasts";
import { coarse } from "./pure/format";

type Item = [IconName, string];
const CITY: Item[] = [
  ["overview", "Overview"],
  ["map", "Map"],
  ["rides", "Rides"],
  ["drivers", "Drivers"],
  ["people", "People"],
];
const PLATFORM: Item[] = [
  ["streams", "Streams"],
  ["dead-letters", "Dead letters"],
  ["pods", "Pods"],
  ["acts", "Acts"],
  ["runbook", "Runbook"],
];

function Page({ route }: { route: Route }) {
  switch (route.page) {
    case "overview":
      return <OverviewPage />;
    case "map":
      return <MapPage />;
    case "rides":
      return <RidesPage />;
    case "ride":
      return <RidePage key={route.id} id={route.id} />;
    case "drivers":
      return <DriversPage />;
    case "people":
      return <PeoplePage />;
    case "person":
      return <PersonPage key={route.id} id={route.id} />;
    case "streams":
      return <StreamsPage />;
    case "dead-letters":
      return <DeadLettersPage />;
    case "dead-letter":
      return <DeadLetterPage key={route.id} id={route.id} />;
    case "pods":
      return <PodsPage />;
    case "acts":
      return <ActsPage />;
    case "runbook":
      return <RunbookPage />;
    case "missing":
      return <Missing />;
  }
}

function Missing() {
  useTitle("Not found");
  return (
    <Empty title="The console has no such page">
      <a href={BASE}>To the overview</a>
    </Empty>
  );
}

/** The part of the navigation to which a page belongs. */
function sectionOf(route: Route): string {
  if (route.page === "ride") return "rides";
  if (route.page === "person") return "people";
  return route.page === "dead-letter" ? "dead-letters" : route.page;
}

export function App() {
  const [me, setMe] = useState<Me | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const [token, setToken] = useState(storedToken);
  const [refused, setRefused] = useState(false);
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    whenSignedOut(() => {
      setRefused(true);
      setToken(null);
    });
    // The printed link, opened in a tab that shows the console already, changes the fragment alone.
    const fragment = () => {
      takeFragment();
      setToken(storedToken());
    };
    addEventListener("hashchange", fragment);
    return () => removeEventListener("hashchange", fragment);
  }, []);
  useEffect(() => {
    setMe(null);
    setError(null);
    if (token === null) return;
    let current = true;
    get<Me>("me").then(
      (me) => current && setMe(me),
      (error: unknown) => current && setError(asApiError(error)),
    );
    return () => void (current = false);
  }, [token, turn]);
  useEffect(() => {
    if (!me) return;
    liveFeed.start();
    return () => liveFeed.stop();
  }, [me]);
  const signIn = (token: string) => {
    storeToken(token);
    setRefused(false);
    setToken(token);
  };
  const signOut = () => {
    storeToken(null);
    setRefused(false);
    setToken(null);
  };
  if (token === null) return <SignIn signIn={signIn} refused={refused} />;
  if (error) return <Failed error={error} retry={() => setTurn(turn + 1)} />;
  if (!me) return <Loading />;
  return (
    <Operator.Provider value={me}>
      <Frame me={me} signOut={signOut} />
    </Operator.Provider>
  );
}

function Frame({ me, signOut }: { me: Me; signOut: () => void }) {
  const [route, setRoute] = useState(() => parseRoute(location.pathname));
  const [menu, setMenu] = useState(false);
  const [keys, setKeys] = useState(false);
  const main = useRef<HTMLElement>(null);
  const finder = useRef<HTMLInputElement>(null);
  useEffect(() => {
    let path = location.pathname;
    const moved = () => {
      setRoute(parseRoute(location.pathname));
      setMenu(false);
      if (path === location.pathname) return;
      path = location.pathname;
      scrollTo(0, 0);
      main.current?.focus({ preventScroll: true });
    };
    addEventListener("popstate", moved);
    addEventListener("rideshare:moved", moved);
    return () => {
      removeEventListener("popstate", moved);
      removeEventListener("rideshare:moved", moved);
    };
  }, []);
  useKeys({
    find: () => finder.current?.focus(),
    help: () => setKeys(true),
    go: (page) => navigate(to.page(page)),
  });
  const section = sectionOf(route);
  useEffect(() => {
    if (section !== "map" && section !== "overview") liveFeed.ask({ limit: 1, box: null });
    else if (section === "overview") liveFeed.ask({ limit: 1_000, box: null });
  }, [section]);
  return (
    <div class="frame">
      <a class="skip" href="#page">
        Skip to the page
      </a>
      <nav class={menu ? "nav open" : "nav"} id="nav" aria-label="Console">
        <a class="brand" href={BASE}>
          <Logo />
          rideshare
        </a>
        {CITY.map((item) => (
          <NavItem key={item[0]} item={item} section={section} />
        ))}
        <div class="group">Platform</div>
        {PLATFORM.map((item) => (
          <NavItem key={item[0]} item={item} section={section} />
        ))}
        <div class="foot">
          <div class="row">
            <Theme />
            <button type="button" class="button plain icon" aria-label="Keys" title="Keys (?)" onClick={() => setKeys(true)}>
              <Icon name="help" />
            </button>
            <button type="button" class="button plain icon" aria-label="Sign out" title="Sign out" onClick={signOut}>
              <Icon name="out" />
            </button>
          </div>
          <span>
            {me.name}, {me.role}
          </span>
        </div>
      </nav>
      <div class="bar">
        <button
          type="button"
          class="button plain icon menu"
          aria-label="Menu"
          aria-expanded={menu}
          aria-controls="nav"
          onClick={() => setMenu(!menu)}
        >
          <Icon name="menu" />
        </button>
        <Finder input={finder} />
        <LinkState />
      </div>
      <main
        id="page"
        ref={main}
        class={route.page === "map" ? "page full" : "page"}
        tabIndex={-1}
        onClick={() => setMenu(false)}
        style={{ outline: "none" }}
      >
        <Boundary key={location.pathname}>
          <Page route={route} />
        </Boundary>
      </main>
      {keys && <KeysOverlay close={() => setKeys(false)} />}
      <Toasts />
    </div>
  );
}

function NavItem({ item: [page, name], section }: { item: Item; section: string }) {
  return (
    <a
      class="item"
      href={to.page(page)}
      title={GO_KEYS[page] ? `g ${GO_KEYS[page]}` : undefined}
      {...(section === page ? { "aria-current": "page" as const } : {})}
    >
      <Icon name={page} />
      {name}
      {page === "pods" && <PodsCount />}
      {page === "dead-letters" && <LettersCount />}
    </a>
  );
}

function PodsCount() {
  const { pods } = useFeed();
  const wrong = issues({ pods, streams: null, consumers: null, deadLetters: null, outboxOldest: {}, services: [] });
  return wrong.length > 0 ? (
    <span class="count" title={`${wrong.length} to look at`}>
      {wrong.length}
    </span>
  ) : null;
}

function LettersCount() {
  const { data, reload } = useLoad("total", () => get<{ total: number }>("dead-letters", { limit: 0 }), 15_000);
  useEffect(() => {
    addEventListener("rideshare:acted", reload);
    return () => removeEventListener("rideshare:acted", reload);
  }, [reload]);
  return data && data.total > 0 ? <span class="count warn">{data.total > 999 ? "999+" : data.total}</span> : null;
}

function Theme() {
  const [theme, setTheme] = useState(currentTheme);
  return (
    <button
      type="button"
      class="button plain icon"
      aria-label={`Colours: ${theme}`}
      title={`Colours: ${theme}`}
      onClick={() => setTheme(nextTheme())}
    >
      <Icon name="theme" />
    </button>
  );
}

/** Whether what moves is live, or since when it is old. */
function LinkState() {
  const feed = useFeed();
  const now = useNow(1_000);
  if (feed.lostAt !== null) {
    return (
      <span class="link-state lost" role="status" title={feed.fault ?? ""}>
        <span class="dot bad" />
        <span class="text">
          Stale since <Time at={new Date(feed.lostAt).toISOString()} form="clock" /> ({coarse((now.getTime() - feed.lostAt) / 1000)})
        </span>
      </span>
    );
  }
  const open = feed.pods !== null || feed.live !== null;
  return (
    <span class="link-state" role="status">
      <span class={open ? "dot good" : "dot warn"} />
      <span class="text">{open ? "Live" : "Connecting"}</span>
      <span class="sr-only">{open ? "Live" : "Connecting"}</span>
    </span>
  );
}
