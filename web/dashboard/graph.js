/** The lanes of a history beside one of its rows: what passes by, what comes in, and what goes on to its parent. */

import { html } from "../vendor/preact.js";

const LANE = 18; // units of the drawing, in a row of 64
const HEIGHT = 64;
const MOST = 13;

/** Return how many lanes a row takes. @param {{lane: number, joins: boolean}} row */
export function lanesOf(row) {
  return Math.min(row.lane + 1, MOST);
}

/** @param {{row: import("./history_list.js").HistoryRow, lanes: number, chosen: boolean}} props */
export function Graph({ row, lanes, chosen }) {
  const x = (/** @type {number} */ lane) => LANE / 2 + lane * LANE;
  const at = x(row.lane);
  const middle = HEIGHT / 2;
  const backup = row.backup;
  const kind = row.place !== "here" ? row.place : backup?.damaged_bytes ? "damaged" : backup?.absent_bytes || backup?.dropped_at ? "evicted" : "whole";
  return html`<svg class=${`graph ${kind}${chosen ? " chosen" : ""}`} viewBox=${`0 0 ${lanes * LANE} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true" focusable="false">
    ${Array.from({ length: row.lane }, (_, lane) => html`<path key=${lane} class=${`lane l${lane % 6}`} d=${`M${x(lane)} 0V${HEIGHT}`} />`)}
    ${row.enters && html`<path class=${`lane l${row.lane % 6}`} d=${`M${at} 0V${middle}`} />`}
    ${row.leads && !row.joins && html`<path class=${`lane l${row.lane % 6}`} d=${`M${at} ${middle}V${HEIGHT}`} />`}
    ${row.joins && html`<path class=${`lane l${row.lane % 6}`} d=${`M${at} ${middle}C${at} ${HEIGHT - 10} ${x(row.lane - 1)} ${middle + 12} ${x(row.lane - 1)} ${HEIGHT}`} />`}
    ${row.place === "gone"
      ? html`<path class="end" d=${`M${at - 4} ${middle - 4}l8 8M${at + 4} ${middle - 4}l-8 8`} />`
      : html`<circle class=${`node l${row.lane % 6}`} cx=${at} cy=${middle} r=${chosen ? 6.5 : 5} />`}
  </svg>`;
}
