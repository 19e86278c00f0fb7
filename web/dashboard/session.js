/** The dashboard's way to the daemon: a token that a login link becomes, kept for this tab alone, and calls with it. */

const KEPT = "torpor.token";

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

/** Take the code of a login link out of the address, and exchange it. Returns whether this tab is signed in. */
export async function signIn() {
  const found = /^#login=([\w-]+)$/.exec(location.hash);
  if (found) {
    history.replaceState(null, "", location.pathname);
    const answer = await fetch("/v1/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ code: found[1] }),
    });
    if (!answer.ok) throw new Problem(await problemOf(answer));
    sessionStorage.setItem(KEPT, (await answer.json()).token);
  }
  return sessionStorage.getItem(KEPT) !== null;
}

/** Forget the token here. */
export function forget() {
  sessionStorage.removeItem(KEPT);
}

/**
 * Send a request. Raises: Problem; a TypeError where nobody answers.
 * @param {string} method @param {string} path @param {any} [body] @param {RequestInit} [options]
 * @returns {Promise<Response>}
 */
export async function call(method, path, body, options = {}) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEPT) || ""}`, ...options.headers };
  const raw = body instanceof Blob || body === undefined;
  if (!raw) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { ...options, method, headers, body: raw ? body : JSON.stringify(body) });
  if (!answer.ok) throw new Problem(await problemOf(answer));
  return answer;
}

/** Send a request and return its JSON. @param {string} method @param {string} path @param {any} [body] */
export async function json(method, path, body) {
  const answer = await call(method, path, body);
  return answer.status === 204 ? null : answer.json();
}

async function problemOf(answer) {
  try {
    return { status: answer.status, ...(await answer.json()) };
  } catch {
    return { status: answer.status };
  }
}
