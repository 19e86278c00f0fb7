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
   * Return which states are another's work in progress, or this tab's.
   * @param {{tab: string, created_at: number}[]} rows @returns {Promise<Set<string>>} the living tabs
   */
  async alive(rows) {
    const found = new Set([this.id]);
    if (navigator.locks === undefined) {
      const since = Date.now() / 1000 - RECENT_S;
      for (const row of rows) if (row.created_at > since) found.add(row.tab);
      return found;
    }
    const { held = [] } = await navigator.locks.query();
    for (const { name } of held) if (name?.startsWith(ALIVE)) found.add(name.slice(ALIVE.length));
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
