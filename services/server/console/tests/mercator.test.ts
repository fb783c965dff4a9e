import { describe, expect, test } from "vitest";

import { distanceM, fit, gridStep, metresPerPixel, pan, project, scaleBar, toScreen, toWorld, unproject, zoom } from "../src/pure/mercator";
import type { Camera } from "../src/pure/mercator";

const size = { width: 800, height: 600 };
const newYork: Camera = { ...project({ lat: 40.75, lng: -73.98 }), scale: 2 ** 22 };

describe("projection", () => {
  test.each([
    [{ lat: 0, lng: 0 }, { x: 0.5, y: 0.5 }],
    [{ lat: 85.051129, lng: -180 }, { x: 0, y: 0 }],
    [{ lat: -85.051129, lng: 180 }, { x: 1, y: 1 }],
    [{ lat: 89, lng: 0 }, { x: 0.5, y: 0 }],
  ])("%o is at %o", (place, point) => {
    expect(project(place).x).toBeCloseTo(point.x, 6);
    expect(project(place).y).toBeCloseTo(point.y, 6);
  });

  test("goes there and back", () => {
    for (const place of [{ lat: 40.75, lng: -73.98 }, { lat: -33.87, lng: 151.21 }, { lat: 64.15, lng: -21.94 }]) {
      const back = unproject(project(place));
      expect(back.lat).toBeCloseTo(place.lat, 9);
      expect(back.lng).toBeCloseTo(place.lng, 9);
      const screen = toScreen(project(place), newYork, size);
      expect(toWorld(screen, newYork, size).x).toBeCloseTo(project(place).x, 12);
    }
  });
});

describe("the camera", () => {
  test("keeps what is under the pointer while it zooms", () => {
    const at = { x: 650, y: 120 };
    const before = toWorld(at, newYork, size);
    const after = toWorld(at, zoom(newYork, 1.7, at, size), size);
    expect(after.x).toBeCloseTo(before.x, 12);
    expect(after.y).toBeCloseTo(before.y, 12);
  });

  test("moves with the finger", () => {
    const place = project({ lat: 40.76, lng: -73.97 });
    const before = toScreen(place, newYork, size);
    const after = toScreen(place, pan(newYork, 30, -12), size);
    expect(after.x - before.x).toBeCloseTo(30, 6);
    expect(after.y - before.y).toBeCloseTo(-12, 6);
  });

  test("never leaves the world, and never is infinitely near", () => {
    const far = zoom(pan(newYork, 1e9, 1e9), 1e-9, { x: 0, y: 0 }, size);
    expect(far.x).toBeGreaterThanOrEqual(0);
    expect(far.y).toBeGreaterThanOrEqual(0);
    expect(far.scale).toBe(256);
    expect(zoom(newYork, 1e12, { x: 0, y: 0 }, size).scale).toBe(2 ** 27.5);
  });

  test("shows all places inside of the margin", () => {
    const places = [{ lat: 40.7, lng: -74.02 }, { lat: 40.8, lng: -73.93 }, { lat: 40.75, lng: -73.99 }];
    const camera = fit(places, size, 40);
    expect(camera).not.toBeNull();
    for (const place of places) {
      const { x, y } = toScreen(project(place), camera as Camera, size);
      expect(x).toBeGreaterThan(39.9);
      expect(x).toBeLessThan(760.1);
      expect(y).toBeGreaterThan(39.9);
      expect(y).toBeLessThan(560.1);
    }
    expect(fit([], size)).toBeNull();
    expect(fit([{ lat: 40.7, lng: -74 }], size)?.scale).toBeLessThan(2 ** 27.5);
    expect(fit(places, { width: 10, height: 10 })?.scale).toBeGreaterThan(0);
  });
});

test("lengths", () => {
  expect(distanceM({ lat: 0, lng: 0 }, { lat: 0, lng: 1 })).toBeCloseTo(111_195, -1);
  expect(distanceM({ lat: 40.75, lng: -73.98 }, { lat: 40.75, lng: -73.98 })).toBe(0);
  expect(metresPerPixel(newYork)).toBeCloseTo(7.238, 2);
  const bar = scaleBar(newYork, 120);
  expect(bar.metres).toBe(500);
  expect(bar.pixels).toBeLessThanOrEqual(120);
  expect(bar.pixels).toBeCloseTo(500 / metresPerPixel(newYork), 6);
  for (let power = 8; power <= 27; power += 1) {
    const camera = { ...newYork, scale: 2 ** power };
    const { metres, pixels } = scaleBar(camera, 120);
    expect(String(metres)).toMatch(/^[125]0*$|^0\.[0-9]+$/);
    expect(pixels).toBeGreaterThan(120 / 2.6);
    expect((gridStep(camera, 100) / 360) * camera.scale).toBeGreaterThan(power < 11 ? 0 : 99);
  }
});
