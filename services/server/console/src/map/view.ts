/**
 * The map: a canvas with a base of its own (markets, grid), and marks that are drawn over it. It draws only when something changed or
 * moves. The base is drawn again only when the camera moves, and drivers are copies of a few small pictures (`sprites.ts`), so that
 * thousands of them cost a few milliseconds a frame.
 */

import { fit, gridStep, pan, project, scaleBar, toScreen, toWorld, unproject, zoom } from "../pure/mercator";
import type { Camera, Place, Point, Size } from "../pure/mercator";
import { Sprites } from "./sprites";

export type DriverState = "free" | "offer" | "ride" | "stale";

export interface DriverMark {
  id: string;
  place: Place;
  headingDeg: number | null;
  state: DriverState;
}

export interface SearchMark {
  id: string;
  pickup: Place;
  dropoff: Place;
}

export interface RideMark {
  id: string;
  driverId: string;
  pickup: Place;
  dropoff: Place;
  /** Whether the passenger is in the vehicle. */
  aboard: boolean;
}

export interface OfferMark {
  driverId: string;
  pickup: Place;
}

export interface TrackLine {
  points: Place[];
  /** What was measured elsewhere, and does not count. */
  strays: Place[];
  pickup: Place;
  dropoff: Place;
}

/** Where the platform drives, by rings of corners; the first is the outer one. */
export interface MarketArea {
  id: string;
  name: string;
  polygons: Place[][][];
}

export interface Scene {
  markets: MarketArea[];
  drivers: DriverMark[];
  searches: SearchMark[];
  rides: RideMark[];
  offers: OfferMark[];
  track: TrackLine | null;
}

export const NO_SCENE: Scene = { markets: [], drivers: [], searches: [], rides: [], offers: [], track: null };

export interface Chosen {
  kind: "driver" | "search" | "ride";
  id: string;
}

const COLOURS = [
  "map-ground",
  "map-line",
  "map-market",
  "line-strong",
  "muted",
  "text",
  "surface",
  "accent",
  "driver-free",
  "driver-offer",
  "driver-ride",
  "driver-stale",
  "search",
  "good",
  "bad",
] as const;
type Colour = (typeof COLOURS)[number];

/** A picture of the fleet comes every 2 s; a driver glides for as long. */
const GLIDE_MS = 2_000;
/** A driver who is further away than this in one step is put there at once, as a part of the world's width. */
const JUMP = 5_000 / 40_075_016;
const TRAIL_POINTS = 14;
/** With more drivers in sight their trails say nothing, and with more rides the dashes of what is to come. */
const TRAILS_MAX = 300;
/** More drivers in sight than this are squares: a disc each takes longer than a frame has. */
const DISCS_MAX = 1_000;
const SQUARE_PX = 5;
const HIT_PX = 16;
const KEY_PAN_PX = 80;
/** Pixels of the world's width at which a city is about as large as the screen; at less, cities are dots. */
const CITY_SCALE = 2 ** 15;

interface Glide {
  from: Point;
  to: Point;
  began: number;
  trail: Point[];
  /** Where it is on the screen, as of the last frame. */
  at: Point;
}

/** The order in which drivers are drawn: the last is on top. */
const STATES: readonly DriverState[] = ["stale", "free", "offer", "ride"];

export class MapView {
  private readonly context: CanvasRenderingContext2D;
  private readonly resize: ResizeObserver;
  private readonly theme: MediaQueryList;
  private readonly still: boolean;
  private colours: Record<Colour, string>;
  private size: Size = { width: 0, height: 0 };
  private camera: Camera = { x: 0.5, y: 0.4, scale: 1_024 };
  private scene: Scene = NO_SCENE;
  private readonly glides = new Map<string, Glide>();
  /** The drivers of the scene in the order in which they are drawn. */
  private marks: { driver: DriverMark; glide: Glide }[] = [];
  /** The rides and searches of the scene, in world coordinates. */
  private rides: { ride: RideMark; pickup: Point; dropoff: Point }[] = [];
  private searches: Point[] = [];
  private readonly base = document.createElement("canvas");
  /** What the base was drawn for; null: it is to be drawn. */
  private baseOf: { camera: Camera; markets: MarketArea[] } | null = null;
  private readonly sprites = new Sprites();
  private ratio = 1;
  private frame = 0;
  private fitted = false;
  private moved = false;
  private pointers = new Map<number, Point>();
  private pressed: Point | null = null;
  private chosen: Chosen | null = null;

  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly on: { choose: (chosen: Chosen | null) => void; move: (box: string) => void },
  ) {
    const context = canvas.getContext("2d", { alpha: false });
    if (!context) throw new Error("this browser has no canvas");
    this.context = context;
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.theme = matchMedia("(prefers-color-scheme: dark)");
    this.colours = this.readColours();
    this.theme.addEventListener("change", this.themeChanged);
    addEventListener("rideshare:theme", this.themeChanged);
    this.resize = new ResizeObserver(() => this.measure());
    this.resize.observe(canvas);
    canvas.addEventListener("pointerdown", this.pointerDown);
    canvas.addEventListener("pointermove", this.pointerMove);
    canvas.addEventListener("pointerup", this.pointerUp);
    canvas.addEventListener("pointercancel", this.pointerUp);
    canvas.addEventListener("wheel", this.wheel, { passive: false });
    canvas.addEventListener("keydown", this.keyDown);
    this.measure();
  }

  close(): void {
    cancelAnimationFrame(this.frame);
    this.resize.disconnect();
    this.theme.removeEventListener("change", this.themeChanged);
    removeEventListener("rideshare:theme", this.themeChanged);
  }

  show(scene: Scene): void {
    const now = performance.now();
    const present = new Set<string>();
    let moving = 0;
    for (const driver of scene.drivers) {
      present.add(driver.id);
      const to = project(driver.place);
      const glide = this.glides.get(driver.id);
      if (!glide) this.glides.set(driver.id, { from: to, to, began: now, trail: [], at: { x: 0, y: 0 } });
      else if (glide.to.x !== to.x || glide.to.y !== to.y) {
        const from = this.glided(glide, now);
        const jumps = this.still || Math.hypot(to.x - from.x, to.y - from.y) > JUMP;
        glide.trail.push(glide.to);
        if (glide.trail.length > TRAIL_POINTS) glide.trail.shift();
        if (jumps) glide.trail.length = 0;
        glide.from = jumps ? to : from;
        glide.to = to;
        glide.began = now;
        moving += 1;
      }
    }
    for (const id of this.glides.keys()) if (!present.has(id)) this.glides.delete(id);
    const mark = (driver: DriverMark) => ({ driver, glide: this.glides.get(driver.id)! });
    this.marks = STATES.flatMap((state) => scene.drivers.filter((driver) => driver.state === state)).map(mark);
    this.rides = scene.rides.map((ride) => ({ ride, pickup: project(ride.pickup), dropoff: project(ride.dropoff) }));
    this.searches = scene.searches.map(({ pickup }) => project(pickup));
    this.scene = scene;
    // For tests.
    Object.assign(this.canvas.dataset, { drivers: scene.drivers.length, moving });
    if (!this.fitted && this.size.width > 0) this.fitFirst();
    this.wake();
  }

  choose(chosen: Chosen | null): void {
    this.chosen = chosen;
    this.wake();
  }

  zoomBy(factor: number): void {
    this.setCamera(zoom(this.camera, factor, { x: this.size.width / 2, y: this.size.height / 2 }, this.size));
  }

  /** Everything that there is, or a single place. */
  fitAll(): void {
    this.fit(placesOf(this.scene));
  }

  /** The area of a market. */
  fitMarket(id: string): void {
    const market = this.scene.markets.find((market) => market.id === id);
    if (market) this.setCamera(fit(market.polygons.flat(2), this.size) ?? this.camera);
  }

  /** Of cities that are far from each other, the one with the most drivers: all at once would be two dots and an ocean. */
  private fitFirst(): void {
    const { markets, drivers, track } = this.scene;
    const camera = fit(placesOf(this.scene), this.size);
    if (track || !camera || markets.length < 2 || camera.scale > CITY_SCALE) return this.fitAll();
    const inside = markets.map((market) => {
      const [low, high] = bounds(market.polygons.flat(2));
      return drivers.map(({ place }) => place).filter((place) => isBetween(place, low, high));
    });
    this.fit(inside.reduce((most, places) => (places.length > most.length ? places : most), []));
  }

  private fit(places: Place[]): void {
    const camera = fit(places, this.size);
    if (!camera) return;
    this.fitted = true;
    this.camera = camera;
    this.wake();
  }

  centre(place: Place): void {
    const { x, y } = project(place);
    this.setCamera({ x, y, scale: Math.max(this.camera.scale, 2 ** 22) });
  }

  private setCamera(camera: Camera): void {
    this.camera = camera;
    this.fitted = true;
    this.moved = true;
    this.wake();
  }

  private measure(): void {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (width === 0 || height === 0) return;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    this.size = { width, height };
    this.ratio = ratio;
    for (const canvas of [this.canvas, this.base]) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.baseOf = null;
    this.sprites.clear();
    if (!this.moved) this.fitFirst();
    // Setting the size cleared the canvas: drawing later would flicker.
    this.draw(performance.now());
  }

  private readColours(): Record<Colour, string> {
    const probe = document.createElement("i");
    this.canvas.parentElement?.append(probe);
    const read = COLOURS.map((name) => {
      probe.style.color = `var(--${name})`;
      return [name, getComputedStyle(probe).color] as const;
    });
    probe.remove();
    return Object.fromEntries(read) as Record<Colour, string>;
  }

  private readonly themeChanged = () => {
    this.colours = this.readColours();
    this.baseOf = null;
    this.sprites.clear();
    this.wake();
  };

  private wake(): void {
    if (this.frame === 0) {
      this.frame = requestAnimationFrame((now) => {
        this.frame = 0;
        if (this.draw(now)) this.wake();
        if (this.moved) this.on.move(this.box());
      });
    }
  }

  /** What is seen, with a fifth more on each side: south, west, north, east. */
  private box(): string {
    const { width, height } = this.size;
    const [dx, dy] = [width / 5, height / 5];
    const northWest = unproject(toWorld({ x: -dx, y: -dy }, this.camera, this.size));
    const southEast = unproject(toWorld({ x: width + dx, y: height + dy }, this.camera, this.size));
    const lng = (value: number) => Math.max(-180, Math.min(180, value)).toFixed(3);
    return [southEast.lat.toFixed(3), lng(northWest.lng), northWest.lat.toFixed(3), lng(southEast.lng)].join(",");
  }

  // --- drawing ---

  /** How far it has come, 0 to 1. */
  private partOf(glide: Glide, now: number): number {
    return this.still ? 1 : Math.max(0, Math.min(1, (now - glide.began) / GLIDE_MS));
  }

  private glided(glide: Glide, now: number): Point {
    const part = this.partOf(glide, now);
    return { x: glide.from.x + (glide.to.x - glide.from.x) * part, y: glide.from.y + (glide.to.y - glide.from.y) * part };
  }

  private at(place: Place): Point {
    return toScreen(project(place), this.camera, this.size);
  }

  /** True if somebody is still gliding. */
  private draw(now: number): boolean {
    const { context, size, camera } = this;
    this.drawBase();
    context.globalAlpha = 1;
    context.drawImage(this.base, 0, 0, size.width, size.height);
    let moving = false;
    const [left, top] = [size.width / 2 - camera.x * camera.scale, size.height / 2 - camera.y * camera.scale];
    for (const { glide } of this.marks) {
      const { from, to, at } = glide;
      const part = this.partOf(glide, now);
      moving ||= part < 1 && (from.x !== to.x || from.y !== to.y);
      at.x = (from.x + (to.x - from.x) * part) * camera.scale + left;
      at.y = (from.y + (to.y - from.y) * part) * camera.scale + top;
    }
    this.drawTrails();
    this.drawTrack();
    this.drawRides();
    this.drawOffers();
    this.drawSearches();
    this.drawDrivers();
    this.drawChosen();
    this.drawScale();
    return moving;
  }

  /** Draws what stays where it is while the camera does. */
  private drawBase(): void {
    const { camera, baseOf, colours, size, ratio } = this;
    const { markets } = this.scene;
    if (baseOf?.camera === camera && baseOf.markets === markets) return;
    this.baseOf = { camera, markets };
    const context = this.base.getContext("2d", { alpha: false });
    if (!context) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = colours["map-ground"];
    context.fillRect(0, 0, size.width, size.height);
    this.fillMarkets(context);
    this.drawGrid(context);
    this.nameMarkets(context);
  }

  private marketPath(context: CanvasRenderingContext2D, { polygons }: MarketArea): void {
    context.beginPath();
    for (const ring of polygons.flat()) {
      ring.forEach((place, n) => {
        const { x, y } = this.at(place);
        if (n === 0) context.moveTo(x, y);
        else context.lineTo(x, y);
      });
      context.closePath();
    }
  }

  private fillMarkets(context: CanvasRenderingContext2D): void {
    context.fillStyle = this.colours["map-market"];
    for (const market of this.scene.markets) {
      this.marketPath(context, market);
      context.fill("evenodd");
    }
  }

  private nameMarkets(context: CanvasRenderingContext2D): void {
    const { colours } = this;
    context.lineJoin = "round";
    for (const market of this.scene.markets) {
      this.marketPath(context, market);
      context.strokeStyle = colours["line-strong"];
      context.lineWidth = 1.5;
      context.stroke();
      const [low, high] = bounds(market.polygons.flat(2)).map((place) => this.at(place)) as [Point, Point];
      context.font = "600 12px system-ui, sans-serif";
      context.fillStyle = colours.muted;
      context.textAlign = "center";
      // A name wider than its market says nothing of where it is: unless the market is but a dot.
      context.fillText(market.name, (low.x + high.x) / 2, Math.max(high.y, 41) - 7);
      context.textAlign = "start";
    }
  }

  private drawGrid(context: CanvasRenderingContext2D): void {
    const { size, colours, camera } = this;
    const step = gridStep(camera, 110);
    const north = unproject(toWorld({ x: 0, y: 0 }, camera, size));
    const south = unproject(toWorld({ x: size.width, y: size.height }, camera, size));
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    context.strokeStyle = colours["map-line"];
    context.lineWidth = 1;
    context.fillStyle = colours.muted;
    context.font = "10px system-ui, sans-serif";
    context.beginPath();
    const labels: [string, number, number][] = [];
    for (let lng = Math.ceil(north.lng / step) * step; lng <= south.lng; lng += step) {
      const x = Math.round(this.at({ lat: 0, lng }).x) + 0.5;
      context.moveTo(x, 0);
      context.lineTo(x, size.height);
      if (Math.abs(lng) <= 180) labels.push([`${Math.abs(lng).toFixed(digits)}° ${lng < 0 ? "W" : "E"}`, x + 4, 12]);
    }
    for (let lat = Math.ceil(south.lat / step) * step; lat <= north.lat; lat += step) {
      const y = Math.round(this.at({ lat, lng: 0 }).y) + 0.5;
      context.moveTo(0, y);
      context.lineTo(size.width, y);
      if (y > 26) labels.push([`${Math.abs(lat).toFixed(digits)}° ${lat < 0 ? "S" : "N"}`, 4, y - 4]);
    }
    context.stroke();
    context.globalAlpha = 0.75;
    for (const [text, x, y] of labels) context.fillText(text, x, y);
    context.globalAlpha = 1;
  }

  private drawScale(): void {
    const { context, size, colours } = this;
    const { metres, pixels } = scaleBar(this.camera, 120);
    const [x, y] = [14, size.height - 16];
    context.fillStyle = colours["map-ground"];
    context.fillRect(x - 6, y - 20, pixels + 12, 28);
    context.strokeStyle = colours.text;
    context.fillStyle = colours.text;
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(x, y - 5);
    context.lineTo(x, y);
    context.lineTo(x + pixels, y);
    context.lineTo(x + pixels, y - 5);
    context.stroke();
    context.font = "11px system-ui, sans-serif";
    context.fillText(metres >= 1000 ? `${metres / 1000} km` : `${metres} m`, x + 6, y - 6);
  }

  private isSeen({ x, y }: Point): boolean {
    return x > -15 && y > -15 && x < this.size.width + 15 && y < this.size.height + 15;
  }

  private drawTrails(): void {
    const { context, colours, camera, size } = this;
    const seen = this.marks.filter(({ glide }) => glide.trail.length > 0 && this.isSeen(glide.at));
    if (seen.length > TRAILS_MAX) return;
    context.strokeStyle = colours["driver-stale"];
    context.globalAlpha = 0.3;
    context.lineWidth = 2;
    context.lineJoin = "round";
    for (const { glide } of seen) {
      context.beginPath();
      [...glide.trail, glide.from].forEach((point, n) => {
        const { x, y } = toScreen(point, camera, size);
        if (n === 0) context.moveTo(x, y);
        else context.lineTo(x, y);
      });
      context.lineTo(glide.at.x, glide.at.y);
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  private drawTrack(): void {
    const { context, colours } = this;
    const { track } = this.scene;
    if (!track) return;
    context.fillStyle = colours["driver-stale"];
    for (const stray of track.strays) {
      const { x, y } = this.at(stray);
      context.fillRect(x - 2, y - 2, 4, 4);
    }
    const points = track.points.map((point) => this.at(point));
    const line = (width: number, colour: string) => {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.lineJoin = "round";
      context.lineCap = "round";
      context.beginPath();
      points.forEach(({ x, y }, n) => (n === 0 ? context.moveTo(x, y) : context.lineTo(x, y)));
      context.stroke();
    };
    if (points.length > 1) {
      line(7, colours.surface);
      line(4, colours["driver-ride"]);
    } else {
      this.dashed([[this.at(track.pickup), this.at(track.dropoff)]], colours.muted, [4, 6]);
    }
    this.pin(this.at(track.pickup), colours["driver-free"], "A");
    this.pin(this.at(track.dropoff), colours.text, "B");
  }

  private pin({ x, y }: Point, colour: string, letter: string): void {
    const { context, colours } = this;
    context.beginPath();
    context.arc(x, y, 11, 0, 7);
    context.fillStyle = colour;
    context.fill();
    context.lineWidth = 2.5;
    context.strokeStyle = colours.surface;
    context.stroke();
    context.fillStyle = colours.surface;
    context.font = "600 12px system-ui, sans-serif";
    context.textAlign = "center";
    context.fillText(letter, x, y + 4.3);
    context.textAlign = "start";
  }

  private dashed(lines: [Point, Point][], colour: string, dash: number[]): void {
    const { context } = this;
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.setLineDash(dash);
    // A stroke for each: as one path of many lines that cross, it would take a hundred times as long.
    for (const [from, to] of lines) {
      context.beginPath();
      context.moveTo(from.x, from.y);
      context.lineTo(to.x, to.y);
      context.stroke();
    }
    context.setLineDash([]);
  }

  /** From the driver to where the ride goes next, and from there on. */
  private drawRides(): void {
    const { context, colours } = this;
    const next: [Point, Point][] = [];
    const later: [Point, Point][] = [];
    context.fillStyle = colours["driver-ride"];
    context.globalAlpha = 0.75;
    for (const { ride, ...places } of this.rides) {
      const pickup = toScreen(places.pickup, this.camera, this.size);
      const dropoff = toScreen(places.dropoff, this.camera, this.size);
      const driver = this.glides.get(ride.driverId)?.at;
      if (driver) next.push([driver, ride.aboard ? dropoff : pickup]);
      if (!ride.aboard) {
        later.push([pickup, dropoff]);
        context.fillRect(pickup.x - 3.5, pickup.y - 3.5, 7, 7);
      }
      if (!this.isSeen(dropoff)) continue;
      context.beginPath();
      context.arc(dropoff.x, dropoff.y, 3, 0, 7);
      context.fill();
    }
    context.globalAlpha = 0.38;
    this.dashed(next, colours["driver-ride"], []);
    context.globalAlpha = 0.3;
    if (later.length <= TRAILS_MAX) this.dashed(later, colours["driver-ride"], [2, 5]);
    context.globalAlpha = 1;
  }

  private drawOffers(): void {
    const lines: [Point, Point][] = [];
    for (const offer of this.scene.offers) {
      const driver = this.glides.get(offer.driverId)?.at;
      if (driver) lines.push([driver, this.at(offer.pickup)]);
    }
    this.dashed(lines, this.colours["driver-offer"], [6, 4]);
  }

  private drawSearches(): void {
    const { context, colours } = this;
    context.strokeStyle = colours.search;
    context.fillStyle = colours.search;
    context.lineWidth = 2;
    context.beginPath();
    for (const pickup of this.searches) {
      const { x, y } = toScreen(pickup, this.camera, this.size);
      context.moveTo(x + 8, y);
      context.arc(x, y, 8, 0, 7);
      context.moveTo(x + 3, y);
      context.arc(x, y, 3, 0, 7);
    }
    context.stroke();
    context.globalAlpha = 0.18;
    context.fill();
    context.globalAlpha = 1;
  }

  private drawDrivers(): void {
    const { context, colours } = this;
    const near = this.camera.scale > 2 ** 20;
    const seen = this.marks.filter(({ glide }) => this.isSeen(glide.at));
    if (seen.length > DISCS_MAX) {
      for (const { driver, glide } of seen) {
        context.fillStyle = colours[`driver-${driver.state}`];
        context.fillRect(Math.round(glide.at.x - SQUARE_PX / 2), Math.round(glide.at.y - SQUARE_PX / 2), SQUARE_PX, SQUARE_PX);
      }
      return;
    }
    for (const { driver, glide } of seen) {
      const sprite = this.sprites.of(colours[`driver-${driver.state}`], colours.surface, near, near ? driver.headingDeg : null, this.ratio);
      context.drawImage(sprite.image, glide.at.x - sprite.size / 2, glide.at.y - sprite.size / 2, sprite.size, sprite.size);
    }
  }

  private drawChosen(): void {
    const place = this.chosenPlace();
    if (!place) return;
    const { context, colours } = this;
    context.strokeStyle = colours.text;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(place.x, place.y, 14, 0, 7);
    context.stroke();
  }

  private chosenPlace(): Point | undefined {
    const { chosen } = this;
    if (chosen?.kind === "driver") return this.glides.get(chosen.id)?.at;
    if (chosen?.kind === "search") {
      const search = this.scene.searches.find(({ id }) => id === chosen.id);
      return search && this.at(search.pickup);
    }
    const ride = this.scene.rides.find(({ id }) => id === chosen?.id);
    return ride && (this.glides.get(ride.driverId)?.at ?? this.at(ride.pickup));
  }

  // --- input ---

  private local(event: PointerEvent | WheelEvent): Point {
    const { left, top } = this.canvas.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  }

  private readonly pointerDown = (event: PointerEvent) => {
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.local(event);
    this.pressed = this.pointers.size === 0 ? at : null;
    this.pointers.set(event.pointerId, at);
  };

  private readonly pointerMove = (event: PointerEvent) => {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const at = this.local(event);
    if (this.pressed && Math.hypot(at.x - this.pressed.x, at.y - this.pressed.y) > 5) this.pressed = null;
    if (this.pressed) return;
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, at);
    if (!other) return this.setCamera(pan(this.camera, at.x - before.x, at.y - before.y));
    const spread = (point: Point) => Math.max(1, Math.hypot(point.x - other.x, point.y - other.y));
    const middle = { x: (at.x + other.x) / 2, y: (at.y + other.y) / 2 };
    const moved = pan(this.camera, (at.x - before.x) / 2, (at.y - before.y) / 2);
    this.setCamera(zoom(moved, spread(at) / spread(before), middle, this.size));
  };

  private readonly pointerUp = (event: PointerEvent) => {
    this.pointers.delete(event.pointerId);
    if (this.pressed && event.type === "pointerup") this.on.choose(this.hit(this.pressed));
    this.pressed = null;
  };

  private readonly wheel = (event: WheelEvent) => {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 30 : 1);
    this.setCamera(zoom(this.camera, 2 ** (-Math.max(-300, Math.min(300, pixels)) / 240), this.local(event), this.size));
  };

  private readonly keyDown = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = KEY_PAN_PX;
    const pans: Record<string, [number, number]> = {
      ArrowLeft: [step, 0],
      ArrowRight: [-step, 0],
      ArrowUp: [0, step],
      ArrowDown: [0, -step],
    };
    const by = pans[event.key];
    if (by) this.setCamera(pan(this.camera, ...by));
    else if (event.key === "+" || event.key === "=") this.zoomBy(1.6);
    else if (event.key === "-") this.zoomBy(1 / 1.6);
    else if (event.key === "0") this.fitAll();
    else if (event.key === "Escape") this.on.choose(null);
    else return;
    event.preventDefault();
  };

  /** The nearest mark; a driver before a search, a search before a ride's end. */
  private hit(at: Point): Chosen | null {
    let best: Chosen | null = null;
    let least = HIT_PX;
    const offer = (chosen: Chosen, { x, y }: Point, handicap: number) => {
      const distance = Math.hypot(x - at.x, y - at.y) + handicap;
      if (distance < least) [best, least] = [chosen, distance];
    };
    const now = performance.now();
    for (const driver of this.scene.drivers) {
      const glide = this.glides.get(driver.id);
      if (glide) offer({ kind: "driver", id: driver.id }, toScreen(this.glided(glide, now), this.camera, this.size), 0);
    }
    for (const search of this.scene.searches) offer({ kind: "search", id: search.id }, this.at(search.pickup), 2);
    for (const ride of this.scene.rides) {
      offer({ kind: "ride", id: ride.id }, this.at(ride.dropoff), 4);
      if (!ride.aboard) offer({ kind: "ride", id: ride.id }, this.at(ride.pickup), 4);
    }
    return best;
  }
}

function placesOf({ drivers, searches, rides, track }: Scene): Place[] {
  return [
    ...drivers.map(({ place }) => place),
    ...searches.map(({ pickup }) => pickup),
    ...rides.flatMap(({ pickup, dropoff }) => [pickup, dropoff]),
    ...(track ? [...track.points, track.pickup, track.dropoff] : []),
  ];
}

/** The south-western and the north-eastern corner. */
function bounds(places: Place[]): [Place, Place] {
  const [low, high] = [{ lat: 90, lng: 180 }, { lat: -90, lng: -180 }];
  for (const { lat, lng } of places) {
    low.lat = Math.min(low.lat, lat);
    low.lng = Math.min(low.lng, lng);
    high.lat = Math.max(high.lat, lat);
    high.lng = Math.max(high.lng, lng);
  }
  return [low, high];
}

function isBetween({ lat, lng }: Place, low: Place, high: Place): boolean {
  return lat >= low.lat && lat <= high.lat && lng >= low.lng && lng <= high.lng;
}
