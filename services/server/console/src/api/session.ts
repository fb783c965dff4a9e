/** The operator's token: of this tab alone. It comes from the form, or once from the address that the program prints. */

const KEY = "rideshare.token";
const FRAGMENT = /^#token=([\x21-\x7e]{16,256})$/;

/** Takes the token out of the address bar and out of its history entry. */
export function takeFragment(): void {
  const token = FRAGMENT.exec(location.hash)?.[1];
  if (token) {
    history.replaceState(history.state, "", location.pathname + location.search);
    sessionStorage.setItem(KEY, decoded(token));
  }
}

/** Browsers write some characters of a fragment with a percent sign; a token may have one of its own. */
function decoded(token: string): string {
  try {
    return decodeURIComponent(token);
  } catch {
    return token;
  }
}

export function storedToken(): string | null {
  return sessionStorage.getItem(KEY);
}

export function storeToken(token: string | null): void {
  if (token === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, token);
}
