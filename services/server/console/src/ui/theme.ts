/** Light, dark, or as the system is. */

const KEY = "rideshare.theme";
const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

export function currentTheme(): Theme {
  return THEMES.find((theme) => theme === localStorage.getItem(KEY)) ?? "system";
}

export function restoreTheme(): void {
  const theme = currentTheme();
  if (theme === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme;
}

export function nextTheme(): Theme {
  const theme = THEMES[(THEMES.indexOf(currentTheme()) + 1) % THEMES.length] ?? "system";
  localStorage.setItem(KEY, theme);
  restoreTheme();
  dispatchEvent(new Event("rideshare:theme"));
  return theme;
}
