/** A page of another origin asks the user for a token of the daemon, and waits until its code is approved. */

import { Problem } from "./wire.js";

/** @typedef {import("./wire.js").Wire} Wire */

const FIRST_LOOK_MS = 300;
const LOOK_MS = 2000;

/**
 * Ask, show the code, and wait. Raises: Problem (`denied`, `expired`, `stopped`, what the daemon says).
 * @param {Wire} wire @param {import("./torpor.d.ts").PairOptions} options
 */
export async function pair(wire, { label, scopes = ["read", "save", "restore"], onCode, signal }) {
  const asked = await wire.json("POST", "/v1/pair", { label, scopes }, { signal });
  const until = Date.now() + asked.lives_s * 1000;
  onCode(asked.code, asked.lives_s);
  for (let wait = FIRST_LOOK_MS; Date.now() < until; wait = Math.min(wait * 1.3, LOOK_MS)) {
    await pause(wait, signal);
    const { state, token } = await claim(wire, asked.secret, signal);
    if (token) {
      wire.token = token;
      return;
    }
    if (state === "denied") throw new Problem({ status: 403, code: "denied", detail: "the user refused this page" });
  }
  throw new Problem({ status: 403, code: "expired", detail: "nobody approved the code in time", hint: "Ask again." });
}

/** @param {Wire} wire @param {string} secret @param {AbortSignal} [signal] */
async function claim(wire, secret, signal) {
  try {
    return await wire.json("POST", "/v1/pair/claim", { secret }, { signal });
  } catch (error) {
    if (error instanceof Problem && error.away) return { state: "pending", token: null };
    throw error;
  }
}

/** @param {number} ms @param {AbortSignal} [signal] @returns {Promise<void>} */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new Problem({ code: "stopped", detail: "the page gave up" }));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
