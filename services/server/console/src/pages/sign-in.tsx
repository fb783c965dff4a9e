/** The token, once a tab. */

import { useState } from "preact/hooks";

import { useTitle } from "../ui/hooks";
import { Logo } from "../ui/icons";

export function SignIn({ signIn, refused }: { signIn: (token: string) => void; refused: boolean }) {
  useTitle("Sign in");
  const [token, setToken] = useState("");
  const submit = (event: Event) => {
    event.preventDefault();
    if (token.trim() !== "") signIn(token.trim());
  };
  return (
    <main class="sign-in">
      <form class="card" onSubmit={submit}>
        <span class="brand">
          <Logo /> rideshare console
        </span>
        {refused && (
          <div class="notice bad" role="alert">
            The platform does not know this token.
          </div>
        )}
        <label class="field">
          <span>Operator’s token</span>
          <input
            class="input"
            type="password"
            name="token"
            autoComplete="off"
            autoFocus
            required
            minLength={16}
            maxLength={256}
            value={token}
            onInput={(event) => setToken(event.currentTarget.value)}
          />
        </label>
        <button type="submit" class="button primary">
          Sign in
        </button>
        <p class="muted small">
          Embedded, the program prints a link with a token when it starts. Otherwise an administrator has put the hash of yours into
          ADMIN_TOKENS_FILE. It stays in this tab, and is forgotten when the tab is closed.
        </p>
      </form>
    </main>
  );
}
