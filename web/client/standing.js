/** How a backup stands, and who is told: what the page shows. */

import { Events } from "./events.js";

/**
 * @typedef {import("./torpor.d.ts").Saved} Saved
 * @typedef {import("./torpor.d.ts").Status} Status
 * @typedef {import("./wire.js").Problem} Problem
 */

export class Standing {
  constructor() {
    this.events = new Events();
    /** @type {Status} */
    this._status = { phase: "idle", online: true, pending: 0, savedAt: null, problem: null };
  }

  /** @returns {Status} */
  get status() {
    return { ...this._status };
  }

  get online() {
    return this._status.online;
  }

  get pending() {
    return this._status.pending;
  }

  set pending(pending) {
    this._status.pending = pending;
  }

  /** @param {string} sessionId @param {boolean} full */
  saving(sessionId, full) {
    this._status.phase = "saving";
    this.events.emit("saving", { sessionId, full });
  }

  /** @param {Saved} saved */
  saved(saved) {
    Object.assign(this._status, { phase: "saved", savedAt: Date.now(), problem: null });
    this.events.emit("saved", saved);
  }

  /** A state, or the page itself, is refused. The same reason is not told again for the page. @param {string | null} id @param {Problem} problem */
  refused(id, problem) {
    const again = id === null && this._status.problem?.code === problem.code;
    Object.assign(this._status, { phase: "refused", problem });
    if (!again) this.events.emit("refused", { id, problem });
  }

  /** Nobody answers. @param {Problem} problem */
  away(problem) {
    const before = this._status.online;
    Object.assign(this._status, { phase: "queued", online: false, problem });
    if (before) this.events.emit("offline", { problem, pending: this._status.pending });
  }

  /** Somebody answers. Returns whether nobody did before. @param {number} drained */
  back(drained) {
    if (this._status.online) return false;
    Object.assign(this._status, { online: true, problem: null });
    if (this._status.phase === "queued") this._status.phase = "saved";
    this.events.emit("online", { drained });
    return true;
  }
}
