/** The dashboard's way to the daemon: a token that a login link becomes, kept for this tab alone, and calls with it. */

import { signal } from "../vendor/preact.js";
import { go } from "./routes.js";

const KEPT = "torpor.token";

/** Whether this tab is signed in; a token that no longer opens ends it. */
export const signedIn = signal(sessionStorage.getItem(KEPT) !== null);

/** Whether the daemon answered the last call, or it is not known yet. */
export const reachable = signal(true);

/** An answer that is not well: RFC 9457. */
export class Problem extends Error {
  /** @param {{status: number, detail?: string, title?: string, code?: string, hint?: string, retryable?: boolean}} problem */
  constructor(problem) {
    super(problem.detail || problem.title || `HTTP ${problem.status}`);
    this.status = problem.status;
    this.code = problem.code || "";
    this.hint = problem.hint || "";
    this.retryable = Boolean(problem.retryable);
  }
}

/** Take the code of a login link out of the address, exchange it, and go where the link leads to. Raises: Problem, TypeError. */
export async function signIn() {
  const found = /^#login=([\w-]+)(?:&to=([^&]*))?$/.exec(location.hash);
  if (!found) return;
  go(place(found[2]), { instead: true });
  const answer = await fetch("/v1/login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ code: found[1] }),
  });
  if (!answer.ok) throw new Problem(await problemOf(answer));
  sessionStorage.setItem(KEPT, (await answer.json()).token);
  signedIn.value = true;
}

/** The address of a place that a link names, within this page. @param {string | undefined} named */
function place(named) {
  try {
    const wanted = decodeURIComponent(named ?? "");
    return wanted.startsWith("/") ? `#${wanted}` : location.pathname;
  } catch {
    return location.pathname;
  }
}

/** Forget the token here. */
export function forget() {
  sessionStorage.removeItem(KEPT);
  signedIn.value = false;
}

/** Make the token void, and forget it. */
export async function signOut() {
  await call("DELETE", "/v1/login").catch(() => null); // nobody there: it ends by itself
  forget();
}

/**
 * Send a request. Raises: Problem; a TypeError where nobody answers.
 * @param {string} method @param {string} path @param {any} [body] @param {RequestInit} [options]
 * @returns {Promise<Response>}
 */
export async function call(method, path, body, options = {}) {
  const headers = new Headers(options.headers);
  headers.set("Authorization", `Bearer ${sessionStorage.getItem(KEPT) || ""}`);
  const raw = body instanceof Blob || body === undefined;
  if (!raw) headers.set("Content-Type", "application/json");
  const answer = await answered(fetch(path, { ...options, method, headers, body: raw ? body : JSON.stringify(body) }));
  if (answer.ok) return answer;
  if (answer.status === 401) forget();
  throw new Problem(await problemOf(answer));
}

/**
 * Send a request and return its JSON.
 * @param {string} method @param {string} path @param {any} [body] @param {RequestInit} [options]
 * @returns {Promise<any>}
 */
export async function json(method, path, body, options) {
  const answer = await call(method, path, body, options);
  return answer.status === 204 ? null : answer.json();
}

/** @param {Promise<Response>} asked */
async function answered(asked) {
  try {
    const answer = await asked;
    reachable.value = true;
    return answer;
  } catch (error) {
    if (error instanceof TypeError) reachable.value = false;
    throw error;
  }
}

/** @param {Response} answer */
async function problemOf(answer) {
  try {
    return { status: answer.status, ...(await answer.json()) };
  } catch {
    return { status: answer.status };
  }
}
