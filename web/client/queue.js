/** What waits in this browser goes to the server: on load, when the network or the server is back, with backoff between. */

import { itemOf, leading, wholeItemOf } from "./items.js";
import { Problem } from "./wire.js";

/**
 * @typedef {import("./items.js").Row} Row
 * @typedef {import("./items.js").PageItem} PageItem
 * @typedef {import("./wire.js").Wire} Wire
 * @typedef {import("./kept.js").Kept} Kept
 * @typedef {import("./tabs.js").Tab} Tab
 */

/**
 * What a server did with a state.
 * @typedef {{row: Row, taken: {backupId: string, kind: string} | null, problem: Problem | null}} Outcome
 */

const UNSAID = { code: "unanswered", detail: "the server says nothing of it", retryable: true };
const AT_ONCE = 200;
const AT_ONCE_BYTES = 4 << 20;
const CLOSING_MS = 300; // at the load of a page, whose former life may not have ended yet
const FIRST_MS = 500;
const LONGEST_MS = 30_000;

/** Return for how long to wait before a try. @param {number} tries that failed @param {number} chance 0 to 1 */
export function backoffMs(tries, chance) {
  return Math.min(FIRST_MS * 2 ** tries, LONGEST_MS) * (0.5 + chance / 2);
}

export class Queue {
  /** @param {Wire} wire @param {Kept} kept @param {Tab} tab */
  constructor(wire, kept, tab) {
    this._wire = wire;
    this._kept = kept;
    this._tab = tab;
    /** @type {Set<(outcome: Outcome) => void>} */
    this._listeners = new Set();
    /** @type {Promise<number> | null} */
    this._draining = null;
  }

  /** Hear what becomes of each state, of whichever session. Returns what ends it. @param {(outcome: Outcome) => void} listener */
  on(listener) {
    this._listeners.add(listener);
    return () => void this._listeners.delete(listener);
  }

  /**
   * Send what waits; one tab does it for all. Returns how many states were taken. Raises: Problem (`away`, unpaired).
   * @param {boolean} [again] also what was refused before
   * @returns {Promise<number>}
   */
  drain(again = false) {
    this._draining ??= this._tab
      .alone(`drain ${this._wire.base}`, () => this._drain(again))
      .finally(() => (this._draining = null));
    return this._draining;
  }

  /** @param {boolean} again */
  async _drain(again) {
    const rows = (await this._kept.pending()).filter((row) => again || row.refused === null);
    const working = rows.filter((row) => row.working);
    const living = await this._tab.alive(working, again ? CLOSING_MS : 0);
    let left = rows.filter((row) => !row.working || !living.has(row.tab));
    let taken = 0;
    do {
      const some = left.slice(0, leading(left, AT_ONCE_BYTES, AT_ONCE));
      taken += (await this.send(some)).filter((each) => each.taken !== null).length;
      left = left.slice(some.length);
    } while (left.length > 0);
    return taken;
  }

  /** Send some states, and note what became of each. Raises: Problem. @param {Row[]} rows @returns {Promise<Outcome[]>} */
  async send(rows) {
    const first = await this._post(rows, itemOf);
    const again = first.filter((each) => each.problem !== null && each.row.base !== null && !each.problem.retryable);
    const second = again.length > 0 ? await this._post(again.map((each) => each.row), wholeItemOf) : [];
    const found = first.filter((each) => !again.includes(each)).concat(second);
    for (const outcome of found) await this.note(outcome);
    const away = found.find((each) => each.problem?.retryable)?.problem;
    if (away) throw away;
    return found;
  }

  /** Note what became of a state, here and to whom it concerns. @param {Outcome} outcome */
  async note(outcome) {
    const { row, taken, problem } = outcome;
    if (taken !== null) await this._kept.taken(row.id);
    else if (problem !== null && !problem.retryable) {
      await this._kept.refuse(row.id, { code: problem.code, detail: problem.message });
    }
    for (const listener of this._listeners) listener(outcome);
  }

  /**
   * One that the server stumbles over does not stop the others. Raises: Problem, where it is of none of them.
   * @param {Row[]} rows @param {(row: Row) => PageItem} form @returns {Promise<Outcome[]>}
   */
  async _post(rows, form) {
    let answer;
    try {
      answer = await this._wire.json("POST", "drain", { pending: rows.map(form) });
    } catch (error) {
      if (!(error instanceof Problem) || error.away || error.status === 401 || rows.length === 0) throw error;
      if (rows.length === 1) return [{ row: rows[0], taken: null, problem: error }];
      const found = [];
      for (const row of rows) found.push(...(await this._post([row], form)));
      return found;
    }
    /** @type {Map<string, {id: string, backup_id: string, kind: string}>} */
    const drained = new Map((answer.drained ?? []).map((/** @type {any} */ each) => [each.id, each]));
    const refused = new Map((answer.refused ?? []).map((/** @type {any} */ each) => [each.id, each]));
    return rows.map((row) => {
      const took = drained.get(row.id);
      if (took !== undefined) return { row, taken: { backupId: took.backup_id, kind: took.kind }, problem: null };
      const why = refused.get(row.id) ?? UNSAID;
      if (why.code === "conflict") return { row, taken: { backupId: row.id, kind: "unchanged" }, problem: null }; // in another form
      return { row, taken: null, problem: new Problem({ status: 422, ...why }) };
    });
  }
}

