/** Short news at the edge of the page: said aloud politely, with an action where there is one. */

import { html, signal } from "../vendor/preact.js";
import { Icon } from "./icons.js";
import { Problem } from "./session.js";
import { t } from "./words.js";

/** @typedef {{label: string, run: () => void}} Action */
/** @typedef {{id: number, text: string, more?: string, kind: "ok" | "bad" | "news", action?: Action}} Toast */

const STAYS_MS = 6000;
const MOST = 4;

export const toasts = signal(/** @type {Toast[]} */ ([]));
let made = 0;
/** @type {Map<number, number>} */
const ends = new Map();

/**
 * Say something. What offers an action stays longer; what went wrong stays until it is closed.
 * @param {string} text @param {{more?: string, kind?: Toast["kind"], action?: Action, stays_ms?: number}} [how]
 * @returns {number} its id, for `close`
 */
export function toast(text, { more, kind = "news", action, stays_ms } = {}) {
  const id = ++made;
  toasts.value = [...toasts.value.slice(-(MOST - 1)), { id, text, more, kind, action }];
  const stays = stays_ms ?? (kind === "bad" ? 0 : action ? 2 * STAYS_MS : STAYS_MS);
  if (stays) later(id, stays);
  return id;
}

/** Say what went wrong. @param {unknown} error */
export function failed(error) {
  const { text, more } = inWords(error);
  toast(text, { more, kind: "bad" });
}

/** Return an error as a sentence and what to do. @param {unknown} error @returns {{text: string, more?: string}} */
export function inWords(error) {
  if (error instanceof Problem) return { text: error.message, more: error.hint };
  if (error instanceof TypeError) return { text: t("failed.offline") }; // fetch says no more of it
  return { text: t("failed.title"), more: error instanceof Error ? error.message : String(error) };
}

/** Take one away. @param {number} id */
export function close(id) {
  clearTimeout(ends.get(id));
  ends.delete(id);
  toasts.value = toasts.value.filter((each) => each.id !== id);
}

/** @param {number} id @param {number} stays */
function later(id, stays) {
  clearTimeout(ends.get(id));
  ends.set(id, setTimeout(() => close(id), stays));
}

/** The news of now. While the pointer or the focus is on one, it stays. */
export function Toasts() {
  return html`<div class="toasts" role="status" aria-live="polite">
    ${toasts.value.map(
      (each) => html`<div
        key=${each.id}
        class=${`toast ${each.kind}`}
        onPointerEnter=${() => clearTimeout(ends.get(each.id))}
        onFocusIn=${() => clearTimeout(ends.get(each.id))}
        onPointerLeave=${() => ends.has(each.id) && later(each.id, STAYS_MS)}
        onFocusOut=${() => ends.has(each.id) && later(each.id, STAYS_MS)}
      >
        <div class="grow">
          <strong>${each.text}</strong>
          ${each.more && html`<p>${each.more}</p>`}
        </div>
        ${each.action &&
        html`<button
          class="button small"
          onClick=${() => {
            close(each.id);
            each.action?.run();
          }}
        >
          ${each.action.label}
        </button>`}
        <button class="plain" aria-label=${t("close")} onClick=${() => close(each.id)}><${Icon} name="close" /></button>
      </div>`,
    )}
  </div>`;
}
