/** How safe a backup is, as small signs: pinned, in the second copy, evicted, damaged. */

import { html } from "../vendor/preact.js";
import { Icon } from "./icons.js";
import { ago, moment, size } from "./numbers.js";
import { t } from "./words.js";

/** @typedef {import("./session_list.js").Backup} Backup */

/**
 * Return where the second copy of a backup stands, in one word: `off` where there is none.
 * @param {Backup} backup @returns {"off" | "whole" | "part" | "waiting" | "held" | "failed"}
 */
export function secondCopy({ remote }) {
  if (!remote) return "off";
  if (remote.given_up.length) return "failed";
  if (remote.waiting.length) return "waiting";
  if (remote.held !== null) return "held";
  return remote.checked && remote.stages.length ? "whole" : remote.stages.length ? "part" : "waiting";
}

const COPY = /** @type {const} */ ({
  whole: ["good", "cloud"],
  part: ["", "cloud"],
  waiting: ["", "upload"],
  held: ["warn", "pause"],
  failed: ["bad", "alert"],
});

/** The signs of a backup; `brief` leaves those out that are as they should be. @param {{backup: Backup, brief?: boolean}} props */
export function States({ backup, brief = false }) {
  const copy = secondCopy(backup);
  const missing = backup.absent_bytes - backup.damaged_bytes;
  return html`
    ${backup.pinned && html`<${Chip} kind="gold" icon="pin" text=${t("state.pinned")} />`}
    ${backup.damaged_bytes > 0 && html`<${Chip} kind="bad" icon="alert" text=${t("state.damaged")} title=${size(backup.damaged_bytes)} />`}
    ${(missing > 0 || backup.dropped_at !== null) &&
    html`<${Chip} kind="warn" icon="moon" text=${t(copy === "whole" || copy === "part" ? "state.evicted" : "state.dropped")} title=${size(missing)} />`}
    ${copy !== "off" && !(brief && copy === "whole") && html`<${Chip} kind=${COPY[copy][0]} icon=${COPY[copy][1]} text=${t(`copy.${copy}`)} />`}
  `;
}

/** @param {{kind?: string, icon?: string, text: string, title?: string}} props */
export function Chip({ kind = "", icon, text, title }) {
  return html`<span class=${`chip ${kind}`} title=${title ?? text}>${icon && html`<${Icon} name=${icon} />`}<span>${text}</span></span>`;
}

/** A time as it is read, and in full when it is pointed at. @param {{at: number}} props */
export function Time({ at }) {
  return html`<time class="number" datetime=${new Date(at * 1000).toISOString()} title=${moment(at)}>${ago(at)}</time>`;
}

/** How a session is called: by its title, by how it begins, by its id. @param {{title?: string | null, session_id: string}} session */
export function nameOf({ title, session_id }) {
  return title || session_id;
}
