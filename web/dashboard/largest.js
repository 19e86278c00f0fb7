/** The sessions that take the most room, and how much of it they share with others. */

import { html } from "../vendor/preact.js";
import { count, size } from "./numbers.js";
import { href } from "./routes.js";
import { CellBar } from "./share_bar.js";
import { t } from "./words.js";

/** @typedef {{session_id: string, title: string | null, backups: number, size_bytes: number, shared_bytes: number, logical_bytes: number}} SessionBytes */

/** @param {{sessions: SessionBytes[]}} props */
export function Largest({ sessions }) {
  const most = Math.max(...sessions.map((each) => each.size_bytes), 1);
  return html`<table class="plain-table largest">
    <caption class="small muted">${t("largest.more")}</caption>
    <thead><tr>
      <th scope="col">${t("session")}</th><th scope="col" class="number">${t("backups")}</th><th scope="col" class="bar-column"><span class="hidden-text">${t("share")}</span></th>
      <th scope="col" class="number">${t("size")}</th><th scope="col" class="number">${t("shared")}</th>
    </tr></thead>
    <tbody>${sessions.map(
      (each) => html`<tr key=${each.session_id}>
        <th scope="row"><a class="one-line" href=${href("sessions", [each.session_id])}>${each.title || each.session_id}</a></th>
        <td class="number">${count(each.backups)}</td>
        <td class="bar-column"><${CellBar} value=${each.size_bytes} most=${most} inside=${each.shared_bytes} /></td>
        <td class="number">${size(each.size_bytes)}</td>
        <td class="number muted">${size(each.shared_bytes)}</td>
      </tr>`,
    )}</tbody>
  </table>`;
}
