/** Requests to the routes of backups, with the token of this tab where the page is a guest of the daemon. */

/** @typedef {import("./torpor.d.ts").Problem} ProblemType */

const KEPT = "torpor.page-token:"; // in sessionStorage, by the daemon's origin: this tab alone, until it is closed

/** An answer that is not well (RFC 9457), or none. @implements {ProblemType} */
export class Problem extends Error {
  /** @param {{status?: number, title?: string, detail?: string, code?: string, hint?: string, retryable?: boolean}} problem */
  constructor({ status = 0, title = "", detail = "", code = "", hint = "", retryable = false }) {
    super(detail || title || `HTTP ${status}`);
    this.name = "Problem";
    this.status = status;
    this.code = code;
    this.hint = hint;
    this.retryable = retryable;
  }

  /** Whether nobody can be reached for now: it heals by itself. */
  get away() {
    return this.status === 0 ? this.retryable : [502, 503, 504, 429].includes(this.status) && this.code !== "no-process";
  }
}

export class Wire {
  /** @param {string | URL} base @param {number} timeoutMs */
  constructor(base, timeoutMs) {
    this.base = String(new URL(base, location.href)).replace(/\/+$/, "");
    this.origin = new URL(this.base).origin;
    this.guest = this.origin !== location.origin;
    this._timeoutMs = timeoutMs;
  }

  /** The token of this tab; null for a page of its own server, whose router needs none. */
  get token() {
    return this.guest ? sessionStorage.getItem(KEPT + this.origin) : null;
  }

  set token(token) {
    if (token === null) sessionStorage.removeItem(KEPT + this.origin);
    else sessionStorage.setItem(KEPT + this.origin, token);
  }

  /** Return the headers of a request. @param {boolean} body */
  headers(body) {
    /** @type {Record<string, string>} */
    const found = body ? { "Content-Type": "application/json" } : {};
    if (this.token !== null) found.Authorization = `Bearer ${this.token}`;
    return found;
  }

  /**
   * Send a request and return its answer. Raises: Problem.
   * @param {string} method @param {string} path behind the base, or from the root @param {unknown} [body]
   * @param {{timeoutMs?: number, keepalive?: boolean, signal?: AbortSignal}} [options]
   * @returns {Promise<Response>}
   */
  async call(method, path, body, { timeoutMs = this._timeoutMs, keepalive = false, signal } = {}) {
    if (this.guest && this.token === null && !path.startsWith("/")) throw notPaired();
    const until = AbortSignal.timeout(timeoutMs);
    let answer;
    try {
      answer = await fetch(path.startsWith("/") ? this.origin + path : `${this.base}/${path}`, {
        method,
        headers: this.headers(body !== undefined),
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: signal === undefined ? until : AbortSignal.any([until, signal]),
        keepalive,
        credentials: "omit",
        referrerPolicy: "no-referrer",
        cache: "no-store",
      });
    } catch (error) {
      if (signal?.aborted) throw new Problem({ code: "stopped", detail: "the page gave up" });
      throw await this._silent(error);
    }
    if (!answer.ok) throw await problemOf(answer);
    return answer;
  }

  /** Send a request and return its JSON. @type {(...args: Parameters<Wire["call"]>) => Promise<any>} */
  async json(...args) {
    const answer = await this.call(...args);
    try {
      return await answer.json();
    } catch (error) {
      throw new Problem({ code: "unreadable", detail: `the answer cannot be read: ${error}`, retryable: true });
    }
  }

  /**
   * Say what it means that there was no answer. What a daemon says to a page that it does not know, the page cannot read,
   * which looks like nobody there; but any page may ask to be paired, and reads the answer.
   * @param {unknown} error
   */
  async _silent(error) {
    if (this.guest && !(error instanceof DOMException && error.name === "TimeoutError")) {
      const asking = { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" };
      try {
        await fetch(`${this.origin}/v1/pair/claim`, { ...asking, credentials: "omit", signal: AbortSignal.timeout(3000) });
        return notPaired();
      } catch {
        // nobody is there
      }
    }
    return new Problem({ code: "unreachable", detail: "nobody answers", retryable: true });
  }
}

function notPaired() {
  const hint = "Let the page ask for it: pair().";
  return new Problem({ status: 401, code: "not-paired", detail: "the daemon does not know this page", hint });
}

/** @param {Response} answer */
async function problemOf(answer) {
  try {
    return new Problem({ ...(await answer.json()), status: answer.status });
  } catch {
    return new Problem({ status: answer.status, title: answer.statusText });
  }
}
