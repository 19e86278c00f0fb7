/** What uses the room of this machine, what sharing saves, what would leave first, and what happened day by day. */

import { html } from "../vendor/preact.js";
import { Activity } from "./activity.js";
import { Act } from "./act.js";
import { Failed, useData, Waiting } from "./data.js";
import { Going } from "./going.js";
import { percent, size, times } from "./numbers.js";
import { Largest } from "./largest.js";
import { usePoll } from "./poll.js";
import { json } from "./session.js";
import { CellBar, ShareBar, Swatch } from "./share_bar.js";
import { says, t } from "./words.js";

/** @type {Record<string, string>} the colour of each class; what it is belongs to the class, not to its rank */
const COLOURS = { kv_cache: "k1", vision_cache: "k2", media: "k3", text: "k4", database: "k5", manifests: "k6", trash: "k7", quarantine: "k8" };

const SMALL_BYTES = 64 << 10;
const LOOK_MS = 1000;

/** @typedef {Record<string, any>} Storage what GET /v1/storage answers */

export function Page() {
  const { data, error, reload } = useData((signal) => json("GET", "/v1/storage", undefined, { signal }), []);
  const surveyed = data && data.surveyed_ago_s !== null; // a large home takes a second to look through
  const below = data || error ? "" : "unsettled"; // what is shown above may still grow
  usePoll(reload, LOOK_MS, Boolean(data) && !surveyed);
  return html`<div class="page">
    <header>
      <h1 class="grow">${t("nav.storage")}</h1>
      <${Act} icon="remove" run=${() => json("POST", "/v1/gc", {})} done=${tidied}>${t("storage.tidy")}<//>
    </header>
    ${error && !data
      ? html`<${Failed} error=${error} retry=${reload} />`
      : html`<section class="card room" aria-labelledby="room">
            <header><h2 id="room">${t("storage.room")}</h2></header>
            ${data ? html`<${Room} storage=${data} />` : html`<${Waiting} lines=${9} />`}
          </section>
          <div class=${`cards ${below}`}>
            <section class="card" aria-labelledby="dedupe"><header><h2 id="dedupe">${t("dedupe.title")}</h2></header>${data ? html`<${Dedupe} storage=${data} />` : html`<${Waiting} lines=${4} />`}</section>
            <section class="card" aria-labelledby="going"><header><h2 id="going">${t("going.title")}</h2></header>${surveyed ? html`<${Going} next=${data.next_to_go} />` : html`<${Waiting} lines=${4} />`}</section>
          </div>`}
    <div class=${below}><${Activity} /></div>
    ${data && data.sessions.length > 0 && html`<section class="card" aria-labelledby="largest"><header><h2 id="largest">${t("largest.title")}</h2></header><${Largest} sessions=${data.sessions} /></section>`}
  </div>`;
}

/** @param {{freed_bytes: number, collected: {removed_bytes?: number, trashed_bytes?: number}}} answer */
const tidied = (answer) => t("storage.tidied", { size: size(answer.freed_bytes) });

/** @typedef {{name: string, size_bytes: number, folded?: string[]}} Row */

/** Fold what is next to nothing into one row, so that a folder that is empty is not a finding. @param {Storage} storage @returns {Row[]} */
function rows(storage) {
  const least = Math.max(storage.used_bytes / 200, SMALL_BYTES);
  const shown = storage.classes.filter((/** @type {Row} */ each) => each.size_bytes >= least && each.name in COLOURS);
  const rest = storage.classes.filter((/** @type {Row} */ each) => !shown.includes(each));
  if (rest.length === 0) return shown;
  const size_bytes = rest.reduce((/** @type {number} */ sum, /** @type {Row} */ each) => sum + each.size_bytes, 0);
  return [...shown, { name: "rest", size_bytes, folded: rest.map((/** @type {Row} */ each) => each.name) }];
}

/** @param {{storage: Storage}} props */
function Room({ storage }) {
  const found = rows(storage);
  const parts = found.map((each) => ({ name: each.name, value: each.size_bytes, colour: COLOURS[each.name] ?? "rest" }));
  const summary = t("storage.summary", { used: size(storage.used_bytes), quota: size(storage.hard_bytes) });
  return html`
    <p class="figure"><strong>${size(storage.used_bytes)}</strong> <span class="muted">${t("storage.of", { quota: size(storage.hard_bytes), free: size(storage.disk_free_bytes) })}</span></p>
    <${ShareBar} parts=${parts} whole=${storage.hard_bytes} summary=${summary} marks=${[{ at: storage.soft_bytes, kind: "soft" }]} />
    <p class="small muted limits"><svg class="limit-key" width="10" height="14" aria-hidden="true"><line class="limit soft" x1="5" x2="5" y1="0" y2="14" /></svg>${t("storage.soft", { soft: size(storage.soft_bytes), floor: size(storage.floor_bytes) })}</p>
    <table class="plain-table classes">
      <caption class="hidden-text">${t("storage.classes")}</caption>
      <thead><tr><th scope="col">${t("storage.what")}</th><th scope="col" class="number">${t("size")}</th><th scope="col" class="number">${t("share")}</th></tr></thead>
      <tbody>${found.map(
        (each) => html`<tr key=${each.name}>
          <th scope="row"><span class="key"><${Swatch} colour=${COLOURS[each.name] ?? "rest"} /><span>${named(each.name)} <small class="muted">${each.folded ? each.folded.map(named).join(t("comma")) : more(each.name)}</small></span></span></th>
          <td class="number">${size(each.size_bytes)}</td>
          <td class="number">${part(each.size_bytes / Math.max(storage.used_bytes, 1))}</td>
        </tr>`,
      )}</tbody>
    </table>`;
}

/** @param {number} of one */
const part = (of) => (of > 0 && of < 0.01 ? `< ${percent(0.01)}` : percent(of));
/** @param {string} name */
const named = (name) => (says(`class.${name}`) ? t(`class.${name}`) : name);
/** @param {string} name */
const more = (name) => (says(`class.${name}.more`) ? t(`class.${name}.more`) : "");

/** @param {{storage: Storage}} props */
function Dedupe({ storage }) {
  const { logical_bytes: logical, stored_bytes: stored, ratio } = storage.dedupe;
  if (!logical || !ratio) return html`<p class="muted">${t("dedupe.none")}</p>`;
  return html`
    <p class="figure"><strong>${times(ratio)}</strong> <span class="muted">${t("dedupe.saved", { size: size(Math.max(logical - stored, 0)) })}</span></p>
    <dl class="bars">
      <div><dt>${t("dedupe.logical")}</dt><dd><${CellBar} value=${logical} most=${logical} /><span class="number">${size(logical)}</span></dd></div>
      <div><dt>${t("dedupe.stored")}</dt><dd><${CellBar} value=${stored} most=${logical} /><span class="number">${size(stored)}</span></dd></div>
      ${storage.bucket && html`<div><dt>${t("dedupe.bucket")}</dt><dd><${CellBar} value=${storage.bucket.stored_bytes} most=${logical} /><span class="number">${size(storage.bucket.stored_bytes)}</span></dd></div>`}
    </dl>
    <p class="small muted">${t("dedupe.more")}</p>`;
}
