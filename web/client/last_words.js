/** What a page says when it hides or closes: within 64 KiB, which is all that browsers send for it. */

import { fitting, itemOf, sizeOf } from "./items.js";

/**
 * @typedef {import("./items.js").PageItem} PageItem
 * @typedef {import("./wire.js").Wire} Wire
 */

const MOST_BYTES = 64 << 10; // of fetch with keepalive and of beacons together
const FRAME_BYTES = 512; // around the states: names, and the token of a beacon
const TOKENS = 4;

export class LastWords {
  /** @param {Wire} wire */
  constructor(wire) {
    this._wire = wire;
    this._flying = 0;
    /** @type {string[]} */
    this._tokens = [];
  }

  /** Have tokens for beacons ready, each for one use; a router of the page's own server gives none and needs none. */
  async prepare() {
    if (!this._wire.guest || this._wire.token === null || this._tokens.length >= TOKENS) return;
    const { tokens } = await this._wire.json("POST", "tokens", { count: TOKENS });
    this._tokens = tokens;
  }

  /** Forget the tokens: they are too old by now. */
  reset() {
    this._tokens = [];
  }

  /**
   * Say a state. While the page may still live, the answer is heard; one that closes sends a beacon, which needs no
   * preflight. What does not fit, or is not heard, waits for the next load.
   * @param {import("./items.js").Row} row @param {boolean} closing
   * @param {(taken: {backupId: string, kind: string}) => Promise<void>} heard
   */
  say(row, closing, heard) {
    const items = fitting([itemOf(row)], this._room());
    if (items.length === 0 || (closing && this._beacon(items))) return;
    this._send(items)
      .then(({ drained }) => {
        const took = drained.find((/** @type {any} */ each) => each.id === row.id);
        return took && heard({ backupId: took.backup_id, kind: took.kind });
      })
      .catch(() => this._beacon(items));
  }

  /** @param {PageItem[]} pending */
  async _send(pending) {
    const size = sizeOf({ pending });
    this._flying += size;
    try {
      return await this._wire.json("POST", "drain", { pending }, { keepalive: true });
    } finally {
      this._flying -= size;
    }
  }

  /** Returns whether the browser took it. @param {PageItem[]} pending */
  _beacon(pending) {
    if (this._wire.guest && this._tokens.length === 0) return false;
    const body = this._wire.guest ? { pending, token: this._tokens.pop() } : { pending };
    return navigator.sendBeacon(`${this._wire.base}/drain`, JSON.stringify(body)); // a string goes as text/plain
  }

  _room() {
    return MOST_BYTES - FRAME_BYTES - this._flying;
  }
}
