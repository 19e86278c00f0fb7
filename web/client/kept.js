/** States kept in this browser (IndexedDB): the newest few of each session, and all that no server has taken yet. */

import { openDB } from "../vendor/idb.js";
import { covers } from "./items.js";
import { ulid } from "./ulid.js";

/** @typedef {import("./items.js").Row} Row */

const KEEP = 3;
const OLD_MS = 7 * 24 * 3600 * 1000;
const STORE = "states";

export class Kept {
  /** @param {string} base each place of backups has a database of its own */
  constructor(base) {
    this._name = `torpor ${base}`;
    /** @type {Promise<import("../vendor/idb.js").IDBPDatabase> | null} */
    this._opening = null;
    /** @type {Map<string, Row>} */
    this._unkept = new Map(); // what this browser would not store; it is here until a server has it
  }

  /**
   * Keep a state, durably on return. Earlier states that it covers wait no longer; old ones go.
   * Raises: DOMException (`QuotaExceededError` and others), and then it is kept in memory.
   * @param {Row} row @param {string | null} [instead] id of a state that it takes the place of
   */
  async put(row, instead = null) {
    this._unkept.set(row.id, row);
    try {
      await this._put(row, instead, KEEP);
    } catch (error) {
      if (!isFull(error)) throw error;
      await this._put(row, instead, 1); // rather the newest alone than none
    }
    this._unkept.delete(row.id);
    if (instead !== null && instead !== row.id) this._unkept.delete(instead);
  }

  /** @param {Row} row @param {string | null} instead @param {number} keep */
  async _put(row, instead, keep) {
    const db = await this._db();
    const tx = db.transaction(STORE, "readwrite", { durability: row.working ? "relaxed" : "strict" });
    const done = tx.done;
    done.catch(() => undefined); // it is awaited below, or what fails before it is raised
    if (instead !== null && instead !== row.id) tx.store.delete(instead);
    const stored = keep < KEEP ? null : tx.store.put(row);
    /** @type {Row[]} */
    const others = (await tx.store.index("session").getAll(row.session_id)).filter((each) => each.id !== row.id);
    const { gone, settled } = made(row, others, keep);
    for (const each of gone) tx.store.delete(each.id);
    for (const each of settled) tx.store.put({ ...each, pending: false });
    await (stored ?? tx.store.put(row));
    await done;
  }

  /** Return the states of a session, newest first. @param {string} sessionId @returns {Promise<Row[]>} */
  async ofSession(sessionId) {
    return this._with([...this._unkept.values()].filter((row) => row.session_id === sessionId), async (db) =>
      db.getAllFromIndex(STORE, "session", sessionId),
    );
  }

  /** Return what no server has taken yet, oldest first. @returns {Promise<Row[]>} */
  async pending() {
    const rows = await this._with([...this._unkept.values()], async (db) => db.getAll(STORE));
    return rows.filter((row) => row.pending).reverse();
  }

  /** Note that a server has a state. @param {string} id */
  async taken(id) {
    this._unkept.delete(id);
    await this._change(id, { pending: false });
  }

  /** Note that a server does not want a state. @param {string} id @param {{code: string, detail: string}} refused */
  async refuse(id, refused) {
    await this._change(id, { refused });
  }

  /** Remove the states of a session. @param {string} sessionId */
  async forget(sessionId) {
    for (const row of this._unkept.values()) if (row.session_id === sessionId) this._unkept.delete(row.id);
    const tx = (await this._db()).transaction(STORE, "readwrite");
    for (const id of await tx.store.index("session").getAllKeys(sessionId)) tx.store.delete(id);
    await tx.done;
  }

  /** Remove what no server waits for and is older than a week. @param {number} now in milliseconds */
  async tidy(now) {
    const tx = (await this._db()).transaction(STORE, "readwrite");
    const old = IDBKeyRange.upperBound(ulid(now - OLD_MS, new Uint8Array(10)));
    for await (const cursor of tx.store.iterate(old)) if (!cursor.value.pending) cursor.delete();
    await tx.done;
  }

  /** @param {string} id @param {Partial<Row>} change */
  async _change(id, change) {
    const db = await this._db().catch(() => null);
    if (db === null) return;
    const tx = db.transaction(STORE, "readwrite");
    const row = await tx.store.get(id);
    if (row !== undefined) tx.store.put({ ...row, ...change });
    await tx.done;
  }

  /** @param {Row[]} unkept @param {(db: import("../vendor/idb.js").IDBPDatabase) => Promise<Row[]>} read @returns {Promise<Row[]>} */
  async _with(unkept, read) {
    const stored = await this._db().then(read, () => []);
    const ids = new Set(stored.map((row) => row.id));
    return [...stored, ...unkept.filter((row) => !ids.has(row.id))].sort((a, b) => (a.id < b.id ? 1 : -1));
  }

  /** Open the database; one that closes is opened again. */
  _db() {
    this._opening ??= openDB(this._name, 1, {
      upgrade: (db) => {
        db.createObjectStore(STORE, { keyPath: "id" }).createIndex("session", "session_id");
      },
      blocking: (_old, _new, event) => {
        /** @type {IDBDatabase} */ (event.target).close(); // somebody removes it, or a later version of the page is open
        this._opening = null;
      },
      terminated: () => (this._opening = null),
    });
    this._opening.catch(() => (this._opening = null));
    return this._opening;
  }
}

/**
 * Decide what becomes of the earlier states of a session: what the new one covers waits no longer, and what neither
 * waits nor is among the newest, goes.
 * @param {Row} row @param {Row[]} others @param {number} keep
 * @returns {{gone: Row[], settled: Row[]}}
 */
export function made(row, others, keep) {
  const settled = others.filter((each) => each.pending && covers(row, each));
  const waiting = new Set(others.filter((each) => each.pending && !settled.includes(each)));
  const newest = [...others].sort((a, b) => (a.id < b.id ? 1 : -1)).slice(0, keep - 1);
  const gone = others.filter((each) => !waiting.has(each) && !newest.includes(each));
  return { gone, settled: settled.filter((each) => !gone.includes(each)) };
}

/** @param {unknown} error */
function isFull(error) {
  return error instanceof DOMException && error.name === "QuotaExceededError";
}
