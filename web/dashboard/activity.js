/** What happened day by day, or hour by hour: one measure at a time as bars, all of them as a table. */

import { html, useRef, useState } from "../vendor/preact.js";
import { BarChart } from "./bar_chart.js";
import { Failed, useData, Waiting } from "./data.js";
import { count, day, size } from "./numbers.js";
import { json } from "./session.js";
import { language, t } from "./words.js";

const SPANS = /** @type {[string, number, "day" | "hour"][]} */ ([["day", 1, "hour"], ["week", 7, "day"], ["month", 30, "day"], ["year", 365, "day"]]);
const MEASURES = ["bytes_written", "backups", "restores"];

/** @typedef {{at: number, backups: number, bytes_written: number, restores: number}} Point */

export function Activity() {
  const [span, setSpan] = useState("month");
  const [measure, setMeasure] = useState("bytes_written");
  const [, days, step] = /** @type {[string, number, "day" | "hour"]} */ (SPANS.find(([name]) => name === span));
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  const { data, error, reload } = useData(
    (signal) => json("GET", `/v1/activity?days=${days}&step=${step}&zone=${encodeURIComponent(zone)}`, undefined, { signal }),
    [span],
  );
  const last = useRef(data); // stays until the next one is there: the page keeps its height
  last.current = data ?? last.current;
  return html`<section class="card activity" aria-labelledby="activity">
    <header>
      <h2 id="activity" class="grow">${t("activity.title")}</h2>
      <${Switch} label=${t("activity.measure")} names=${MEASURES} chosen=${measure} choose=${setMeasure} />
      <${Switch} label=${t("activity.span")} names=${SPANS.map(([name]) => name)} chosen=${span} choose=${setSpan} />
    </header>
    ${error && !data ? html`<${Failed} error=${error} retry=${reload} />` : !last.current ? html`<div class="bar-chart"><${Waiting} lines=${5} /></div>` : html`<${Chart} points=${last.current.points} measure=${measure} step=${last.current.step} />`}
  </section>`;
}

/** @param {{label: string, names: string[], chosen: string, choose: (name: string) => void}} props */
function Switch({ label, names, chosen, choose }) {
  return html`<div class="segments" role="group" aria-label=${label}>
    ${names.map((name) => html`<button key=${name} type="button" aria-pressed=${name === chosen} onClick=${() => choose(name)}>${t(`activity.${name}`)}</button>`)}
  </div>`;
}

/** @param {Point[]} points @param {string} measure */
const sum = (points, measure) => points.reduce((total, each) => total + valueOf(each, measure), 0);
/** @param {Point} point @param {string} measure */
const valueOf = (point, measure) => /** @type {any} */ (point)[measure];

/** @param {{points: Point[], measure: string, step: "day" | "hour"}} props */
function Chart({ points, measure, step }) {
  const write = measure === "bytes_written" ? size : count;
  /** @param {Point} point @returns {[string, string][]} */
  const facts = (point) => MEASURES.map((name) => [t(`activity.${name}`), name === "bytes_written" ? size(point.bytes_written) : count(valueOf(point, name))]);
  const bars = points.map((point) => ({ key: String(point.at), value: valueOf(point, measure), label: short(point.at, step), title: long(point.at, step), facts: facts(point) }));
  const total = write(sum(points, measure));
  return html`<figure>
    <figcaption class="small muted">${t(`activity.sum.${measure}`, { total })}</figcaption>
    <${BarChart} bars=${bars} binary=${measure === "bytes_written"} write=${write} summary=${t(`activity.sum.${measure}`, { total })} />
    <details>
      <summary class="small">${t("as_table")}</summary>
      <${Table} points=${points} step=${step} />
    </details>
  </figure>`;
}

/** @param {{points: Point[], step: "day" | "hour"}} props */
function Table({ points, step }) {
  const busy = points.filter((each) => each.backups || each.bytes_written || each.restores).reverse();
  if (busy.length === 0) return html`<p class="muted">${t("activity.none")}</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t("activity.title")}><table class="plain-table">
    <thead><tr><th scope="col">${t("when")}</th>${MEASURES.map((name) => html`<th key=${name} scope="col" class="number">${t(`activity.${name}`)}</th>`)}</tr></thead>
    <tbody>${busy.map((each) => html`<tr key=${each.at}>
      <th scope="row">${long(each.at, step)}</th><td class="number">${size(each.bytes_written)}</td><td class="number">${count(each.backups)}</td><td class="number">${count(each.restores)}</td>
    </tr>`)}</tbody>
  </table></div>`;
}

/** @param {number} at @param {"day" | "hour"} step */
function short(at, step) {
  const how = /** @type {Intl.DateTimeFormatOptions} */ (step === "hour" ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" });
  return new Intl.DateTimeFormat(language.value, how).format(at * 1000);
}

/** @param {number} at @param {"day" | "hour"} step */
function long(at, step) {
  return step === "day" ? day(at) : new Intl.DateTimeFormat(language.value, { dateStyle: "medium", timeStyle: "short" }).format(at * 1000);
}
