/** Web Mercator, and the camera of the map. Pure. World coordinates are 0 to 1, from the north-west corner. */

export interface Place {
  lat: number;
  lng: number;
}

export interface Point {
  x: number;
  y: number;
}

/** What the map shows: the place in its middle, and how many pixels the world is wide. */
export interface Camera {
  x: number;
  y: number;
  scale: number;
}

export interface Size {
  width: number;
  height: number;
}

/** Of the square that Web Mercator shows, degrees. */
const LAT_MAX = 85.051129;
const EARTH_RADIUS_M = 6_371_008.8;
const EARTH_AROUND_M = 40_075_016.7;
const SCALE_MIN = 256;
/** About 1 cm a pixel at the equator would be 2^32; 2^27.5 shows a street corner. */
const SCALE_MAX = 2 ** 27.5;

export function project(place: Place): Point {
  const lat = Math.max(-LAT_MAX, Math.min(LAT_MAX, place.lat));
  const sin = Math.sin((lat * Math.PI) / 180);
  return { x: place.lng / 360 + 0.5, y: 0.5 - Math.log((1 + sin) / (1 - sin)) / (4 * Math.PI) };
}

export function unproject(point: Point): Place {
  const lat = (Math.atan(Math.sinh((0.5 - point.y) * 2 * Math.PI)) * 180) / Math.PI;
  return { lat, lng: (point.x - 0.5) * 360 };
}

/** Pixels from the left upper corner. */
export function toScreen(point: Point, camera: Camera, size: Size): Point {
  return {
    x: (point.x - camera.x) * camera.scale + size.width / 2,
    y: (point.y - camera.y) * camera.scale + size.height / 2,
  };
}

export function toWorld(screen: Point, camera: Camera, size: Size): Point {
  return {
    x: (screen.x - size.width / 2) / camera.scale + camera.x,
    y: (screen.y - size.height / 2) / camera.scale + camera.y,
  };
}

/** The camera moved by so many pixels: a finger that moves to the right takes the map with it. */
export function pan(camera: Camera, dx: number, dy: number): Camera {
  return bounded({ ...camera, x: camera.x - dx / camera.scale, y: camera.y - dy / camera.scale });
}

/** The camera nearer by `factor`; what is at `at` on the screen stays there. */
export function zoom(camera: Camera, factor: number, at: Point, size: Size): Camera {
  const fixed = toWorld(at, camera, size);
  const scale = Math.max(SCALE_MIN, Math.min(SCALE_MAX, camera.scale * factor));
  return bounded({
    x: fixed.x - (at.x - size.width / 2) / scale,
    y: fixed.y - (at.y - size.height / 2) / scale,
    scale,
  });
}

function bounded(camera: Camera): Camera {
  const inside = (value: number) => Math.max(0, Math.min(1, value));
  return { x: inside(camera.x), y: inside(camera.y), scale: camera.scale };
}

/** The camera that shows all of `places`, with a margin in pixels; nothing for no place. */
export function fit(places: readonly Place[], size: Size, margin = 62): Camera | null {
  if (places.length === 0) return null;
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const place of places) {
    const { x, y } = project(place);
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  }
  const room = (pixels: number) => Math.max(pixels - 2 * margin, 32);
  // One place alone is shown with some streets around it.
  const least = 1 / 2 ** 16;
  const scale = Math.min(
    room(size.width) / Math.max(right - left, least),
    room(size.height) / Math.max(bottom - top, least),
  );
  return { x: (left + right) / 2, y: (top + bottom) / 2, scale: Math.max(SCALE_MIN, Math.min(SCALE_MAX, scale)) };
}

/** Metres that a pixel is wide where the camera looks. */
export function metresPerPixel(camera: Camera): number {
  const { lat } = unproject({ x: camera.x, y: camera.y });
  return (EARTH_AROUND_M * Math.cos((lat * Math.PI) / 180)) / camera.scale;
}

/** The longest round length (1, 2 or 5 times a power of ten) that is at most `pixels` wide. */
export function scaleBar(camera: Camera, pixels: number): { metres: number; pixels: number } {
  const most = metresPerPixel(camera) * pixels;
  const power = 10 ** Math.floor(Math.log10(most));
  const metres = [5, 2, 1].map((step) => step * power).find((length) => length <= most) ?? power;
  return { metres, pixels: metres / metresPerPixel(camera) };
}

/** Degrees between the lines of a grid so that they are at least `pixels` apart: 1, 2 or 5 times a power of ten. */
export function gridStep(camera: Camera, pixels: number): number {
  const least = (pixels / camera.scale) * 360;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].map((step) => step * power).find((step) => step >= least) ?? 10 * power;
  return Math.min(step, 30);
}

/** Great circle, metres. */
export function distanceM(a: Place, b: Place): number {
  const rad = Math.PI / 180;
  const h =
    Math.sin(((b.lat - a.lat) * rad) / 2) ** 2 +
    Math.cos(a.lat * rad) * Math.cos(b.lat * rad) * Math.sin(((b.lng - a.lng) * rad) / 2) ** 2;
  return 2 * EARTH_RADIUS_M * Math.asin(Math.min(1, Math.sqrt(h)));
}
