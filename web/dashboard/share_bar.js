/** What takes how much of a whole, as one bar; the table beside it says the same, with the colours as its key. */

import { html } from "../vendor/preact.js";

/**
 * @typedef {object} Part
 * @property {string} name
 * @property {string} colour a class: `k1` to `k8`, `rest`
 * @property {number} value
 */

const THINNEST = 0.4; // per cent: what is there is seen

/**
 * @param {{parts: Part[], whole: number, summary: string, marks?: {at: number, kind: string}[]}} props
 *   `whole` is the length of the bar, in the unit of the parts; marks are lines across it
 */
export function ShareBar({ parts, whole, summary, marks = [] }) {
  let left = 0;
  const full = Math.max(whole, parts.reduce((sum, each) => sum + each.value, 0), 1);
  const there = parts.filter((each) => each.value > 0);
  const per = (/** @type {number} */ value) => (100 * value) / full;
  return html`<svg class="share-bar" role="img" aria-label=${summary} width="100%" height="34">
    <rect class="track" x="0" y="4" width="100%" height="26" rx="6" />
    ${there.map((each) => {
      const wide = Math.max(per(each.value), THINNEST);
      const at = left;
      left += wide;
      return html`<rect key=${each.name} class=${`part ${each.colour}`} x=${`${at}%`} y="4" width=${`${Math.min(wide, 100 - at)}%`} height="26" />`;
    })}
    ${marks.map((each) => html`<line key=${each.kind} class=${`limit ${each.kind}`} x1=${`${Math.min(per(each.at), 99.8)}%`} x2=${`${Math.min(per(each.at), 99.8)}%`} y1="0" y2="34" />`)}
  </svg>`;
}

/** A part as a bar in a cell of a table; the number stands beside it. @param {{value: number, most: number, inside?: number}} props */
export function CellBar({ value, most, inside = 0 }) {
  const per = (/** @type {number} */ of) => `${Math.min((100 * of) / Math.max(most, 1), 100)}%`;
  return html`<svg class="cell-bar" width="100%" height="8" aria-hidden="true" focusable="false">
    <rect class="track" width="100%" height="8" rx="4" />
    <rect class="whole" width=${per(value)} height="8" rx="4" />
    ${inside > 0 && html`<rect class="inside" width=${per(inside)} height="8" rx="4" />`}
  </svg>`;
}

/** The colour of a part, for the key. @param {{colour: string}} props */
export function Swatch({ colour }) {
  return html`<svg class=${`swatch ${colour}`} width="12" height="12" aria-hidden="true" focusable="false"><rect width="12" height="12" rx="3" /></svg>`;
}
