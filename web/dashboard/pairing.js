/** Web pages that wait for approval: looked for every few seconds while somebody looks, told once, counted beside the navigation. */

import { effect, signal, untracked } from "../vendor/preact.js";
import { Problem, json, signedIn } from "./session.js";
import { href, go, route } from "./routes.js";
import { close, toast } from "./toasts.js";
import { t } from "./words.js";

/** @typedef {{code: string, origin: string, label: string, scopes: string[], asked_at: number, state: "pending" | "approved"}} PairRequest */

const LOOK_MS = 2500; // no event tells of them: they live in the daemon's memory alone

/** The requests of now, oldest first; null until they were asked for. */
export const requests = signal(/** @type {PairRequest[] | null} */ (null));
/** @type {Map<string, number>} toasts by code */
const told = new Map();

/** How many wait for the user. */
export function waitingPages() {
  return (requests.value ?? []).filter((each) => each.state === "pending").length;
}

/** Ask for them now. */
export async function lookForPages() {
  try {
    requests.value = (await json("GET", "/v1/pair/requests")).requests;
  } catch (error) {
    if (!(error instanceof Problem || error instanceof TypeError)) throw error; // the banner tells of a daemon that is away
  }
}

/** Look from now on, while the tab is signed in and seen. */
export function lookForPagesAlways() {
  const look = () => signedIn.value && document.visibilityState === "visible" && lookForPages();
  effect(() => void (signedIn.value && lookForPages()));
  effect(tell);
  setInterval(look, LOOK_MS);
  document.addEventListener("visibilitychange", look);
}

/** Tell of each once; on the page that shows them, and once they are answered, no longer. */
function tell() {
  const here = route.value.page === "access";
  const waiting = (requests.value ?? []).filter((each) => each.state === "pending");
  for (const [code, id] of told) {
    if (!id || (!here && waiting.some((each) => each.code === code))) continue;
    told.set(code, 0);
    untracked(() => close(id));
  }
  for (const each of waiting) {
    if (told.has(each.code)) continue;
    told.set(each.code, here ? 0 : untracked(() => say(each)));
  }
}

/** @param {PairRequest} each */
function say(each) {
  return toast(t("pair.asks", { label: each.label }), {
    more: each.origin,
    action: { label: t("pair.look"), run: () => go(href("access")) },
    stays_ms: 0,
  });
}
