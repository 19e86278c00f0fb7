/** A chart of one measure over time, as bars: drawn at its true size, with what lies under the pointer said beside it. */

import { html, useState } from "../vendor/preact.js";
import { useWidth } from "./measure.js";
import { every, ticks } from "./scales.js";

const HEIGHT = 220;
const TOP = 12;
const BOTTOM = 24;
const START = 62; // room for the labels of the values
const WIDEST = 34;
const LABEL_ROOM = 76;

/**
 * @typedef {object} Bar
 * @property {string} key
 * @property {number} value
 * @property {string} label under the bar
 * @property {[string, string][]} facts what is said of it: name and value
 * @property {string} title when it was, in full
 */

/**
 * The numbers stand in a table beside it for who cannot see it: `summary` says what it shows.
 * @param {{bars: Bar[], summary: string, write: (value: number) => string, binary?: boolean}} props
 */
export function BarChart({ bars, summary, write, binary }) {
  const [place, width] = useWidth();
  const [chosen, choose] = useState(-1);
  const inner = Math.max(width - START, 1);
  const slot = inner / Math.max(bars.length, 1);
  /** @param {PointerEvent} event */
  const point = (event) => {
    const left = /** @type {Element} */ (event.currentTarget).getBoundingClientRect().left;
    const index = Math.floor((event.clientX - left - START) / slot);
    choose(index >= 0 && index < bars.length ? index : -1);
  };
  return html`<div class="bar-chart" ref=${place}>
    ${width > 0 &&
    html`<svg
      role="img" aria-label=${summary} width=${width} height=${HEIGHT}
      onPointerMove=${point} onPointerDown=${point} onPointerLeave=${() => choose(-1)}
    >
      <${Grid} most=${Math.max(...bars.map((each) => each.value), 0)} width=${width} write=${write} binary=${binary}
        draw=${(/** @type {(value: number) => number} */ y) => html`<${Bars} bars=${bars} slot=${slot} y=${y} chosen=${chosen} />`} />
      <${Labels} bars=${bars} slot=${slot} inner=${inner} />
    </svg>`}
    ${chosen >= 0 && bars[chosen] && html`<${Tip} bar=${bars[chosen]} at=${START + (chosen + 0.5) * slot} width=${width} />`}
  </div>`;
}

/**
 * @param {{most: number, width: number, write: (value: number) => string, binary?: boolean, draw: (y: (value: number) => number) => any}} props
 */
function Grid({ most, width, write, binary, draw }) {
  const lines = ticks(most || 1, 4, binary);
  const top = lines[lines.length - 1];
  const y = (/** @type {number} */ value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  return html`${lines.map(
      (line) => html`<g key=${line}>
        <line class=${line ? "grid" : "axis"} x1=${START} x2=${width} y1=${y(line)} y2=${y(line)} />
        <text x=${START - 8} y=${y(line)} dy="0.32em" text-anchor="end">${write(line)}</text>
      </g>`,
    )}${draw(y)}`;
}

/** @param {{bars: Bar[], slot: number, y: (value: number) => number, chosen: number}} props */
function Bars({ bars, slot, y, chosen }) {
  const wide = Math.max(Math.min(slot * 0.72, WIDEST), 1);
  const round = Math.min(wide / 2, 3);
  return bars.map((bar, index) => {
    const left = START + index * slot + (slot - wide) / 2;
    const high = bar.value > 0 ? Math.max(y(0) - y(bar.value), 2) : 0;
    return html`<g key=${bar.key}>
      ${index === chosen && html`<rect class="under" x=${START + index * slot} y=${TOP} width=${slot} height=${y(0) - TOP} />`}
      ${high > 0 && html`<path class="bar" d=${standing(left, y(0), wide, high, Math.min(round, high))} />`}
    </g>`;
  });
}

/** Draw a bar whose upper corners are round. @param {number} x @param {number} base @param {number} wide @param {number} high @param {number} round */
function standing(x, base, wide, high, round) {
  const top = base - high;
  return `M${x} ${base}V${top + round}Q${x} ${top} ${x + round} ${top}H${x + wide - round}Q${x + wide} ${top} ${x + wide} ${top + round}V${base}Z`;
}

/** @param {{bars: Bar[], slot: number, inner: number}} props */
function Labels({ bars, slot, inner }) {
  const step = every(bars.length, inner, LABEL_ROOM);
  const last = bars.length - 1;
  return bars.map((bar, index) =>
    (last - index) % step || (START + (index + 0.5) * slot < START + LABEL_ROOM / 3 && index > 0)
      ? null
      : html`<text key=${bar.key} x=${Math.min(START + (index + 0.5) * slot, START + inner - LABEL_ROOM / 3)} y=${HEIGHT - 6} text-anchor="middle">${bar.label}</text>`,
  );
}

/** @param {{bar: Bar, at: number, width: number}} props */
function Tip({ bar, at, width }) {
  const before = at > width / 2;
  const style = before ? { right: `${width - at + 12}px` } : { left: `${at + 12}px` };
  return html`<div class="tip" style=${style} aria-hidden="true">
    <strong>${bar.title}</strong>
    <dl>${bar.facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
  </div>`;
}
