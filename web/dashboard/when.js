/** A time as text: relative, with the absolute one in its title. */

import { html } from "../vendor/preact.js";
import { ago, moment } from "./numbers.js";

/** @param {{at: number}} props seconds since the epoch */
export function When({ at }) {
  return html`<time datetime=${new Date(at * 1000).toISOString()} title=${moment(at)}>${ago(at)}</time>`;
}
