/**
 * The map: a canvas with a base of its own (grid, scale), and marks that are drawn over it. It draws only when something changed or
 * moves, all marks of a colour in one path, so that thousands of drivers cost a few milliseconds a frame.
 */

import { fit, gridStep, pan, project, scaleBar, toScreen, toWorld, unproject, zoom } from "../pure/mercator";
import type { Camera, Place, Point, Size } from "../pure/mercator";

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
  pickup: Place;
  dropoff: Place;
}

export interface Scene {
  drivers: DriverMark[];
  searches: SearchMark[];
  rides: RideMark[];
  offers: OfferMark[];
  track: TrackLine | null;
}

export const NO_SCENE: Scene = { drivers: [], searches: [], rides: [], offers: [], track: null };

export interface Chosen {
  kind: "driver" | "search" | "ride";
  id: string;
}

const COLOURS = [
  "map-ground",
  "map-line",
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
const HIT_PX = 16;
const KEY_PAN_PX = 80;

interface Glide {
  from: Point;
  to: Point;
  began: number;
  trail: Point[];
}

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
    for (const driver of scene.drivers) {
      present.add(driver.id);
      const to = project(driver.place);
      const glide = this.glides.get(driver.id);
      if (!glide) this.glides.set(driver.id, { from: to, to, began: now, trail: [] });
      else if (glide.to.x !== to.x || glide.to.y !== to.y) {
        const from = this.glided(glide, now);
        const jumps = this.still || Math.hypot(to.x - from.x, to.y - from.y) > JUMP;
        const trail = jumps ? [] : [...glide.trail, glide.to].slice(-TRAIL_POINTS);
        this.glides.set(driver.id, { from: jumps ? to : from, to, began: now, trail });
      }
    }
    for (const id of this.glides.keys()) if (!present.has(id)) this.glides.delete(id);
    this.scene = scene;
    if (!this.fitted && this.size.width > 0) this.fitAll();
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
    const { drivers, searches, rides, track } = this.scene;
    const places = [
      ...drivers.map(({ place }) => place),
      ...searches.map(({ pickup }) => pickup),
      ...rides.flatMap(({ pickup, dropoff }) => [pickup, dropoff]),
      ...(track ? [...track.points, track.pickup, track.dropoff] : []),
    ];
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
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (!this.moved) this.fitAll();
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

  private glided(glide: Glide, now: number): Point {
    const part = this.still ? 1 : Math.min(1, (now - glide.began) / GLIDE_MS);
    return { x: glide.from.x + (glide.to.x - glide.from.x) * part, y: glide.from.y + (glide.to.y - glide.from.y) * part };
  }

  private at(place: Place): Point {
    return toScreen(project(place), this.camera, this.size);
  }

  /** True if somebody is still gliding. */
  private draw(now: number): boolean {
    const { context, size, colours } = this;
    context.globalAlpha = 1;
    context.fillStyle = colours["map-ground"];
    context.fillRect(0, 0, size.width, size.height);
    this.drawGrid();
    let moving = false;
    const places = new Map<string, Point>();
    for (const [id, glide] of this.glides) {
      moving ||= now - glide.began < GLIDE_MS && (glide.from.x !== glide.to.x || glide.from.y !== glide.to.y);
      places.set(id, toScreen(this.glided(glide, now), this.camera, size));
    }
    this.drawTrails(places);
    this.drawTrack();
    this.drawRides(places);
    this.drawOffers(places);
    this.drawSearches();
    this.drawDrivers(places);
    this.drawChosen(places);
    this.drawScale();
    return moving && !this.still;
  }

  private drawGrid(): void {
    const { context, size, colours, camera } = this;
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

  private drawTrails(places: Map<string, Point>): void {
    const { context, colours, camera, size } = this;
    context.strokeStyle = colours["driver-stale"];
    context.globalAlpha = 0.3;
    context.lineWidth = 2;
    context.lineJoin = "round";
    context.beginPath();
    for (const [id, glide] of this.glides) {
      const end = places.get(id);
      const [first, ...rest] = glide.trail;
      if (!first || !end) continue;
      const start = toScreen(first, camera, size);
      context.moveTo(start.x, start.y);
      for (const point of rest) {
        const { x, y } = toScreen(point, camera, size);
        context.lineTo(x, y);
      }
      const from = toScreen(glide.from, camera, size);
      context.lineTo(from.x, from.y);
      context.lineTo(end.x, end.y);
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  private drawTrack(): void {
    const { context, colours } = this;
    const { track } = this.scene;
    if (!track) return;
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
    context.beginPath();
    for (const [from, to] of lines) {
      context.moveTo(from.x, from.y);
      context.lineTo(to.x, to.y);
    }
    context.stroke();
    context.setLineDash([]);
  }

  /** From the driver to where the ride goes next, and from there on. */
  private drawRides(places: Map<string, Point>): void {
    const { context, colours } = this;
    const next: [Point, Point][] = [];
    const later: [Point, Point][] = [];
    context.fillStyle = colours["driver-ride"];
    context.beginPath();
    for (const ride of this.scene.rides) {
      const [pickup, dropoff] = [this.at(ride.pickup), this.at(ride.dropoff)];
      const driver = places.get(ride.driverId);
      if (driver) next.push([driver, ride.aboard ? dropoff : pickup]);
      if (!ride.aboard) {
        later.push([pickup, dropoff]);
        context.rect(pickup.x - 3.5, pickup.y - 3.5, 7, 7);
      }
      context.moveTo(dropoff.x + 3, dropoff.y);
      context.arc(dropoff.x, dropoff.y, 3, 0, 7);
    }
    context.globalAlpha = 0.75;
    context.fill();
    context.globalAlpha = 0.38;
    this.dashed(next, colours["driver-ride"], []);
    context.globalAlpha = 0.3;
    this.dashed(later, colours["driver-ride"], [2, 5]);
    context.globalAlpha = 1;
  }

  private drawOffers(places: Map<string, Point>): void {
    const lines: [Point, Point][] = [];
    for (const offer of this.scene.offers) {
      const driver = places.get(offer.driverId);
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
    for (const search of this.scene.searches) {
      const { x, y } = this.at(search.pickup);
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

  private drawDrivers(places: Map<string, Point>): void {
    const { context, colours, size } = this;
    const near = this.camera.scale > 2 ** 20;
    const radius = near ? 6 : 4;
    for (const state of ["stale", "free", "offer", "ride"] as const) {
      context.beginPath();
      for (const driver of this.scene.drivers) {
        const place = places.get(driver.id);
        if (driver.state !== state || !place) continue;
        const { x, y } = place;
        if (x < -10 || y < -10 || x > size.width + 10 || y > size.height + 10) continue;
        if (near && driver.headingDeg !== null) arrow(context, x, y, (driver.headingDeg * Math.PI) / 180);
        else {
          context.moveTo(x + radius, y);
          context.arc(x, y, radius, 0, 7);
        }
      }
      context.fillStyle = colours[`driver-${state}`];
      context.strokeStyle = colours.surface;
      context.lineWidth = 2;
      context.lineJoin = "round";
      context.stroke();
      context.fill();
    }
  }

  private drawChosen(places: Map<string, Point>): void {
    const place = this.chosenPlace(places);
    if (!place) return;
    const { context, colours } = this;
    context.strokeStyle = colours.text;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(place.x, place.y, 14, 0, 7);
    context.stroke();
  }

  private chosenPlace(places: Map<string, Point>): Point | undefined {
    const { chosen } = this;
    if (chosen?.kind === "driver") return places.get(chosen.id);
    if (chosen?.kind === "search") {
      const search = this.scene.searches.find(({ id }) => id === chosen.id);
      return search && this.at(search.pickup);
    }
    const ride = this.scene.rides.find(({ id }) => id === chosen?.id);
    return ride && (places.get(ride.driverId) ?? this.at(ride.pickup));
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

/** A triangle that points where the vehicle goes. */
function arrow(context: CanvasRenderingContext2D, x: number, y: number, heading: number): void {
  const corner = (angle: number, radius: number): [number, number] => [
    x + Math.sin(heading + angle) * radius,
    y - Math.cos(heading + angle) * radius,
  ];
  context.moveTo(...corner(0, 9.5));
  context.lineTo(...corner(2.45, 8));
  context.lineTo(...corner(Math.PI, 3.5));
  context.lineTo(...corner(-2.45, 8));
  context.closePath();
}
