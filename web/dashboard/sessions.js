/** The sessions: their list, the history of the chosen one, and the chosen backup, side by side where there is room. */

import { html, useEffect, useState } from "../vendor/preact.js";
import { lacking, removed } from "./actions.js";
import { Awake, useAwake } from "./awake.js";
import { BackupPanel, NoProcess } from "./backup.js";
import { Empty, Failed, Waiting } from "./data.js";
import { useKeys } from "./keys.js";
import { onChange, status } from "./live.js";
import { count, size } from "./numbers.js";
import { broad, roomy } from "./panes.js";
import { Picture } from "./pictures.js";
import { go, href, route } from "./routes.js";
import { Found, question, SearchField } from "./search.js";
import { sessions } from "./session_list.js";
import { SessionView } from "./session_view.js";
import { Chip, nameOf, States, Time } from "./states.js";
import { VirtualList } from "./virtual.js";
import { t } from "./words.js";

/** @typedef {import("./session_list.js").SessionRow} SessionRow */

const ROW_REM = 5.6;

export function Page() {
  const [session, backup] = route.value.parts;
  const [newest, setNewest] = useState(/** @type {{session: string, id: string} | null} */ (null));
  const shown = backup ?? (roomy.value && newest && newest.session === session && !removed.value.has(newest.id) ? newest.id : undefined);
  useAwake();
  useEffect(() => onChange(() => sessions.refresh()), []);
  useKeys(session ? { Escape: () => go(href("sessions", backup && !roomy.value ? [session] : [])) } : {});
  return html`<div class=${`sessions${session ? " one" : ""}${backup ? " backup" : ""}`}>
    <section class="pane list" aria-label=${t("sessions.title")}><${List} chosen=${session} /></section>
    ${session &&
    html`<section class="pane history" aria-label=${t("history.title")}>
      <${SessionView} key=${session} session=${session} chosen=${shown} newest=${(/** @type {string} */ id) => setNewest({ session, id })} />
    </section>`}
    ${session &&
    (shown || roomy.value) &&
    html`<section class="pane detail" aria-label=${t("backup.title")}>
      ${shown ? html`<${BackupPanel} key=${shown} id=${shown} session=${session} />` : html`<div class="pad"><${Waiting} lines=${6} /></div>`}
    </section>`}
    ${lacking.value && html`<${NoProcess} />`}
  </div>`;
}

/** @param {{chosen?: string}} props */
function List({ chosen }) {
  useEffect(() => void sessions.want(1), []);
  const total = sessions.total.value;
  return html`<header class="pane-head">
      <div class="row"><h1>${t("sessions.title")}</h1><${Summary} /></div>
      <${SearchField} />
    </header>
    ${sessions.error.value && html`<div class="pad"><${Failed} error=${sessions.error.value} retry=${() => sessions.refresh()} /></div>`}
    ${question.value
      ? html`<${Found} chosen=${chosen} />`
      : total === 0
        ? html`<${Welcome} />`
        : html`<${Rows} total=${total} chosen=${chosen} />`}`;
}

/** What there is, in a line. */
function Summary() {
  const known = status.value;
  if (!known) return html`<span class="muted small summary">\u00a0</span>`;
  return html`<span class="muted small summary">
    ${t("sessions.summary", { sessions: count(known.sessions), backups: count(known.backups), size: size(known.blob_bytes) })}
  </span>`;
}

/** @param {{total: number | null, chosen?: string}} props */
function Rows({ total, chosen }) {
  const rows = sessions.rows.value;
  const at = rows.findIndex((row) => row.session_id === chosen);
  const [cursor, setCursor] = useState(Math.max(at, 0));
  useEffect(() => void (at >= 0 && setCursor(at)), [chosen, at >= 0]);
  return html`<${VirtualList}
    label=${t("sessions.title")}
    class="rows"
    count=${total ?? 8}
    height=${ROW_REM}
    cursor=${cursor}
    moved=${setCursor}
    seen=${(/** @type {number} */ _, /** @type {number} */ last) => sessions.want(last)}
    row=${(/** @type {number} */ index, /** @type {boolean} */ focusable) =>
      rows[index]
        ? html`<${Row} row=${rows[index]} chosen=${rows[index].session_id === chosen} focusable=${focusable} />`
        : html`<div class="session-row unseen"><span class="thumbs bone"></span><div class="grow waiting"><span class="bone"></span><span class="bone"></span></div></div>`}
  />`;
}

/** @param {{row: SessionRow, chosen: boolean, focusable: boolean}} props */
function Row({ row, chosen, focusable }) {
  const alone = broad.value && !route.value.parts.length; // the list has the page for itself
  return html`<a
    class="session-row"
    data-row
    href=${href("sessions", [row.session_id])}
    tabindex=${focusable ? 0 : -1}
    aria-current=${chosen ? "true" : undefined}
  >
    <${Thumbs} row=${row} />
    <div class="grow">
      <div class="line"><strong class="one-line grow">${nameOf(row)}</strong>${!alone && html`<span class="muted small"><${Time} at=${row.newest.created_at} /></span>`}</div>
      <p class="one-line muted">${row.preview || t("sessions.no_text")}</p>
      <div class="line small muted facts-line">
        <span class="number">${t("sessions.backups", { n: row.backups })}</span>
        ${row.messages ? html`<span class="number">${t("sessions.messages", { n: row.messages })}</span>` : null}
        <span class="number">${size(row.bytes_total)}</span>
        ${row.forked_from && html`<${Chip} icon="fork" text=${t("sessions.fork")} />`}
        <${Awake} session=${row.session_id} />
        <${States} backup=${row.newest} brief />
      </div>
    </div>
    ${alone && html`<${Strip} row=${row} />`}
  </a>`;
}

/** The other pictures of a session, when it was saved, and its model. @param {{row: SessionRow}} props */
function Strip({ row }) {
  return html`<span class="strip">
    ${row.images.slice(1).map((each) => html`<${Picture} key=${each.index} backup=${each.backup_id} index=${each.index} bytes=${each.size_bytes} pixels=${56} />`)}
  </span>
  <span class="model small muted"><${Time} at=${row.newest.created_at} /><span class="one-line">${row.newest.model_name ?? ""}</span></span>`;
}

/** The pictures of a session, one over the other; without any, its letter. @param {{row: SessionRow}} props */
function Thumbs({ row }) {
  const [first] = row.images;
  if (!first) return html`<span class=${`thumbs letter tint${tint(row.session_id)}`} aria-hidden="true">${[...nameOf(row)][0]}</span>`;
  return html`<span class=${`thumbs${row.images.length > 1 ? " many" : ""}`}>
    <${Picture} backup=${first.backup_id} index=${first.index} bytes=${first.size_bytes} pixels=${56} />
    ${row.images.length > 1 && html`<b aria-label=${t("sessions.pictures", { n: row.images.length })}>${row.images.length}${row.images.length >= 4 ? "+" : ""}</b>`}
  </span>`;
}

/** Return one of six tints, always the same for a name. @param {string} name */
function tint(name) {
  let sum = 7;
  for (const char of name) sum = (sum * 31 + (char.codePointAt(0) ?? 0)) % 997;
  return sum % 6;
}

/** There is nothing yet: how to begin. */
function Welcome() {
  return html`<${Empty} icon="moon" title=${t("welcome.title")}>
    <p>${t("welcome.how")}</p>
    <pre class="code"><code>import torpor${"\n"}keeper = torpor.client.connect()${"\n"}keeper.save("my-session", session)</code></pre>
    <p>${t("welcome.demo")} <code>torpor demo</code></p>
  <//>`;
}
