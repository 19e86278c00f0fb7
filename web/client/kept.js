/**
 * States kept in this browser (IndexedDB): the newest few of each session, and all that no server has taken yet.
 *
 * What a state is stands apart from what it says, so that a long conversation is neither read nor written again because
 * it was sent. A state is written in a transaction of its own, which ends at once: the page may be closing.
 */

import { openDB } from "../vendor/idb.js";
import { covers } from "./items.js";
import { timeOf, ulid } from "./ulid.js";

/** @typedef {import("./items.js").Row} Row */

/** @typedef {Pick<Row, "id" | "session_id" | "created_at" | "tab" | "working" | "pending" | "refused">} Head */
/** @typedef {import("../vendor/idb.js").IDBPDatabase} Database */

const KEEP = 3;
const OLD_MS = 7 * 24 * 3600 * 1000;
const STORES = ["heads", "bodies"];
const KNOWN = 8; // states of this tab whose words need not be read again

export class Kept {
  /** @param {string} base each place of backups has a database of its own */
  constructor(base) {
    this._name = `torpor ${base}`;
    /** @type {Promise<Database> | null} */
    this._opening = null;
    /** @type {Database | null} */
    this._open = null;
    /** @type {Map<string, Row>} */
    this._unkept = new Map(); // what is not stored yet, or what this browser would not store
    /** @type {Map<string, Row>} */
    this._known = new Map();
  }

  /**
   * Keep a state, durably on return. Earlier states that it covers wait no longer; old ones go.
   * Raises: DOMException (`QuotaExceededError` and others), and then it is kept in memory.
   * @param {Row} row @param {string | null} [instead] id of a state that it takes the place of
   */
  async put(row, instead = null) {
    for (const each of this._unkept.values()) if (covers(row, each)) this._unkept.delete(each.id);
    this._unkept.set(row.id, row);
    this._known.set(row.id, row);
    if (this._known.size > KNOWN) this._known.delete([...this._known.keys()][0]);
    try {
      await this._write(row, instead);
    } catch (error) {
      if (!isFull(error)) throw error;
      await this._settle(row, 1); // rather the newest alone than none
      await this._write(row, instead);
    }
    this._unkept.delete(row.id);
    if (instead !== null) this._unkept.delete(instead);
    await this._settle(row, KEEP).catch(() => undefined); // the state is kept; the next one tidies up
  }

  /** Return the states of a session, newest first. @param {string} sessionId @returns {Promise<Row[]>} */
  ofSession(sessionId) {
    return this._rows((head) => head.session_id === sessionId);
  }

  /** Return what no server has taken yet, oldest first. @returns {Promise<Row[]>} */
  async pending() {
    return (await this._rows((head) => head.pending)).reverse();
  }

  /** Count what no server has taken of a session yet, but for work in progress. @param {string} sessionId */
  async waiting(sessionId) {
    const wanted = (/** @type {Head} */ head) => head.session_id === sessionId && head.pending && !head.working;
    const stored = await this._db().then((db) => db.getAll("heads"), () => []);
    const heads = new Map([...stored, ...this._unkept.values()].map((head) => [head.id, head]));
    return [...heads.values()].filter(wanted).length;
  }

  /** Return when the newest state of a session was made, in milliseconds; 0 without one. @param {string} sessionId */
  async newestMs(sessionId) {
    /** @type {Head[]} */
    const heads = await (await this._db()).getAll("heads");
    return Math.max(0, ...heads.filter((head) => head.session_id === sessionId).map((head) => timeOf(head.id)));
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
    await this._remove((head) => head.session_id === sessionId);
  }

  /** Remove what no server waits for and is older than a week. @param {number} now in milliseconds */
  async tidy(now) {
    const oldest = ulid(now - OLD_MS, new Uint8Array(10));
    await this._remove((head) => !head.pending && head.id < oldest);
  }

  /** @param {Row} row @param {string | null} instead */
  async _write(row, instead) {
    const { id, session_id, created_at, tab, working, pending, refused, ...body } = row;
    const db = this._open ?? (await this._db()); // without a pause where it can be
    const tx = db.transaction(STORES, "readwrite", { durability: working ? "relaxed" : "strict" });
    const [heads, bodies] = [tx.objectStore("heads"), tx.objectStore("bodies")];
    const done = [heads.put({ id, session_id, created_at, tab, working, pending, refused }), bodies.put(body, id)];
    if (instead !== null && instead !== id) done.push(heads.delete(instead), bodies.delete(instead));
    for (const each of done) each.catch(() => undefined); // what fails fails `tx.done`
    tx.commit();
    await tx.done;
  }

  /** Let go of what a new state makes needless. @param {Row} row @param {number} keep */
  async _settle(row, keep) {
    const tx = (await this._db()).transaction(STORES, "readwrite");
    const [heads, bodies] = [tx.objectStore("heads"), tx.objectStore("bodies")];
    /** @type {Head[]} */
    const all = await heads.getAll();
    const others = all.filter((head) => head.session_id === row.session_id && head.id < row.id); // a later one may say less
    const covered = new Set();
    for (const head of others.filter((each) => each.pending)) {
      const earlier = this._known.get(head.id) ?? { ...head, ...(await bodies.get(head.id)) };
      if (covers(row, earlier)) covered.add(head.id);
    }
    const { gone, settled } = made(others, covered, keep);
    for (const { id } of gone) await Promise.all([heads.delete(id), bodies.delete(id)]);
    for (const head of settled) await heads.put({ ...head, pending: false });
    await tx.done;
  }

  /** @param {string} id @param {Partial<Head>} change */
  async _change(id, change) {
    const db = await this._db().catch(() => null);
    if (db === null) return;
    const tx = db.transaction("heads", "readwrite");
    const head = await tx.store.get(id);
    if (head !== undefined) await tx.store.put({ ...head, ...change });
    await tx.done;
  }

  /** @param {(head: Head) => boolean} which */
  async _remove(which) {
    const tx = (await this._db()).transaction(STORES, "readwrite");
    /** @type {Head[]} */
    const all = await tx.objectStore("heads").getAll();
    for (const { id } of all.filter(which)) {
      await Promise.all([tx.objectStore("heads").delete(id), tx.objectStore("bodies").delete(id)]);
    }
    await tx.done;
  }

  /** Return states, newest first. @param {(head: Head) => boolean} which @returns {Promise<Row[]>} */
  async _rows(which) {
    const stored = await this._db().then((db) => readAll(db, which), () => []);
    const ids = new Set(stored.map((row) => row.id));
    const unkept = [...this._unkept.values()].filter((row) => which(row) && !ids.has(row.id));
    return [...stored, ...unkept].sort((a, b) => (a.id < b.id ? 1 : -1));
  }

  /** Open the database; one that was closed is opened again. */
  _db() {
    const closed = () => {
      this._open = this._opening = null;
    };
    this._opening ??= openDB(this._name, 1, {
      upgrade: (db) => {
        db.createObjectStore("heads", { keyPath: "id" });
        db.createObjectStore("bodies");
      },
      blocking: (_old, _new, event) => {
        /** @type {IDBDatabase} */ (event.target).close(); // somebody removes it, or a later version of the page is open
        closed();
      },
      terminated: closed,
    }).then((db) => (this._open = db));
    this._opening.catch(closed);
    return this._opening;
  }
}

/** @param {Database} db @param {(head: Head) => boolean} which @returns {Promise<Row[]>} */
async function readAll(db, which) {
  const tx = db.transaction(STORES, "readonly");
  const heads = (await tx.objectStore("heads").getAll()).filter(which);
  return Promise.all(heads.map(async (head) => ({ ...head, ...(await tx.objectStore("bodies").get(head.id)) })));
}

/**
 * Decide what becomes of the earlier states of a session: what the new one covers waits no longer, and what neither
 * waits nor is among the newest, goes.
 * @template {{id: string, pending: boolean}} T
 * @param {T[]} others @param {Set<string>} covered @param {number} keep how many are kept, the new one among them
 * @returns {{gone: T[], settled: T[]}}
 */
export function made(others, covered, keep) {
  const newest = new Set([...others].sort((a, b) => (a.id < b.id ? 1 : -1)).slice(0, keep - 1));
  const gone = others.filter((each) => !newest.has(each) && (!each.pending || covered.has(each.id)));
  return { gone, settled: others.filter((each) => newest.has(each) && each.pending && covered.has(each.id)) };
}

/** @param {unknown} error */
function isFull(error) {
  return error instanceof DOMException && error.name === "QuotaExceededError";
}
