/** Light, dark, or as the system says: kept in localStorage and set on the root element (first.js sets it at the start). */

import { effect, signal } from "../vendor/preact.js";

/** @typedef {"system" | "light" | "dark"} Theme */

const KEPT = "torpor.theme";
const ORDER = /** @type {Theme[]} */ (["system", "light", "dark"]);

const kept = localStorage.getItem(KEPT);

/** The chosen theme. */
export const theme = signal(/** @type {Theme} */ (kept === "light" || kept === "dark" ? kept : "system"));

/** Go on to the next theme. */
export function nextTheme() {
  theme.value = ORDER[(ORDER.indexOf(theme.value) + 1) % ORDER.length];
}

effect(() => {
  if (theme.value === "system") {
    delete document.documentElement.dataset.theme;
    localStorage.removeItem(KEPT);
  } else {
    document.documentElement.dataset.theme = theme.value;
    localStorage.setItem(KEPT, theme.value);
  }
});
