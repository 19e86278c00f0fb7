/**
 * How everything is, in the one sentence that the daemon decides on (`summary` of GET /v1/status): what is worst is said.
 * The same as the tray and `torpor status` say, in the language of the page (state/summary.py has the English).
 */

import { html } from "../vendor/preact.js";
import { Icon } from "./icons.js";
import { link, status } from "./live.js";
import { clock, day, now, size } from "./numbers.js";
import { href } from "./routes.js";
import { says, t } from "./words.js";

/**
 * @typedef {object} Summary
 * @property {"ok" | "busy" | "paused" | "offline" | "attention"} level
 * @property {string} kind
 * @property {number} sessions
 * @property {number | null} last_backup_at
 * @property {number} staying
 * @property {number} damaged
 * @property {string} sync
 * @property {number} waiting
 * @property {number} given_up
 * @property {number} removals_given_up
 * @property {number | null} paused_until
 * @property {number} disk_free_bytes
 * @property {number} waiting_for_power
 * @property {string[]} asking
 * @property {string} sentence as the daemon says it, in English
 */

const LOOKS = { ok: "check", busy: "upload", paused: "pause", offline: "cloud", attention: "alert" };
/** @type {Record<string, string>} the page that has more of it, by kind */
const PAGES = { damaged: "health", "disk-full": "storage", "quota-full": "storage", watch: "settings", pairing: "access", empty: "sessions", local: "sessions" };
const A_DAY_S = 20 * 3600, AHEAD_S = 120;

/** The sentence with its sign, as a link to where more of it stands. */
export function Standing() {
  const found = /** @type {Summary | undefined} */ (status.value?.summary);
  if (!found || link.value === "lost") return html`<p class="standing">\u00a0</p>`;
  return html`<a class=${`standing ${found.level}`} href=${href(PAGES[found.kind] ?? "sync")} title=${said(found)}>
    <${Icon} name=${LOOKS[found.level] ?? "info"} /><span>${said(found)}</span>
  </a>`;
}

/** Say a summary. One of a newer daemon is said in its own words. @param {Summary} found @returns {string} */
export function said(found) {
  const parts = /** @type {(string | false | null)[] | undefined} */ (WORDS[found.kind]?.(found));
  return parts ? parts.filter(Boolean).join(t("comma")) : found.sentence;
}

/** @type {Record<string, (found: Summary) => (string | false | null)[]>} */
const WORDS = {
  damaged: (found) => [t("all.damaged", { n: found.damaged })],
  "disk-full": (found) => [t("all.disk-full", { free: size(found.disk_free_bytes) })],
  "quota-full": () => [t("all.quota-full")],
  "given-up": (found) => [found.given_up ? t("all.given-up", { n: found.given_up }) : t("all.removals-given-up", { n: found.removals_given_up }), waiting(found)],
  refused: (found) => [t(says(`all.refused.${found.sync}`) ? `all.refused.${found.sync}` : "all.refused"), waiting(found)],
  watch: () => [t("all.watch")],
  pairing: ({ asking: [first, ...others] }) => [t("all.pairing", { origin: first }), others.length > 0 && t("all.others", { n: others.length })],
  paused: (found) => [found.paused_until === null ? t("all.paused") : t("all.paused_until", { time: until(found.paused_until) }), waiting(found)],
  offline: (found) => [t("all.offline"), waiting(found)],
  "storage-trouble": (found) => [t("all.storage-trouble"), waiting(found)],
  looking: (found) => [t("all.looking"), waiting(found)],
  sending: (found) => [found.sync !== "busy" ? t("all.to_send", { n: found.waiting }) : found.waiting ? t("all.sending", { n: found.waiting }) : t("all.sending_now")],
  empty: () => [t("all.empty")],
  safe: (found) => [...safe(found), last(found)].filter(Boolean).map((part, at, { length }) => at === length - 1 ? `${part}${power(found)}` : part),
  local: (found) => [t("all.local", { n: found.sessions }), last(found)],
};

/** @param {Summary} found */
function waiting(found) {
  return found.waiting > 0 && t("all.waiting", { n: found.waiting });
}

/** @param {Summary} found */
function safe({ sessions, staying }) {
  if (!staying) return [t("all.safe", { n: sessions })];
  return [t("all.safe_some", { n: sessions - staying }), t("all.staying", { n: staying })];
}

/** Nothing where the clock was set back since. @param {Summary} found */
function last(found) {
  return found.last_backup_at !== null && found.last_backup_at - now.value <= AHEAD_S && t("all.last", { ago: passed(now.value - found.last_backup_at) });
}

/** @param {Summary} found */
function power({ waiting_for_power: many }) {
  return many > 0 ? t("all.power", { n: many }) : "";
}

/** @param {number} at */
function until(at) {
  return at - now.value < A_DAY_S ? clock(at) : `${day(at)} ${clock(at)}`;
}

/** Write how long ago something was, briefly. @param {number} seconds */
function passed(seconds) {
  if (seconds < 45) return t("ago.now");
  if (seconds < 90 * 60) return t("ago.min", { n: Math.max(Math.round(seconds / 60), 1) });
  if (seconds < 36 * 3600) return t("ago.h", { n: Math.max(Math.round(seconds / 3600), 1) });
  return t("ago.days", { n: Math.round(seconds / 86_400) });
}
