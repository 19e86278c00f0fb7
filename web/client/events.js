/** Listeners by kind of event; one that fails disturbs nobody. */

/** @typedef {import("./torpor.d.ts").BackupEvents} BackupEvents */

export class Events {
  constructor() {
    /** @type {Map<string, Set<(detail: any, type: any) => void>>} */
    this._listeners = new Map();
  }

  /**
   * Listen to a kind of event, or to all (`*`). Returns what ends it.
   * @param {string} type @param {(detail: any, type: any) => void} listener
   */
  on(type, listener) {
    const found = this._listeners.get(type) ?? new Set();
    this._listeners.set(type, found.add(listener));
    return () => void found.delete(listener);
  }

  /** @template {keyof BackupEvents} K @param {K} type @param {BackupEvents[K]} detail */
  emit(type, detail) {
    for (const kind of [type, "*"]) {
      for (const listener of this._listeners.get(kind) ?? []) {
        try {
          listener(detail, type);
        } catch (error) {
          reportError(error);
        }
      }
    }
  }
}
