/** The keyboard: keys that components listen to while they are there, and the list of them. */

import { effect, html, signal, useEffect, useRef } from "../vendor/preact.js";
import { Dialog } from "./dialog.js";
import { t } from "./words.js";

const KEPT = "torpor.keys";

/** Whether single letters are shortcuts: who speaks to a computer may not want that (WCAG 2.1.4). */
export const letters = signal(localStorage.getItem(KEPT) !== "off");
effect(() => (letters.value ? localStorage.removeItem(KEPT) : localStorage.setItem(KEPT, "off")));

export const listed = signal(false);

/** @type {{keys: Record<string, (event: KeyboardEvent) => void>}[]} */
const stack = [];

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target instanceof Element && event.target.closest("input, textarea, select, [contenteditable]");
  if (typing && event.key !== "Escape") return;
  if (event.key.length === 1 && !letters.value) return;
  for (const { keys } of [...stack].reverse()) {
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key](event);
      return;
    }
  }
});

/**
 * Listen to keys while the component is there; the innermost one that knows a key has it.
 * @param {Record<string, (event: KeyboardEvent) => void>} keys by `event.key`
 */
export function useKeys(keys) {
  const mine = useRef({ keys });
  mine.current.keys = keys;
  useEffect(() => {
    stack.push(mine.current);
    return () => void stack.splice(stack.indexOf(mine.current), 1);
  }, []);
}

const LIST = [
  ["/", "keys.search"],
  ["↑ ↓ j k", "keys.move"],
  ["Enter", "keys.enter"],
  ["Esc", "keys.back"],
  ["1 – 6", "keys.pages"],
  ["r", "keys.restore"],
  ["p", "keys.pin"],
  ["Del", "keys.remove"],
  ["t", "keys.theme"],
  ["?", "keys.help"],
];

/** The list of keys, as a dialog. */
export function KeyList() {
  if (!listed.value) return null;
  return html`<${Dialog} title=${t("keys.title")} close=${() => (listed.value = false)}>
    <dl class="keys">
      ${LIST.map(([key, phrase]) => html`<div key=${phrase}><dt>${key.split(/ (?!–|6)/).map((each) => html`<kbd>${each}</kbd> `)}</dt><dd>${t(phrase)}</dd></div>`)}
    </dl>
    <label class="switch">
      <input type="checkbox" checked=${letters.value} onChange=${() => (letters.value = !letters.value)} />
      ${t("keys.on")}
    </label>
  <//>`;
}
