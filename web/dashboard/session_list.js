/** The sessions as far as they are loaded, newest first: page after page, as far as somebody looks. */

import { batch, signal } from "../vendor/preact.js";
import { json } from "./session.js";

const FIRST = 60;
const PAGE = 500;

/**
 * @typedef {{index: number, media_type: string, size_bytes: number, backup_id: string}} Image
 * @typedef {{stages: string[], checked: boolean, waiting: string[], given_up: string[], held: string | null}} Remote
 * @typedef {object} Backup
 * @property {string} id
 * @property {string} session_id
 * @property {string | null} parent_id
 * @property {number} created_at
 * @property {number | null} expires_at
 * @property {boolean} pinned
 * @property {string} adapter
 * @property {string | null} model_name
 * @property {string[]} layers
 * @property {number} tokens
 * @property {number} bytes_total
 * @property {number} bytes_written
 * @property {string | null} title
 * @property {string | null} group_name
 * @property {number} absent_bytes
 * @property {number} damaged_bytes
 * @property {number | null} dropped_at
 * @property {Remote | null} remote
 *
 * @typedef {object} SessionRow
 * @property {string} session_id
 * @property {string | null} title
 * @property {number} backups
 * @property {number} bytes_total
 * @property {Backup} newest
 * @property {number} oldest_at
 * @property {number} messages
 * @property {string | null} preview
 * @property {Image[]} images
 * @property {{session_id: string, backup_id: string} | null} forked_from
 * @property {number} forks
 */

class SessionList {
  rows = signal(/** @type {SessionRow[]} */ ([]));
  total = signal(/** @type {number | null} */ (null));
  error = signal(/** @type {unknown} */ (null));
  /** @type {string | null} */
  #next = null;
  #wanted = 0;
  /** @type {Promise<void> | null} */
  #running = null;

  /** Load so many rows at least, or all there are. @param {number} count */
  want(count) {
    this.#wanted = Math.max(this.#wanted, count);
    this.#running ??= this.#load().finally(() => (this.#running = null));
    return this.#running;
  }

  async #load() {
    try {
      while (this.rows.value.length < this.#wanted && (this.total.value === null || this.#next !== null)) {
        const limit = this.total.value === null ? FIRST : PAGE;
        const page = await this.#page(limit, this.#next);
        batch(() => {
          const known = new Set(this.rows.value.map((row) => row.session_id));
          this.rows.value = [...this.rows.value, ...page.sessions.filter((row) => !known.has(row.session_id))];
          this.#took(page);
          this.#next = page.next;
        });
      }
    } catch (error) {
      this.error.value = error;
    }
  }

  /** Look again at the newest ones: what changed comes to the top, the others stay. */
  async refresh() {
    if (this.total.value === null) return this.want(FIRST);
    try {
      const page = await this.#page(FIRST, null);
      const known = new Set(page.sessions.map((row) => row.session_id));
      const rest = this.rows.value.filter((row) => !known.has(row.session_id) && behind(row, page.sessions.at(-1)));
      batch(() => {
        if (page.next === null || rest.length === 0) this.#next = page.next;
        this.rows.value = page.next === null ? page.sessions : [...page.sessions, ...rest];
        this.#took(page);
      });
    } catch (error) {
      this.error.value = error;
    }
  }

  /** Take a session out that was removed. @param {string} sessionId */
  forget(sessionId) {
    this.rows.value = this.rows.value.filter((row) => row.session_id !== sessionId);
  }

  /** @param {{total: number}} page */
  #took(page) {
    this.total.value = page.total;
    this.error.value = null;
  }

  /**
   * @param {number} limit @param {string | null} before
   * @returns {Promise<{sessions: SessionRow[], next: string | null, total: number}>}
   */
  #page(limit, before) {
    const query = new URLSearchParams({ limit: String(limit), ...(before && { before }) });
    return json("GET", `/v1/sessions?${query}`);
  }
}

/** Tell whether a row stands behind another. @param {SessionRow} row @param {SessionRow | undefined} other */
function behind(row, other) {
  return other !== undefined && row.newest.created_at <= other.newest.created_at;
}

/** The one list of the page: it stays loaded while the user is elsewhere. */
export const sessions = new SessionList();
