/** News of the daemon as it happens: server-sent events over fetch, which can carry the token, and goes on by itself. */

import { effect, signal } from "../vendor/preact.js";
import { call, json, Problem, reachable, signedIn } from "./session.js";

/** @typedef {{id: number, at: number, level: "info" | "warning" | "error", kind: string, session_id: string | null, backup_id: string | null, detail: string}} Happening */

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8000;
const SETTLE_MS = 250; // of many events at once, one look is made

/** How the stream is: connecting at first, live, or lost. */
export const link = signal(/** @type {"connecting" | "live" | "lost"} */ ("connecting"));

/** What GET /v1/status said last; it is asked again behind events, and each half minute. */
export const status = signal(/** @type {any} */ (null));

/** @type {Set<(event: Happening) => void>} */
const listeners = new Set();
/** @type {Set<() => void>} */
const settled = new Set();
let since = -1;
let timer = 0;

/** Call a function for each event. Returns how to stop it. @param {(event: Happening) => void} heard */
export function onEvent(heard) {
  listeners.add(heard);
  return () => void listeners.delete(heard);
}

/**
 * Call a function when something may have changed: a moment behind events, however many, and when the daemon is back.
 * Returns how to stop it.
 * @param {() => void} changed
 */
export function onChange(changed) {
  settled.add(changed);
  return () => void settled.delete(changed);
}

/** Tell that something changed of which no event tells. */
export function changed() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    refreshStatus();
    for (const each of settled) each();
  }, SETTLE_MS);
}

/** Ask for the status again. */
async function refreshStatus() {
  try {
    status.value = await json("GET", "/v1/status");
  } catch (error) {
    if (!(error instanceof Problem || error instanceof TypeError)) throw error;
  }
}

/** Listen from now on, while the tab is signed in. */
export function listen() {
  let stop = new AbortController();
  effect(() => {
    stop.abort();
    if (!signedIn.value) return;
    stop = new AbortController();
    refreshStatus();
    keepListening(stop.signal);
  });
  setInterval(() => signedIn.value && document.visibilityState === "visible" && refreshStatus(), 30_000);
}

/** @param {AbortSignal} stopped */
async function keepListening(stopped) {
  let pause = FIRST_PAUSE_MS;
  while (!stopped.aborted) {
    try {
      await readStream(stopped, () => (pause = FIRST_PAUSE_MS));
    } catch (error) {
      if (stopped.aborted) return;
      if (!(error instanceof Problem || error instanceof TypeError || error instanceof DOMException)) throw error;
    }
    link.value = "lost";
    await new Promise((go) => setTimeout(go, pause));
    pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
  }
}

/** @param {AbortSignal} signal @param {() => void} opened */
async function readStream(signal, opened) {
  const headers = since >= 0 ? { "Last-Event-ID": String(since) } : undefined;
  const answer = await call("GET", "/v1/events/stream", undefined, { signal, headers });
  opened();
  const back = link.value === "lost";
  link.value = "live";
  reachable.value = true;
  if (back) changed();
  const reader = /** @type {ReadableStream<BufferSource>} */ (/** @type {unknown} */ (answer.body)).pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop() ?? "";
    parts.forEach(take);
  }
}

/** @param {string} block */
function take(block) {
  const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5));
  if (!data.length) return;
  const event = /** @type {Happening} */ (JSON.parse(data.join("\n")));
  since = event.id;
  for (const heard of listeners) heard(event);
  changed();
}
