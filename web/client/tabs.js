/** Several tabs of one page: who is alive, and one at a time. By the Web Locks of the browser, where the page may use them. */

import { ulid } from "./ulid.js";

const ALIVE = "torpor tab ";
const RECENT_S = 30; // without locks: so long after its last word a tab is taken for alive

export class Tab {
  constructor() {
    this.id = ulid(Date.now());
    /** @type {(() => void) | null} */
    this._release = null;
    this.show();
  }

  /** Be seen by the other tabs. A page that is put aside holds no lock, or it could not be put aside. */
  show() {
    if (this._release !== null) return;
    /** @type {Promise<void>} */
    const held = new Promise((resolve) => (this._release = resolve));
    navigator.locks?.request(ALIVE + this.id, () => held).catch(() => undefined);
  }

  hide() {
    this._release?.();
    this._release = null;
  }

  /**
   * Return the tabs that are alive, of those that kept some states; this one is.
   * @param {{tab: string, created_at: number}[]} rows
   * @param {number} patienceMs for so long a tab that may be closing just now is awaited
   * @returns {Promise<Set<string>>}
   */
  async alive(rows, patienceMs) {
    const found = new Set([this.id]);
    if (navigator.locks === undefined) {
      const since = Date.now() / 1000 - RECENT_S;
      for (const row of rows) if (row.created_at > since) found.add(row.tab);
      return found;
    }
    const { held = [] } = await navigator.locks.query();
    const names = new Set(held.map(({ name }) => name));
    const others = new Set(rows.map((row) => row.tab).filter((tab) => tab !== this.id && names.has(ALIVE + tab)));
    await Promise.all([...others].map(async (tab) => ((await closes(tab, patienceMs)) ? null : found.add(tab))));
    return found;
  }

  /**
   * Do something that no other tab does meanwhile.
   * @template T @param {string} name @param {() => Promise<T>} work @returns {Promise<T>}
   */
  async alone(name, work) {
    return navigator.locks === undefined ? work() : navigator.locks.request(`torpor ${name}`, work);
  }
}

/** Tell whether a tab closes within some time. @param {string} tab @param {number} patienceMs */
async function closes(tab, patienceMs) {
  try {
    await navigator.locks.request(ALIVE + tab, { signal: AbortSignal.timeout(patienceMs) }, () => undefined);
    return true;
  } catch {
    return false;
  }
}
