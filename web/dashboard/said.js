/**
 * What the daemon says in English, in the user's language: names of checks, settings and events by their codes, and
 * sentences that are seen often by their form. What is not known stays as the daemon wrote it, marked as English.
 */

import { html } from "../vendor/preact.js";
import { language } from "./words.js";
import zh from "./words/zh-CN-daemon.js";
import zhSentences from "./words/zh-CN-sentences.js";

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

/** @param {string} text */
const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** @type {Partial<Record<import("./words.js").Language, [RegExp, string][]>>} */
const SENTENCES = { "zh-CN": zhSentences.map(([english, told]) => [new RegExp(`^${english.split("{}").map(escaped).join("(.+)")}$`), told]) };

/**
 * Return a sentence of the daemon in the user's language, where its form is known.
 * @param {string} words @returns {{text: string, lang: import("./words.js").Language}}
 */
export function sentence(words) {
  for (const [form, told] of SENTENCES[language.value] ?? []) {
    const parts = form.exec(words);
    if (parts) return { text: told.split("{}").map((piece, index) => piece + (parts[index + 1] ?? "")).join(""), lang: language.value };
  }
  return { text: words, lang: "en" };
}

/** Those words as text, marked with their language for who hears it. @param {{code: string, words: string}} props */
export function Said({ code, words }) {
  const { text, lang } = said(code, words);
  return lang === language.value ? text : html`<span lang=${lang}>${text}</span>`;
}

/** What the daemon wrote, as it stands: paths, counts, reasons, and commands between backticks. @param {{words: string | null | undefined}} props */
export function Verbatim({ words }) {
  if (!words) return null;
  const { text, lang } = sentence(words);
  const parts = text.split(/`([^`]+)`/).map((part, index) => (index % 2 ? html`<code key=${index}>${part}</code>` : part));
  return lang === language.value ? parts : html`<span lang=${lang}>${parts}</span>`;
}
