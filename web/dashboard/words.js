/** What the page says, in the user's language: catalogs with equal keys, one file a language and area. */

import { effect, signal } from "../vendor/preact.js";
import en from "./words/en.js";
import enPages from "./words/en-pages.js";
import zh from "./words/zh-CN.js";
import zhPages from "./words/zh-CN-pages.js";

/** @typedef {"en" | "zh-CN"} Language */
/** @typedef {string | {one: string, other: string}} Phrase */

const KEPT = "torpor.language";

/** @type {Record<Language, Record<string, Phrase>>} */
export const CATALOGS = { en: { ...en, ...enPages }, "zh-CN": { ...zh, ...zhPages } };

/** The languages by their own names. @type {Record<Language, string>} */
export const LANGUAGES = { en: "English", "zh-CN": "简体中文" };

/** The language in use. */
export const language = signal(/** @type {Language} */ (document.documentElement.lang === "zh-CN" ? "zh-CN" : "en"));

/** Speak this one from now on. @param {Language} chosen */
export function speak(chosen) {
  language.value = chosen;
  localStorage.setItem(KEPT, chosen); // a language is no secret
}

effect(() => {
  document.documentElement.lang = language.value;
});

/**
 * Say a phrase. `{name}` in it is filled in; a phrase with `one` and `other` is chosen by `n`; numbers are written as
 * the language does.
 * @param {string} key @param {Record<string, string | number>} [values] @returns {string}
 */
export function t(key, values = {}) {
  const phrase = CATALOGS[language.value][key] ?? CATALOGS.en[key];
  if (phrase === undefined) return key.slice(key.indexOf(".") + 1); // a word of a newer daemon
  const text = typeof phrase === "string" ? phrase : phrase[plural(Number(values.n))];
  return text.replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name];
    return typeof value === "number" ? value.toLocaleString(language.value) : String(value ?? "");
  });
}

/** Tell whether there is such a phrase, for codes that a newer daemon may send. @param {string} key */
export function says(key) {
  return key in CATALOGS.en;
}

/** @param {number} n @returns {"one" | "other"} */
function plural(n) {
  return new Intl.PluralRules(language.value).select(n) === "one" ? "one" : "other";
}
