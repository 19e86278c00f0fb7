/** Numbers, sizes and times as people read them, in the language of the page. */

import { signal } from "../vendor/preact.js";
import { language } from "./words.js";

const UNITS = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte", "petabyte"];
const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
/** @type {[Intl.RelativeTimeFormatUnit, number][]} */
const STEPS = [["year", 31557600], ["month", 2629800], ["day", 86400], ["hour", 3600], ["minute", 60]];

/** The time now in seconds, as of the last beat: relative times follow it. */
export const now = signal(Date.now() / 1000);
setInterval(() => (now.value = Date.now() / 1000), 20_000);

/** @type {Map<string, any>} */
const made = new Map(); // formatters cost a tenth of a millisecond each to make

/** @template T @param {string} key @param {(language: string) => T} make @returns {T} */
function kept(key, make) {
  const name = `${language.value}/${key}`;
  if (!made.has(name)) made.set(name, make(language.value));
  return made.get(name);
}

/** Write a count. @param {number} value */
export function count(value) {
  return kept("count", (lang) => new Intl.NumberFormat(lang)).format(value);
}

/** Write a size in binary units, three digits at most: 1.25 MiB. @param {number} bytes */
export function size(bytes) {
  let value = Math.max(bytes, 0);
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  const number = kept(`size${digits}`, (lang) => new Intl.NumberFormat(lang, { maximumFractionDigits: digits }));
  return `${number.format(value)}\u00a0${BINARY[unit]}`;
}

/** Write a part of one as a percentage. @param {number} part */
export function percent(part) {
  return kept("percent", (lang) => new Intl.NumberFormat(lang, { style: "percent" })).format(part);
}

/** Write how many times as much something is: 3.4×. @param {number} ratio */
export function times(ratio) {
  return `${kept("times", (lang) => new Intl.NumberFormat(lang, { maximumFractionDigits: 1 })).format(ratio)}×`;
}

/** Write a time relative to now: 2 minutes ago. @param {number} at seconds since the epoch */
export function ago(at) {
  const passed = at - now.value;
  const relative = kept("ago", (lang) => new Intl.RelativeTimeFormat(lang, { numeric: "auto" }));
  for (const [unit, seconds] of STEPS) {
    if (Math.abs(passed) >= seconds) return relative.format(Math.trunc(passed / seconds), unit);
  }
  return relative.format(0, "second");
}

/** Write a time in full. @param {number} at seconds since the epoch */
export function moment(at) {
  return kept("moment", (lang) => new Intl.DateTimeFormat(lang, { dateStyle: "medium", timeStyle: "medium" })).format(at * 1000);
}

/** Write the time of a day. @param {number} at seconds since the epoch */
export function clock(at) {
  return kept("clock", (lang) => new Intl.DateTimeFormat(lang, { hour: "2-digit", minute: "2-digit" })).format(at * 1000);
}

/** Write a day. @param {number} at seconds since the epoch */
export function day(at) {
  return kept("day", (lang) => new Intl.DateTimeFormat(lang, { dateStyle: "medium" })).format(at * 1000);
}

/** Write how long something takes, roughly: 0.4 s, 40 s, 3 min. @param {number} seconds */
export function lasting(seconds) {
  const [value, unit] = seconds < 90 ? [seconds, "second"] : seconds < 5400 ? [seconds / 60, "minute"] : [seconds / 3600, "hour"];
  const digits = value < 9.95 && unit === "second" ? 1 : 0;
  return kept(`lasting/${unit}${digits}`, (lang) =>
    new Intl.NumberFormat(lang, { style: "unit", unit: /** @type {string} */ (unit), unitDisplay: "short", maximumFractionDigits: digits }),
  ).format(value);
}
