/** Drawn for this page: strokes on a grid of 20. */

const PATHS = {
  overview: "M3 11.5 10 5l7 6.5M5 10v6h10v-6M8.5 16v-4h3v4",
  map: "M3 5.5 8 4l4 1.5L17 4v10.5L12 16l-4-1.5L3 16zM8 4v10.5M12 5.5V16",
  rides: "M5 15c0-5 10-3 10-9M5 15.1v-.2M15 6.1v-.2M3 15a2 2 0 1 0 4 0 2 2 0 1 0-4 0M13 6a2 2 0 1 0 4 0 2 2 0 1 0-4 0",
  drivers: "M4 12.5 5.5 8h9l1.5 4.5M3.5 12.5h13V16h-13zM5.5 16v1M14.5 16v1M6.5 14.2h.1M13.5 14.2h.1",
  people: "M10 9.5a3 3 0 1 0 0-6 3 3 0 0 0 0 6M4 16.5c.5-3.500 3-5 6-5s5.500 1.500 6 5",
  streams: "M3 6h9M3 10h14M3 14h9M14 4l2.500 2L14 8M14 12l2.500 2-2.500 2",
  "dead-letters": "M3 5.500h14v9.500H3zM3 6l7 5.500L17 6M8 15l4-4",
  pods: "M10 2.800 16.500 6.300v7.400L10 17.200l-6.500-3.500V6.300zM3.700 6.400 10 10l6.300-3.600M10 10v7",
  acts: "M5 3h7l3 3v11H5zM12 3v3h3M7.500 10h5M7.500 13h5",
  runbook: "M3.500 4.500C6 3.500 8.500 4 10 5.500v11C8.500 15 6 14.500 3.500 15.500zM16.500 4.500C14 3.500 11.500 4 10 5.500v11c1.500-1.500 4-2 6.500-1z",
  search: "M9 14.500a5.500 5.500 0 1 0 0-11 5.500 5.500 0 0 0 0 11M13.200 13.200 17 17",
  menu: "M3 6h14M3 10h14M3 14h14",
  copy: "M7 7h9v9H7zM13 7V4H4v9h3",
  good: "M10 17.500a7.500 7.500 0 1 0 0-15 7.500 7.500 0 0 0 0 15M6.500 10.300l2.400 2.400 4.600-5",
  warn: "M10 3 18 16.500H2zM10 8v4M10 14.200v.1",
  bad: "M10 17.500a7.500 7.500 0 1 0 0-15 7.500 7.500 0 0 0 0 15M10 6v5M10 13.700v.1",
  theme: "M10 16.500a6.500 6.500 0 1 0 0-13 6.500 6.500 0 0 0 0 13M10 3.500v13",
  out: "M8 4H4v12h4M8 10h9M14 7l3 3-3 3",
  help: "M10 17.500a7.500 7.500 0 1 0 0-15 7.500 7.500 0 0 0 0 15M7.800 7.800c.3-2.400 4.400-2.300 4.300.2 0 1.600-2.100 1.700-2.100 3.300M10 13.800v.1",
  refresh: "M16 10a6 6 0 1 1-1.800-4.300M16.500 3v3.500H13",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg
      class="icon"
      viewBox="0 0 20 20"
      fill="none"
      stroke="currentColor"
      stroke-width="1.6"
      stroke-linecap="round"
      stroke-linejoin="round"
      aria-hidden="true"
    >
      <path d={PATHS[name]} />
    </svg>
  );
}

export function Logo() {
  return (
    <svg viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="7" fill="#0b5fff" />
      <path d="M9 23c0-7 14-5 14-13" fill="none" stroke="#fff" stroke-width="2.6" stroke-linecap="round" stroke-dasharray="0.1 4.4" />
      <circle cx="9" cy="23" r="3.6" fill="#fff" />
      <circle cx="23" cy="9.500" r="3.6" fill="#fff" />
    </svg>
  );
}
