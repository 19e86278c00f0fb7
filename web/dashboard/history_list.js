/** The rows of a session's drawn history, loaded page by page wherever somebody looks. */

import { batch, signal } from "../vendor/preact.js";
import { json } from "./session.js";

const PAGE = 200;

/**
 * @typedef {import("./session_list.js").Backup} Backup
 * @typedef {object} HistoryRow
 * @property {string} id
 * @property {"here" | "elsewhere" | "gone"} place
 * @property {number} lane
 * @property {boolean} enters
 * @property {boolean} leads
 * @property {boolean} joins
 * @property {boolean} circular
 * @property {Backup | null} backup
 * @property {number | null} [tokens_added]
 * @property {number} [shared_bytes]
 * @property {{kind: string, text: string}[]} [events]
 * @property {{backup_id: string, session_id: string, created_at: number}[]} [forks]
 * @property {number | null} [messages]
 * @property {string | null} [preview]
 * @property {import("./session_list.js").Image[]} [images]
 *
 * @typedef {{title: string | null, backups: number, newest: string, total: number, offset: number, rows: HistoryRow[]}} HistoryPage
 */

export class History {
  /** Row by place in the drawing; there are holes. */
  rows = signal(/** @type {(HistoryRow | undefined)[]} */ ([]));
  about = signal(/** @type {Omit<HistoryPage, "rows" | "offset"> | null} */ (null));
  error = signal(/** @type {unknown} */ (null));
  /** @type {Map<number, Promise<void>>} */
  #pages = new Map();
  #made = 0; // counts refreshes: an answer from before one is not taken
  #seen = [0, 1];

  /** @param {string} session */
  constructor(session) {
    this.session = session;
  }

  /** Load the rows between two, where they are not there yet. @param {number} first @param {number} last */
  want(first, last) {
    this.#seen = [first, last];
    for (let page = Math.floor(first / PAGE); page * PAGE < Math.max(last, 1); page += 1) {
      if (!this.#pages.has(page)) this.#pages.set(page, this.#load(page, this.#made, false));
    }
  }

  /** Look again at what is seen; the rest when it is seen next. */
  async refresh() {
    this.#made += 1;
    this.#pages.clear();
    const [first, last] = this.#seen;
    const pages = [];
    for (let page = Math.floor(first / PAGE); page * PAGE < Math.max(last, 1); page += 1) pages.push(page);
    let fresh = true; // the first answer takes the place of all that was there
    for (const page of pages) {
      const loading = this.#load(page, this.#made, fresh);
      this.#pages.set(page, loading);
      await loading;
      fresh = false;
    }
  }

  /** @param {number} page @param {number} made @param {boolean} fresh */
  async #load(page, made, fresh) {
    try {
      const query = new URLSearchParams({ offset: String(page * PAGE), limit: String(PAGE) });
      /** @type {HistoryPage} */
      const { rows, offset, ...about } = await json("GET", `/v1/sessions/${encodeURIComponent(this.session)}/drawing?${query}`);
      if (made !== this.#made) return;
      const all = fresh ? [] : this.rows.value.slice();
      rows.forEach((row, at) => (all[offset + at] = row));
      batch(() => {
        this.rows.value = all;
        this.about.value = about;
        this.error.value = null;
      });
    } catch (error) {
      if (made === this.#made) this.error.value = error;
      this.#pages.delete(page);
    }
  }
}
