/** What a quota would let go of next, in its order, and why it may go. */

import { html } from "../vendor/preact.js";
import { Icon } from "./icons.js";
import { count, size } from "./numbers.js";
import { href } from "./routes.js";
import { t } from "./words.js";

const SHOWN = 6;

/** @typedef {{backup_id: string, session_id?: string, title?: string | null, kind: string, tier: string, size_bytes: number, goes_now: boolean}} Leaving */

/** @param {{next: {over_bytes: number, evictable_bytes: number, kinds: Record<string, number>, more: number, items: Leaving[]}}} props */
export function Going({ next }) {
  const over = next.over_bytes > 0;
  const more = next.more + Math.max(next.items.length - SHOWN, 0);
  return html`
    <p class=${over ? "notice warn" : "muted"}>${over && html`<${Icon} name="alert" />`}<span>${over ? t("going.over", { size: size(next.over_bytes) }) : t("going.nothing")}</span></p>
    ${next.items.length === 0
      ? html`<p class="muted">${t("going.empty")}</p>`
      : html`<ol class="items compact">${next.items.slice(0, SHOWN).map((item) => html`<${Item} key=${`${item.backup_id}/${item.kind}`} item=${item} />`)}</ol>`}
    ${more > 0 && html`<p class="small muted">${t("and_more", { n: count(more) })}</p>`}
    <p class="small muted">${t("going.more", { size: size(next.evictable_bytes) })}</p>`;
}

/** @param {{item: Leaving}} props */
function Item({ item }) {
  const name = item.title || item.session_id || item.backup_id;
  return html`<li>
    <div class="grow">
      ${item.session_id ? html`<a class="one-line" href=${href("sessions", [item.session_id, item.backup_id])}>${name}</a>` : html`<span class="one-line">${name}</span>`}
      <p class="small muted">${t(`going.${item.kind}`)}${item.tier === "ordinary" ? "" : ` · ${t(`going.tier.${item.tier}`)}`}</p>
    </div>
    <span class="number">${size(item.size_bytes)}</span>
  </li>`;
}
