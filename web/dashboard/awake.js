/** Which sessions are awake: held by an inference process that is attached, and so can be saved and woken from here. */

import { html, signal, useEffect } from "../vendor/preact.js";
import { onChange } from "./live.js";
import { usePoll } from "./poll.js";
import { json, Problem } from "./session.js";
import { t } from "./words.js";

const LOOK_MS = 10_000; // no event tells that a process came or went

/** The name of the process that has a session, by session. */
export const awake = signal(/** @type {ReadonlyMap<string, string>} */ (new Map()));

async function look() {
  try {
    const { processes } = await json("GET", "/v1/attached");
    /** @type {[string, string][]} */
    const pairs = processes.flatMap((/** @type {any} */ each) => each.sessions.map((/** @type {string} */ session) => [session, each.name]));
    const same = pairs.length === awake.value.size && pairs.every(([session, name]) => awake.value.get(session) === name);
    if (!same) awake.value = new Map(pairs);
  } catch (error) {
    if (!(error instanceof Problem || error instanceof TypeError)) throw error;
  }
}

/** Look for them while the component is there. */
export function useAwake() {
  useEffect(() => {
    look();
    return onChange(look);
  }, []);
  usePoll(look, LOOK_MS, true);
}

/** The sign of a session that is awake. @param {{session: string}} props */
export function Awake({ session }) {
  const name = awake.value.get(session);
  return name ? html`<span class="chip good awake" title=${t("awake.in", { name })}><i aria-hidden="true"></i><span>${t("awake.sign")}</span></span>` : null;
}
