/** The one search box. `/` leads to it. */

import type { RefObject } from "preact";
import { useState } from "preact/hooks";

import { find } from "../api/find";
import { parseQuery } from "../pure/query";
import { navigate } from "../router";
import { asApiError } from "./hooks";
import { Icon } from "./icons";

export function Finder({ input }: { input: RefObject<HTMLInputElement | null> }) {
  const [text, setText] = useState("");
  const [answer, setAnswer] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    const query = parseQuery(text);
    if (query.kind === "nothing" || busy) return;
    setBusy(true);
    setAnswer("Looking…");
    try {
      const found = await find(query);
      if ("path" in found) {
        setAnswer(null);
        setText("");
        input.current?.blur();
        navigate(found.path);
      } else setAnswer(found.nothing);
    } catch (error) {
      setAnswer(asApiError(error).message);
    } finally {
      setBusy(false);
    }
  };
  const pressed = (event: KeyboardEvent) => {
    if (event.key !== "Escape") return;
    setAnswer(null);
    setText("");
    input.current?.blur();
  };
  return (
    <form class="find" role="search" onSubmit={submit}>
      <Icon name="search" />
      <input
        ref={input}
        type="search"
        name="find"
        enterKeyHint="search"
        placeholder="Phone, ride, match or user id"
        aria-label="Search by phone number or id"
        autoComplete="off"
        spellcheck={false}
        value={text}
        onInput={(event) => {
          setText(event.currentTarget.value);
          setAnswer(null);
        }}
        onKeyDown={pressed}
      />
      <kbd aria-hidden="true">/</kbd>
      {answer !== null && (
        <div class="answer" role="status">
          {answer}
        </div>
      )}
    </form>
  );
}
