/** The small pictures of which the map has thousands: drawn once, and copied. */

/** Directions that look different. */
const DIRECTIONS = 48;
const TURN = 2 * Math.PI;

export interface Sprite {
  image: ImageBitmap;
  /** In pixels of the page, both ways. */
  size: number;
}

export class Sprites {
  private readonly known = new Map<string, (Sprite | undefined)[]>();

  /** Colours, or the pixels of the page, have changed. */
  clear(): void {
    this.known.clear();
  }

  /** A vehicle: a dot, or, with a heading, a triangle that points there. */
  of(colour: string, edge: string, near: boolean, headingDeg: number | null, ratio: number): Sprite {
    const kind = near ? "near" : "far";
    let sprites = this.known.get(colour + kind);
    if (!sprites) this.known.set(colour + kind, (sprites = []));
    const direction = headingDeg === null ? DIRECTIONS : Math.round((((headingDeg % 360) + 360) / 360) * DIRECTIONS) % DIRECTIONS;
    return (sprites[direction] ??= draw(colour, edge, near ? 6 : 4, direction === DIRECTIONS ? null : (direction / DIRECTIONS) * TURN, ratio));
  }
}

function draw(colour: string, edge: string, radius: number, heading: number | null, ratio: number): Sprite {
  const size = heading === null ? 2 * radius + 4 : 24;
  const pixels = Math.ceil(size * ratio);
  const canvas = new OffscreenCanvas(pixels, pixels);
  const context = canvas.getContext("2d");
  // A bitmap is copied as it is; of a canvas each copy would be a snapshot first.
  if (!context) return { image: canvas.transferToImageBitmap(), size };
  context.setTransform(ratio, 0, 0, ratio, (size * ratio) / 2, (size * ratio) / 2);
  if (heading === null) context.arc(0, 0, radius, 0, TURN);
  else {
    const corner = (angle: number, from: number): [number, number] => [Math.sin(heading + angle) * from, -Math.cos(heading + angle) * from];
    context.moveTo(...corner(0, 9.5));
    context.lineTo(...corner(2.45, 8));
    context.lineTo(...corner(Math.PI, 3.5));
    context.lineTo(...corner(-2.45, 8));
    context.closePath();
  }
  context.fillStyle = colour;
  context.strokeStyle = edge;
  context.lineWidth = 2;
  context.lineJoin = "round";
  context.stroke();
  context.fill();
  return { image: canvas.transferToImageBitmap(), size };
}
