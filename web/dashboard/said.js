/**
 * What the daemon says in English, in the user's language where the catalog knows it by its code: names of checks and
 * settings, states, kinds of events. Details that hold names and numbers stay as the daemon wrote them.
 */

import { html } from "../vendor/preact.js";
import { language } from "./words.js";
import zh from "./words/zh-CN-daemon.js";

/** @type {Partial<Record<import("./words.js").Language, Record<string, string>>>} */
const TOLD = { "zh-CN": zh };

/**
 * Return the daemon's words in the user's language, and the language that they are in then.
 * @param {string} key @param {string} words @returns {{text: string, lang: import("./words.js").Language}}
 */
export function said(key, words) {
  const known = TOLD[language.value]?.[key];
  return known === undefined ? { text: words, lang: "en" } : { text: known, lang: language.value };
}

/** Those words as text, marked with their language for who hears it. @param {{code: string, words: string}} props */
export function Said({ code, words }) {
  const { text, lang } = said(code, words);
  return lang === language.value ? text : html`<span lang=${lang}>${text}</span>`;
}

/** What the daemon wrote, as it stands: paths, counts, reasons, and commands between backticks. @param {{words: string | null | undefined}} props */
export function Verbatim({ words }) {
  if (!words) return null;
  const parts = words.split(/`([^`]+)`/).map((part, index) => (index % 2 ? html`<code key=${index}>${part}</code>` : part));
  return language.value === "en" ? parts : html`<span lang="en">${parts}</span>`;
}
