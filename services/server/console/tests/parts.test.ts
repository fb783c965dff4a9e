import type { VNode } from "preact";
import { expect, test, vi } from "vitest";

// What the live feed asks the browser for when it is loaded.
vi.stubGlobal("document", { addEventListener: () => {} });
const { Boundary, Failed, Time } = await import("../src/ui/parts");

test("a text that is no time is shown as it is", () => {
  for (const form of ["when", "clock", "millis", "ago"] as const) {
    expect((Time({ at: "yesterday", form }) as VNode<{ children: string }>).props.children).toBe("yesterday");
  }
});

test("what fails while it is drawn is an error on the page, and not an empty page", () => {
  const boundary = new Boundary({ children: "the page" });
  expect(boundary.render()).toBe("the page");
  boundary.state = Boundary.getDerivedStateFromError(new RangeError("Invalid time value"));
  const shown = boundary.render() as VNode<{ error: Error }>;
  expect(shown.type).toBe(Failed);
  expect(shown.props.error.message).toBe("Invalid time value");
});
