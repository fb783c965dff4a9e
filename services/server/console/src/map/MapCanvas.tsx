/** The canvas in a page, with its buttons. */

import { useEffect, useRef } from "preact/hooks";

import type { Place } from "../pure/mercator";
import { MapView } from "./view";
import type { Chosen, Scene } from "./view";

export function MapCanvas({ scene, chosen = null, centre = null, market = null, choose, moved, label }: {
  scene: Scene;
  chosen?: Chosen | null;
  /** Shown in the middle when it changes. */
  centre?: Place | null;
  /** The market that is shown as a whole, when it changes. */
  market?: { id: string } | null;
  choose?: (chosen: Chosen | null) => void;
  moved?: (box: string) => void;
  label: string;
}) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const view = useRef<MapView | null>(null);
  const on = useRef({ choose, moved });
  on.current = { choose, moved };
  useEffect(() => {
    if (!canvas.current) return;
    const map = new MapView(canvas.current, {
      choose: (chosen) => on.current.choose?.(chosen),
      move: (box) => on.current.moved?.(box),
    });
    view.current = map;
    return () => map.close();
  }, []);
  useEffect(() => view.current?.show(scene), [scene]);
  useEffect(() => view.current?.choose(chosen), [chosen?.kind, chosen?.id]);
  useEffect(() => {
    if (centre) view.current?.centre(centre);
  }, [centre]);
  useEffect(() => {
    if (market) view.current?.fitMarket(market.id);
  }, [market]);
  return (
    <div class="map">
      <canvas
        ref={canvas}
        tabIndex={0}
        role="application"
        aria-label={`${label}. Arrow keys move, plus and minus zoom, 0 shows everything.`}
      />
      <div class="zoom">
        <button type="button" class="button" aria-label="Zoom in" onClick={() => view.current?.zoomBy(1.6)}>
          +
        </button>
        <button type="button" class="button" aria-label="Zoom out" onClick={() => view.current?.zoomBy(1 / 1.6)}>
          −
        </button>
        <button type="button" class="button" aria-label="Show everything" title="Show everything" onClick={() => view.current?.fitAll()}>
          ⤢
        </button>
      </div>
    </div>
  );
}
