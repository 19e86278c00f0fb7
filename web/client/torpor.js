/** Torpor in a page: connect to the routes of backups, and let a session back itself up. Types: torpor.d.ts. */

import { SessionBackup } from "./backup.js";
import { Kept } from "./kept.js";
import { pair } from "./pairing.js";
import { Queue } from "./queue.js";
import { Tab } from "./tabs.js";
import { Problem, Wire } from "./wire.js";

export { Problem };

const TIMEOUT_MS = 15_000;

/** @typedef {import("./torpor.d.ts").Torpor} Torpor */

/** @implements {Torpor} */
class Connection {
  /** @param {string | URL} base @param {number} timeoutMs */
  constructor(base, timeoutMs) {
    this._wire = new Wire(base, timeoutMs);
    this._kept = new Kept(this._wire.base);
    this._tab = new Tab();
    this._queue = new Queue(this._wire, this._kept, this._tab);
    /** @type {Set<SessionBackup>} */
    this._backups = new Set();
  }

  get base() {
    return this._wire.base;
  }

  get paired() {
    return !this._wire.guest || this._wire.token !== null;
  }

  /** @param {import("./torpor.d.ts").PairOptions} options */
  async pair(options) {
    await pair(this._wire, options);
    await Promise.all([...this._backups].map((backup) => backup.paired()));
  }

  unpair() {
    this._wire.token = null;
  }

  /** @param {import("./torpor.d.ts").BackupOptions<any>} options @returns {import("./torpor.d.ts").Backup<any>} */
  autoBackup(options) {
    const backup = new SessionBackup(options, this._wire, this._kept, this._tab, this._queue);
    this._backups.add(backup);
    backup.stopped.addEventListener("abort", () => this._backups.delete(backup));
    return backup;
  }
}

/** @type {typeof import("./torpor.d.ts").connect} */
export function connect({ base = "/api/backup", timeoutMs = TIMEOUT_MS } = {}) {
  return new Connection(base, timeoutMs);
}
