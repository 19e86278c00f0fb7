/** Items of the outbox, each with its reason: given up, tried again later, kept here by a choice. */

import { html } from "../vendor/preact.js";
import { Act } from "./act.js";
import { ago, count, size } from "./numbers.js";
import { href } from "./routes.js";
import { Verbatim } from "./said.js";
import { json } from "./session.js";
import { t } from "./words.js";

/** @typedef {{id: number, kind: string, backup_id: string, session_id: string, stage: string | null, size_bytes: number, attempts: number, next_at: number, error_class: string | null, error: string | null}} Item */

/** @param {number[] | null} ids */
const retry = (ids) => json("POST", "/v1/sync/retry", { ids });
const retried = (/** @type {{retried: number}} */ answer) => t("sync.retried", { n: answer.retried });

/** @param {{items: Item[], total: number}} props */
export function GivenUp({ items, total }) {
  return html`<section class="card">
    <header>
      <h2 class="grow">${t("sync.dead", { n: total })}</h2>
      <${Act} kind="small first" icon="restore" run=${() => retry(null)} done=${retried}>${t("sync.retry_all")}<//>
    </header>
    <p class="muted">${t("sync.dead_more")}</p>
    <${List} items=${items} total=${total} action=${(/** @type {Item} */ item) => html`<${Act} kind="small" label=${t("sync.retry_one", { session: item.session_id })} run=${() => retry([item.id])} done=${retried}>${t("retry")}<//>`} />
  </section>`;
}

/** @param {{items: Item[]}} props */
export function Retrying({ items }) {
  return html`<section class="card">
    <header><h2>${t("sync.retrying")}</h2></header>
    <${List} items=${items} total=${items.length} action=${(/** @type {Item} */ item) => html`<span class="small muted">${t("sync.tries", { n: item.attempts })}<br />${ago(item.next_at)}</span>`} />
  </section>`;
}

/** @param {{items: Item[], total: number, bytes: number}} props */
export function Held({ items, total, bytes }) {
  return html`<section class="card">
    <header><h2>${t("sync.held")}</h2><span class="muted">${t("sync.held_count", { n: total })} · ${size(bytes)}</span></header>
    <p class="muted">${t("sync.held_more")}</p>
    <${List} items=${items} total=${total} />
  </section>`;
}

/** @param {{items: Item[], total: number, action?: (item: Item) => any}} props */
function List({ items, total, action }) {
  return html`<ul class="items">
      ${items.map(
        (item) => html`<li key=${item.id}>
          <div class="grow">
            <div class="row">
              <a class="one-line" href=${href("sessions", [item.session_id, item.backup_id])}>${item.session_id}</a>
              <span class="chip">${t(`stage.${item.stage ?? "remove"}`)}</span>
              <span class="small muted number">${size(item.size_bytes)}</span>
            </div>
            <p class="small reason"><${Verbatim} words=${item.error} /></p>
          </div>
          ${action?.(item)}
        </li>`,
      )}
    </ul>
    ${total > items.length && html`<p class="small muted">${t("and_more", { n: count(total - items.length) })}</p>`}`;
}
