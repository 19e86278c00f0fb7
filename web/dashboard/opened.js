/** One file that was opened: what it is, and the two buttons; or why it cannot be imported; or what became of it. */

import { html } from "../vendor/preact.js";
import { Act } from "./act.js";
import { Icon } from "./icons.js";
import { percent, size } from "./numbers.js";
import { href } from "./routes.js";
import { Said, Verbatim } from "./said.js";
import { json } from "./session.js";
import { Time } from "./states.js";
import { t } from "./words.js";

/**
 * @typedef {{format: string, size_bytes: number, saved: boolean, session_id: string, backup_id: string, created_at: number, model_name: string | null,
 *   layers: string[], messages: number, images: number, videos: number, tokens: number, tensors: number, state_bytes: number,
 *   lines: {role: string, text: string}[], shelf: {standing: "new" | "known" | "incomplete", backups: number, new_bytes: number}}} Preview
 * @typedef {{id: string, name: string, size_bytes: number, state: "waiting" | "running" | "ready" | "done" | "failed" | "discarded", held: boolean,
 *   bytes_done: number, bytes_total: number, known: boolean, backup_id: string | null, session_id: string | null, preview: Preview | null,
 *   problem: {code: string, title: string, detail: string, hint: string} | null}} Opened
 */

const KINDS = /** @type {Record<string, string>} */ ({ done: "good", failed: "bad", discarded: "" });
const COUNTS = /** @type {const} */ (["messages", "images", "videos", "tensors", "tokens"]);

/** @param {{file: Opened, reload: () => Promise<void>}} props */
export function FileCard({ file, reload }) {
  const moving = file.state === "waiting" || file.state === "running";
  return html`<section class="card opened" aria-labelledby=${`file-${file.id}`}>
    <header>
      <h2 id=${`file-${file.id}`} class="grow one-line" title=${file.name}><bdi>${file.name}</bdi></h2>
      <span class=${`chip ${KINDS[file.state] ?? "accent"}`} role="status">${t(`open.state.${moving && !file.held ? "importing" : file.state}`)}</span>
    </header>
    ${moving && html`<${Progress} file=${file} reload=${reload} />`}
    ${file.problem && html`<${Problem} problem=${file.problem} />`}
    ${file.preview && html`<${Held} preview=${file.preview} />`}
    ${file.state === "ready" && file.preview && html`<${Choice} file=${file} preview=${file.preview} reload=${reload} />`}
    ${file.state === "done" && html`<${Done} file=${file} />`}
    ${file.state === "discarded" && html`<p class="muted">${t("open.discarded")}</p>`}
  </section>`;
}

/** How far it is; what is only looked at can be left. @param {{file: Opened, reload: () => Promise<void>}} props */
function Progress({ file, reload }) {
  const part = file.bytes_total ? file.bytes_done / file.bytes_total : 0;
  const words = t(file.held ? "open.reading" : "open.importing", { size: size(file.size_bytes) });
  return html`<div class="running"><p class="small muted">${words}</p><progress max="1" value=${part} aria-label=${words}>${percent(part)}</progress>
    ${file.held && html`<p><${Discard} file=${file} reload=${reload} kind="small" /></p>`}</div>`;
}

/** @param {{problem: NonNullable<Opened["problem"]>}} props */
function Problem({ problem }) {
  return html`<div class="notice bad" role="alert">
    <${Icon} name="alert" />
    <div class="grow">
      <strong><${Said} code=${`code.${problem.code}`} words=${problem.title} /></strong>
      <p><${Verbatim} words=${problem.detail} /></p>
      <p><${Verbatim} words=${problem.hint} /></p>
      <p>${t("open.untouched")}</p>
    </div>
  </div>`;
}

/** What a file holds. @param {{preview: Preview}} props */
function Held({ preview }) {
  const holds = COUNTS.filter((each) => preview[each] > 0).map((each) => t(`open.${each}`, { n: preview[each] }));
  if (preview.state_bytes) holds.push(t("open.unpacked", { size: size(preview.state_bytes) }));
  return html`<dl class="facts">
      <dt>${t("open.what")}</dt><dd>${t(`open.format.${preview.format}`)}, ${size(preview.size_bytes)}<p class="small muted">${t(preview.saved ? "open.saved" : "open.plain")}</p></dd>
      <dt>${t("session")}</dt><dd class="mono">${preview.session_id}</dd>
      <dt>${t("open.model")}</dt><dd>${preview.model_name ? html`<bdi>${preview.model_name}</bdi>` : "–"}</dd>
      <dt>${t("open.made")}</dt><dd><${Time} at=${preview.created_at} /></dd>
      <dt>${t("open.holds")}</dt><dd>${holds.join(t("comma")) || t("open.settings_alone")}</dd>
      ${preview.lines.length > 0 && html`<dt>${t("open.newest")}</dt><dd><ul class="lines">${preview.lines.map((line, index) => html`<li key=${index}><span class="muted">${line.role}</span> <bdi>${line.text}</bdi></li>`)}</ul></dd>`}
      <dt>${t("open.checked")}</dt><dd><${Icon} name="check" /> ${t("open.sound")}</dd>
      <dt>${t("open.here")}</dt><dd>${standing(preview)}</dd>
    </dl>`;
}

/** @param {Preview} preview */
function standing({ shelf, backup_id }) {
  if (shelf.standing === "known") return t("open.known", { id: backup_id });
  if (shelf.standing === "incomplete") return t("open.incomplete", { size: size(shelf.new_bytes) });
  const more = [t("open.no")];
  if (shelf.backups) more.push(t("open.others", { n: shelf.backups }));
  if (shelf.new_bytes) more.push(t("open.written", { size: size(shelf.new_bytes) }));
  return more.join(t("comma"));
}

/** @param {{file: Opened, preview: Preview, reload: () => Promise<void>}} props */
function Choice({ file, preview, reload }) {
  const run = async () => void (await json("POST", `${path(file)}/accept`).finally(reload));
  const known = preview.shelf.standing === "known";
  return html`<footer class="row decision">
    <${Act} kind=${known ? "" : "first"} icon="download" label=${t("open.import_one", { name: file.name })} run=${run}>${t("open.import")}<//>
    <${Discard} file=${file} reload=${reload} kind=${known ? "first" : ""} />
    <span class="small muted grow">${t("open.stays")}</span>
  </footer>`;
}

/** @param {{file: Opened, reload: () => Promise<void>, kind: string}} props */
function Discard({ file, reload, kind }) {
  const run = async () => void (await json("DELETE", path(file)).finally(reload));
  return html`<${Act} kind=${kind} label=${t("open.discard_one", { name: file.name })} run=${run}>${t("open.discard")}<//>`;
}

/** @param {Opened} file */
const path = (file) => `/v1/imports/${encodeURIComponent(file.id)}`;

/** @param {{file: Opened}} props */
function Done({ file }) {
  return html`<div class="notice good">
    <${Icon} name="check" /><p class="grow">${t(file.known ? "open.done_known" : "open.done")}</p>
    ${file.session_id && html`<a class="button small" href=${href("sessions", file.backup_id ? [file.session_id, file.backup_id] : [file.session_id])}>${t("import.open")}</a>`}
  </div>`;
}
