/** What can be gone back to: backups of the server, and what this browser alone has. */

import { textOf } from "./items.js";
import { Problem } from "./wire.js";

/**
 * @typedef {import("./items.js").Row} Row
 * @typedef {import("./torpor.d.ts").Plan} Plan
 * @typedef {import("./torpor.d.ts").Point} Point
 * @typedef {import("./torpor.d.ts").Restored} Restored
 */

const RESTORE_MS = 600_000;
const NOTHING = ["session-not-found", "backup-not-found", "not-found"];

export class History {
  /** @param {string} sessionId @param {import("./wire.js").Wire} wire @param {import("./kept.js").Kept} kept */
  constructor(sessionId, wire, kept) {
    this._sessionId = sessionId;
    this._wire = wire;
    this._kept = kept;
  }

  /** Return the points, newest first. @param {number} limit @returns {Promise<Point[]>} */
  async points(limit) {
    const rows = await this._kept.ofSession(this._sessionId);
    try {
      const path = `points/${encodeURIComponent(this._sessionId)}?limit=${limit}`;
      const found = (await this._wire.json("GET", path)).points.map(pointOf);
      const waiting = rows.filter((row) => row.pending).map(localPoint);
      return [...waiting, ...found].sort((a, b) => b.createdAt - a.createdAt).slice(0, limit);
    } catch (error) {
      const there = error instanceof Problem && (error.away || NOTHING.includes(error.code));
      if (!there || (rows.length === 0 && error.away)) throw error;
      return rows.map(localPoint).slice(0, limit);
    }
  }

  /** @param {Point | string} point @returns {Promise<Plan>} */
  async plan(point) {
    const id = typeof point === "string" ? point : point.id;
    if (typeof point !== "string" && point.local) return localPlan();
    const found = await this._wire.json("GET", `plan/${encodeURIComponent(id)}`);
    const { mode, words = [], phrases = [], sentence = words.join(", "), seconds = null, exact = false } = found;
    const { tokens_reused: tokensReused = 0, tokens_prefill: tokensPrefill = 0, bytes_read: bytesRead = null } = found;
    return { mode, sentence, words, phrases, tokensReused, tokensPrefill, seconds, bytesRead, exact };
  }

  /**
   * Restore a point, or the newest state, which may be one that the server has not taken. Where nobody answers, this
   * browser's newest comes back, and `problem` says why.
   * Raises: Problem, where nothing can come back from here either.
   * @param {Point | string | undefined} point
   * @returns {Promise<{restored: Restored | null, problem: Problem | null}>}
   */
  async restore(point) {
    const rows = await this._kept.ofSession(this._sessionId);
    const id = typeof point === "object" ? point.id : point;
    const local = id === undefined ? rows[0] : rows.find((row) => row.id === id);
    if (typeof point === "object" && point.local && local !== undefined) return { restored: fromHere(local), problem: null };
    try {
      const restored = await this._fromServer(id ?? this._sessionId);
      const newest = id === undefined ? rows.find((row) => !row.working) : undefined;
      const waits = newest !== undefined && newest.pending && isLater(newest, restored); // the server had no room for it
      return { restored: waits ? fromHere(newest) : restored, problem: null };
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      const nothing = NOTHING.includes(error.code);
      if (local !== undefined && (error.away || nothing || error.status >= 500)) { // damaged there, and well here
        return { restored: fromHere(local), problem: error.away ? error : null };
      }
      if (nothing && id === undefined) return { restored: null, problem: null };
      throw error;
    }
  }

  /** @param {string} backupId @param {number} index @returns {Promise<Blob>} */
  async media(backupId, index) {
    return (await this._wire.call("GET", `media/${encodeURIComponent(backupId)}/${index}`)).blob();
  }

  /** @param {string} id @returns {Promise<Restored>} */
  async _fromServer(id) {
    const path = `restore/${encodeURIComponent(id)}`;
    try {
      return restoredOf(await this._wire.json("POST", path, {}, { timeoutMs: RESTORE_MS }));
    } catch (error) {
      if (!(error instanceof Problem) || error.code !== "no-process") throw error;
      return restoredOf(await this._wire.json("POST", `${path}?text=1`, {}));
    }
  }
}

/** @param {any} found @returns {Point} */
function pointOf(found) {
  const { backup_id: id, created_at: createdAt, messages = 0, partial = false, preview = "" } = found;
  const { tokens = null, layers = [], pinned = false } = found;
  return { id, createdAt, messages, partial, tokens, layers, pinned, preview: preview ?? "", local: false };
}

/** @param {Row} row @returns {Point} */
function localPoint(row) {
  const preview = textOf(row.messages.at(-1) ?? { role: "", content: row.draft ?? "" }).slice(0, 200);
  const { id, created_at: createdAt, messages, partial } = row;
  const rest = { tokens: null, layers: ["text_context"], pinned: false, local: true };
  return { id, createdAt, messages: messages.length, partial, preview, ...rest };
}

/** @returns {Plan} */
function localPlan() {
  const text = "the text comes back from this browser";
  const said = { sentence: "The text comes back from this browser.", words: [text], phrases: [{ code: "local", text, values: {} }] };
  return { mode: "local", ...said, tokensReused: 0, tokensPrefill: 0, seconds: 0, bytesRead: 0, exact: true };
}

/** @param {Row} row @returns {Restored} */
function fromHere(row) {
  const { session_id: sessionId, created_at: createdAt, own, messages, draft, partial, base } = row;
  const conversation = own ?? messages;
  return { mode: "local", sessionId, backupId: base, createdAt, conversation, draft, partial, images: [], plan: null, local: true };
}

/** Tell whether a state goes on from what the server has, or was said later. @param {Row} row @param {Restored} found */
function isLater(row, found) {
  return row.base === found.backupId || row.created_at > found.createdAt;
}

/** @param {any} found @returns {Restored} */
function restoredOf(found) {
  const { mode, session_id: sessionId, backup_id: backupId, created_at: createdAt, conversation = [], draft = null } = found;
  const images = (found.images ?? []).map((/** @type {any} */ image) => ({
    index: image.index,
    mediaType: image.media_type,
    sizeBytes: image.size_bytes,
  }));
  const { plan = null, partial = false } = found;
  return { mode, sessionId, backupId, createdAt, conversation, draft, partial, images, plan: plan && planOf(plan), local: false };
}

/** @param {any} plan @returns {NonNullable<Restored["plan"]>} */
function planOf({ mode, notes = [], tokens_reused = 0, tokens_prefill = 0, seconds = null }) {
  return { mode, notes, tokensReused: tokens_reused, tokensPrefill: tokens_prefill, seconds };
}
