/** One session: its name, what can be done with it, and its history with forks. */

import { html, useEffect, useMemo, useState } from "../vendor/preact.js";
import { backUpNow, removeSession, rename } from "./actions.js";
import { Awake } from "./awake.js";
import { Dialog } from "./dialog.js";
import { Failed } from "./data.js";
import { Graph, lanesOf } from "./graph.js";
import { History } from "./history_list.js";
import { Icon } from "./icons.js";
import { onChange } from "./live.js";
import { count, size } from "./numbers.js";
import { PaneHeading } from "./panes.js";
import { Picture } from "./pictures.js";
import { href } from "./routes.js";
import { Problem } from "./session.js";
import { Chip, nameOf, States, Time } from "./states.js";
import { VirtualList } from "./virtual.js";
import { t } from "./words.js";

/** @typedef {import("./history_list.js").HistoryRow} HistoryRow */

const ROW_REM = 4.6;
const FIRST_SEEN = 40; // rows that decide how wide the lanes are, until it is known which are seen

/** @param {{session: string, chosen?: string, newest: (id: string) => void}} props */
export function SessionView({ session, chosen, newest }) {
  const history = useMemo(() => new History(session), [session]);
  const about = history.about.value;
  useEffect(() => (history.want(0, 1), onChange(() => history.refresh())), [history]);
  useEffect(() => void (about && newest(about.newest)), [about?.newest]);
  const error = history.error.value;
  const gone = error instanceof Problem && error.status === 404;
  return html`<header class="pane-head">
      <${Head} session=${session} title=${about?.title ?? null} backups=${about?.backups ?? null} />
    </header>
    ${error && html`<div class="pad"><${Failed} error=${error} retry=${gone ? undefined : () => history.refresh()} /></div>`}
    ${!gone && html`<${Rows} history=${history} session=${session} chosen=${chosen} />`}`;
}

/** @param {{session: string, title: string | null, backups: number | null}} props */
function Head({ session, title, backups }) {
  const [renaming, setRenaming] = useState(false);
  const [removing, setRemoving] = useState(false);
  return html`<div class="row head">
      <a class="plain back" href=${href("sessions")} aria-label=${t("back.sessions")}><${Icon} name="back" /></a>
      <div class="grow">
        <${PaneHeading} title=${session}>${title || session}<//>
        <p class="muted small row">${backups === null ? "\u00a0" : t("sessions.backups", { n: backups })}<${Awake} session=${session} /></p>
      </div>
      <button class="plain" title=${t("rename.do")} aria-label=${t("rename.do")} onClick=${() => setRenaming(true)}><${Icon} name="rename" /></button>
      <button class="plain" title=${t("remove.session")} aria-label=${t("remove.session")} onClick=${() => setRemoving(true)}><${Icon} name="remove" /></button>
      <button class="button small" title=${t("now.more")} onClick=${() => backUpNow(session)}><${Icon} name="moon" /><span>${t("now.do")}</span></button>
    </div>
    ${renaming && html`<${Rename} session=${session} title=${title ?? ""} close=${() => setRenaming(false)} />`}
    ${removing && html`<${Remove} session=${session} backups=${backups ?? 0} close=${() => setRemoving(false)} />`}`;
}

/** @param {{session: string, title: string, close: () => void}} props */
function Rename({ session, title, close }) {
  const [text, setText] = useState(title);
  const done = async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (await rename(session, text.trim() || null)) close();
  };
  return html`<${Dialog} title=${t("rename.do")} close=${close}>
    <form class="stack" onSubmit=${done}>
      <label class="stack tight"
        >${t("rename.label")}
        <input type="text" value=${text} maxlength="200" autofocus onInput=${(/** @type {any} */ event) => setText(event.currentTarget.value)} />
      </label>
      <footer><button type="button" class="button" onClick=${close}>${t("cancel")}</button><button class="button first">${t("save")}</button></footer>
    </form>
  <//>`;
}

/** @param {{session: string, backups: number, close: () => void}} props */
function Remove({ session, backups, close }) {
  return html`<${Dialog} title=${t("remove.session")} close=${close}>
    <div class="stack">
      <p>${t("remove.session_sure", { n: backups })}</p>
      <footer>
        <button class="button" onClick=${close}>${t("cancel")}</button>
        <button class="button danger" onClick=${() => (close(), removeSession(session))}>${t("remove.do")}</button>
      </footer>
    </div>
  <//>`;
}

/** @param {{history: History, session: string, chosen?: string}} props */
function Rows({ history, session, chosen }) {
  const rows = history.rows.value;
  const total = history.about.value?.total ?? 4;
  const at = rows.findIndex((row) => row?.id === chosen);
  const [cursor, setCursor] = useState(Math.max(at, 0));
  const [seen, setSeen] = useState([0, FIRST_SEEN]);
  useEffect(() => void (at >= 0 && setCursor(at)), [chosen, at >= 0]);
  const lanes = Math.max(...rows.slice(seen[0], seen[1]).map((row) => (row ? lanesOf(row) : 1)), 1);
  return html`<${VirtualList}
    label=${t("history.title")}
    class="rows"
    count=${total}
    height=${ROW_REM}
    cursor=${cursor}
    moved=${setCursor}
    seen=${(/** @type {number} */ first, /** @type {number} */ last) => (history.want(first, last), setSeen([first, last]))}
    row=${(/** @type {number} */ index, /** @type {boolean} */ focusable) =>
      rows[index]
        ? html`<${Row} row=${rows[index]} lanes=${lanes} session=${session} chosen=${rows[index]?.id === chosen} focusable=${focusable} />`
        : html`<div class="history-row unseen"><span class="bone grow"></span></div>`}
  />`;
}

/** @param {{row: HistoryRow, lanes: number, session: string, chosen: boolean, focusable: boolean}} props */
function Row({ row, lanes, session, chosen, focusable }) {
  const to = row.place === "elsewhere" && row.backup ? href("sessions", [row.backup.session_id, row.id]) : href("sessions", [session, row.id]);
  const inside = html`<span class="lanes" style=${{ width: `${lanes * 1.25}rem` }}><${Graph} row=${row} lanes=${lanes} chosen=${chosen} /></span>
    <${What} row=${row} />`;
  if (row.place === "gone") return html`<div class="history-row gone" data-row tabindex=${focusable ? 0 : -1}>${inside}</div>`;
  return html`<a class="history-row" data-row href=${to} tabindex=${focusable ? 0 : -1} aria-current=${chosen ? "true" : undefined}>${inside}</a>`;
}

/** @param {{row: HistoryRow}} props */
function What({ row }) {
  const { backup } = row;
  if (!backup) return html`<span class="muted">${t("history.gone")}</span>`;
  if (row.place === "elsewhere") {
    return html`<div class="grow"><div class="line"><strong class="one-line">${t("history.from", { session: nameOf(backup) })}</strong></div>
      <span class="small muted"><${Time} at=${backup.created_at} /></span></div>`;
  }
  const last = row.images?.at(-1);
  return html`<div class="grow">
      <div class="line">
        <strong class="one-line grow">${row.preview || t("sessions.no_text")}</strong>
        <span class="small muted"><${Time} at=${backup.created_at} /></span>
      </div>
      <div class="line small muted facts-line">
        <span class="number">${t("history.tokens", { n: backup.tokens })}</span>
        ${row.tokens_added ? html`<span class="number good-text">${row.tokens_added > 0 ? "+" : "−"}${count(Math.abs(row.tokens_added))}</span>` : null}
        <${Shared} backup=${backup} />
        ${(row.forks ?? []).length > 0 && html`<${Chip} kind="accent" icon="fork" text=${t("history.forks", { n: (row.forks ?? []).length })} />`}
        <${States} backup=${backup} brief />
      </div>
    </div>
    ${last && html`<span class="history-thumb"><${Picture} backup=${last.backup_id} index=${last.index} bytes=${last.size_bytes} pixels=${44} /></span>`}`;
}

/** How large a backup is, and how much of it was there before. @param {{backup: import("./session_list.js").Backup}} props */
function Shared({ backup }) {
  const part = backup.bytes_total ? Math.min(backup.bytes_written / backup.bytes_total, 1) : 0;
  const words = t("history.written", { size: size(backup.bytes_total), written: size(backup.bytes_written) });
  return html`<span class="shared number" title=${words}>
    <span class="bar" aria-hidden="true"><i style=${{ width: `${Math.max(part * 100, 3)}%` }}></i></span>${size(backup.bytes_total)}
    <span class="hidden-text">${words}</span>
  </span>`;
}

