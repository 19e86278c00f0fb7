/** The backup of one session: on each message a small save, now and then a full one, and the way back. */

import { History } from "./history.js";
import { baseOf, covers, itemOf, rowOf, same, takesAway } from "./items.js";
import { LastWords } from "./last_words.js";
import { backoffMs } from "./queue.js";
import { Standing } from "./standing.js";
import { ulid } from "./ulid.js";
import { Problem } from "./wire.js";

/**
 * @typedef {import("./items.js").Row} Row
 * @typedef {import("./items.js").Base} Base
 * @typedef {import("./torpor.d.ts").Backup<any>} Backup
 * @typedef {import("./torpor.d.ts").Point} Point
 * @typedef {import("./torpor.d.ts").Saved} Saved
 */

const CHANGED_MS = 1000; // between two states of a message that is being written
const FULL_MS = 300_000;
const NOT_THERE = ["no-process", "session-not-found", "backup-not-found", "not-found"];

/** @implements {Backup} */
export class SessionBackup {
  /**
   * @param {import("./torpor.d.ts").BackupOptions<any>} options @param {import("./wire.js").Wire} wire
   * @param {import("./kept.js").Kept} kept @param {import("./tabs.js").Tab} tab @param {import("./queue.js").Queue} queue
   */
  constructor({ sessionId, every = 5, state }, wire, kept, tab, queue) {
    this.sessionId = sessionId;
    this._every = every;
    this._state = state;
    this._wire = wire;
    this._kept = kept;
    this._tab = tab;
    this._standing = new Standing();
    this._queue = queue;
    this._last = new LastWords(wire);
    this._history = new History(sessionId, wire, kept);
    /** @type {Base | null} */
    this._base = null;
    /** @type {Row | null} */
    this._newest = null; // state of this tab
    /** @type {Row | null} */
    this._safe = null; // the newest of them that a server has
    this._sinceFull = 0;
    /** @type {Promise<unknown>} */
    this._sending = Promise.resolve();
    this._tries = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._retrying = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._changing = undefined;
    this._keeps = true; // whether this browser has room
    this._lastMs = 0; // of the last state: ids go on from it when the clock is set back
    this._stopping = new AbortController();
    this._listen();
    kept.tidy(Date.now()).catch(() => undefined);
    this._loaded = this._load();
  }

  async _load() {
    this._lastMs = Math.max(this._lastMs, await this._kept.newestMs(this.sessionId).catch(() => 0));
    await this._drain(true).catch(() => 0);
  }

  get status() {
    return this._standing.status;
  }

  get stopped() {
    return this._stopping.signal;
  }

  /** @param {string} type @param {(detail: any, type: any) => void} listener */
  on(type, listener) {
    return this._standing.events.on(type, listener);
  }

  async message() {
    this._sinceFull += 1;
    const row = await this._keep(false);
    return this._inOrder(() => this._save(row));
  }

  changed() {
    if (this._stopping.signal.aborted) return;
    this._changing ??= setTimeout(() => void this._keep(true), CHANGED_MS);
  }

  async now() {
    const row = await this._keep(false);
    try {
      return await this._inOrder(() => this._create(row, true));
    } catch (error) {
      this._failed(error);
      throw error;
    } finally {
      await this._count();
    }
  }

  /** @param {number} [limit] */
  points(limit = 20) {
    return this._history.points(limit);
  }

  /** @param {Point | string} point */
  plan(point) {
    return this._history.plan(point);
  }

  /** @param {string} backupId @param {number} index */
  media(backupId, index) {
    return this._history.media(backupId, index);
  }

  /** @param {Point | string} [point] @returns {Promise<import("./torpor.d.ts").Restored<any> | null>} */
  async restore(point) {
    await this._loaded;
    if (!this._standing.online || this._standing.pending > 0) await this.drain().catch(() => 0);
    const { restored, problem } = await this._history.restore(point);
    if (problem !== null) this._away(problem);
    else this._back(0);
    if (restored === null) return null;
    const { conversation, draft, partial, backupId, local } = restored;
    this._base = backupId === null ? null : baseOf(backupId, local ? [] : conversation, partial && !local);
    this._newest = this._row({ conversation, draft, partial }, false);
    this._safe = local ? null : this._newest;
    if (!local) this._newest.pending = false;
    this._standing.events.emit("restored", restored);
    return restored;
  }

  drain() {
    return this._drain(false);
  }

  /** @param {boolean} again also what was refused before */
  async _drain(again) {
    try {
      const drained = await this._queue.drain(again);
      await this._count();
      this._back(drained);
      return drained;
    } catch (error) {
      await this._count();
      this._failed(error);
      throw error;
    }
  }

  stop() {
    this._stopping.abort();
    clearTimeout(this._retrying);
    clearTimeout(this._changing);
  }

  async forget() {
    this._newest = this._safe = null;
    await this._kept.forget(this.sessionId);
    await this._count();
  }

  /** The page has another token now. */
  async paired() {
    this._last.reset();
    await this.drain().catch(() => undefined);
  }

  /** @param {import("./torpor.d.ts").PageState<any>} state @param {boolean} working @returns {Row} */
  _row(state, working) {
    const now = (this._lastMs = Math.max(Date.now(), this._lastMs + 1));
    const before = this._newest; // what is taken away from a state that waits is said against that one
    const cuts = before !== null && before.pending && !before.working && takesAway(state.conversation, before);
    const base = cuts ? baseOf(before.id, before.messages, before.partial) : this._base;
    const about = { id: ulid(now), sessionId: this.sessionId, now, tab: this._tab.id, base, working };
    return rowOf(state, about);
  }

  /** Keep the present state in this browser; one that is kept already is returned. @param {boolean} working @returns {Promise<Row>} */
  async _keep(working) {
    clearTimeout(this._changing);
    this._changing = undefined;
    const [before, row] = [this._newest, this._row(this._state(), working)];
    const settled = before !== null && (!before.working || working);
    if (settled && same(before, row)) return before;
    this._newest = row;
    try {
      await this._kept.put(row, before?.working ? before.id : null);
      this._keeps = true;
    } catch (error) {
      if (!this._keeps) return row;
      this._keeps = false; // and said once
      const hint = "Free some space, or let the site keep more. The server still gets each state.";
      const detail = `this browser does not keep it: ${error}`;
      this._standing.refused(null, new Problem({ code: "browser-storage", detail, hint }));
    }
    return row;
  }

  /** Send states one after another. @param {() => Promise<Saved>} work @returns {Promise<Saved>} */
  _inOrder(work) {
    const done = this._sending.then(work);
    this._sending = done.catch(() => undefined);
    return done;
  }

  /** Save a state, or leave it to a later one, or in the queue. @param {Row} row @returns {Promise<Saved>} */
  async _save(row) {
    const [later, full] = [this._newest, this._isFullDue(row)];
    if (!row.pending && !full) return this._saved(row, "unchanged", this._base?.backupId ?? null);
    if (later !== null && later !== row && !later.working && covers(later, row)) return this._saved(row, "queued", null);
    try {
      return await this._create(row, full);
    } catch (error) {
      this._failed(error);
      return this._saved(row, "queued", null);
    } finally {
      await this._count();
    }
  }

  /** The KV cache is saved behind an answer: before one, the user would wait for it. @param {Row} row */
  _isFullDue(row) {
    const last = row.messages.at(-1);
    return this._sinceFull >= this._every && !row.partial && last !== undefined && last.role !== "user";
  }

  /** Ask for a save. Raises: Problem. @param {Row} row @param {boolean} full @returns {Promise<Saved>} */
  async _create(row, full) {
    this._standing.saving(this.sessionId, full);
    const state = full && this._wire.guest ? {} : { state: itemOf(row) }; // with a state, the daemon asks no process
    const wanted = { session_id: this.sessionId, ...(full ? {} : { small: true }), ...state };
    let answer;
    try {
      answer = await this._wire.json("POST", "create", wanted, full ? { timeoutMs: FULL_MS } : {});
    } catch (error) {
      if (!(error instanceof Problem) || error.away || error.status === 401) throw error;
      if (full && !NOT_THERE.includes(error.code)) throw error;
      answer = {}; // no process knows the session, or not this base: the queue's way says it exactly
      if (full) this._sinceFull = 0;
    }
    const { kind = "page", backup_id: backupId = row.id, item } = answer;
    if (kind === "full") this._sinceFull = 0;
    if (item || kind === "unchanged" || answer.backup_id === row.id) {
      await this._queue.note({ row, taken: { backupId: item?.backup_id ?? backupId, kind }, problem: null });
    } else {
      const [outcome] = await this._queue.send([row]); // a process saved what it has; what only the page has follows
      if (outcome.problem !== null) throw outcome.problem;
    }
    this._back(0);
    return this._saved(row, kind, backupId);
  }

  /** @param {Row} row @param {import("./torpor.d.ts").Kind} kind @param {string | null} backupId @returns {Saved} */
  _saved(row, kind, backupId) {
    return { sessionId: row.session_id, kind, backupId, messages: row.messages.length };
  }

  /** What became of a state. @param {import("./queue.js").Outcome} outcome */
  _note({ row, taken, problem }) {
    if (row.session_id !== this.sessionId) return;
    if (problem !== null && !problem.retryable) this._standing.refused(row.id, problem);
    if (taken === null) return;
    const known = this._safe?.id === row.id; // sent twice: by itself, and with what waited
    row.pending = false;
    if (this._newest?.id === row.id) this._newest.pending = false;
    if (row.tab === this._tab.id && !(this._safe && this._safe.id > row.id)) {
      this._safe = row;
      this._base = baseOf(taken.backupId, row.messages, row.partial);
    }
    if (!known) this._standing.saved(this._saved(row, /** @type {any} */ (taken.kind), taken.backupId));
  }

  /** @param {unknown} error */
  _failed(error) {
    if (!(error instanceof Problem)) throw error;
    if (error.away || error.retryable) this._away(error);
    else if (this.status.problem !== error) this._standing.refused(null, error);
  }

  /** @param {Problem} problem */
  _away(problem) {
    this._last.reset();
    this._standing.away(problem);
    if (this._stopping.signal.aborted) return;
    clearTimeout(this._retrying);
    this._retrying = setTimeout(() => void this.drain().catch(() => undefined), backoffMs(this._tries, Math.random()));
    this._tries += 1;
  }

  /** @param {number} drained */
  _back(drained) {
    clearTimeout(this._retrying);
    this._tries = 0;
    this._last.prepare().catch(() => undefined);
    if (this._standing.back(drained) && this._standing.pending > 0) void this.drain().catch(() => undefined);
  }

  async _count() {
    this._standing.pending = await this._kept.waiting(this.sessionId);
  }

  _listen() {
    const options = { signal: this._stopping.signal };
    const back = () => {
      if (!this._standing.online || this._standing.pending > 0) void this.drain().catch(() => undefined);
    };
    options.signal.addEventListener("abort", this._queue.on((outcome) => this._note(outcome)));
    addEventListener("online", back, options);
    addEventListener("pagehide", () => this._leave(true), options);
    addEventListener("pageshow", () => this._tab.show(), options);
    const seen = () => (document.visibilityState === "hidden" ? this._leave(false) : back());
    document.addEventListener("visibilitychange", seen, options);
  }

  /** Say the last words: what no server has yet. @param {boolean} closing */
  _leave(closing) {
    clearTimeout(this._changing);
    this._changing = undefined;
    const [before, row] = [this._newest, this._row(this._state(), false)];
    const empty = row.messages.length === 0 && row.draft === null;
    const known = [this._safe, before].find((each) => each && same(each, row));
    if (!empty && !known) {
      this._newest = row;
      this._kept.put(row, before?.working ? before.id : null).catch(() => undefined);
    }
    const said = known ?? row;
    if (!empty && said.pending) this._last.say(said, closing, (taken) => this._queue.note({ row: said, taken, problem: null }));
    if (closing) this._tab.hide();
  }
}
