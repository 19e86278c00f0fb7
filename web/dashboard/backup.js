/** One backup: what restoring it would do, how safe it is, what it holds, and what can be done with it. */

import { html, useState } from "../vendor/preact.js";
import { busy, lacking, pin, remove, restore } from "./actions.js";
import { Failed, useData, Waiting } from "./data.js";
import { Dialog } from "./dialog.js";
import { Export } from "./export.js";
import { Icon } from "./icons.js";
import { useKeys } from "./keys.js";
import { Messages } from "./messages.js";
import { count, moment, percent, size } from "./numbers.js";
import { PaneHeading } from "./panes.js";
import { Plan } from "./plan.js";
import { href, route } from "./routes.js";
import { json } from "./session.js";
import { Chip, secondCopy, States, Time } from "./states.js";
import { failed, toast } from "./toasts.js";
import { says, t } from "./words.js";

/** @typedef {import("./session_list.js").Backup} Backup */

/** @param {{id: string, session: string}} props */
export function BackupPanel({ id, session }) {
  const { data, error, reload } = useData((signal) => json("GET", `/v1/backups/${encodeURIComponent(id)}`, undefined, { signal }), [id]);
  const [planned, setPlanned] = useState(false);
  const below = planned ? "" : "unsettled"; // what is shown above may still grow
  const message = route.value.query.get("message");
  const at = message !== null && Number(message) >= 0 ? Number(message) : undefined;
  return html`<div class="pad stack backup">
    ${error && !data ? html`<${Failed} error=${error} retry=${reload} />` : null}
    ${data ? html`<${Head} backup=${data} session=${session} shown=${reload} /><${Plan} id=${id} told=${() => setPlanned(true)} /><div class=${below}><${Facts} backup=${data} /></div>` : !error && html`<${Waiting} lines=${8} />`}
    ${!(error && !data) && html`<div class=${`messages-place ${below}`}><${Messages} id=${id} at=${at} /></div>`}
  </div>`;
}

/** @param {{backup: Backup, session: string, shown: () => Promise<void>}} props */
function Head({ backup, session, shown }) {
  const [exporting, setExporting] = useState(false);
  const working = busy.value.has(backup.id);
  const drop = async () => remove(backup, (await json("GET", `/v1/backups?session_id=${encodeURIComponent(session)}&limit=2`)).backups.length === 1);
  const dropping = () => drop().catch(failed);
  useKeys({ r: () => restore(backup), p: () => pin(backup, shown), Delete: dropping });
  return html`<header class="backup-head">
    <div class="row">
      <a class="plain back" href=${href("sessions", [session])} aria-label=${t("back.session")}><${Icon} name="back" /></a>
      <div class="grow">
        <${PaneHeading}>${moment(backup.created_at)}<//>
        <p class="muted small row"><${Time} at=${backup.created_at} /><${States} backup=${backup} /></p>
      </div>
    </div>
    <div class="row actions">
      <button class="button first" disabled=${working} title="r" onClick=${() => restore(backup)}><${Icon} name="restore" />${t("restore.do")}</button>
      <button class="button" aria-pressed=${backup.pinned} disabled=${working} title="p" onClick=${() => pin(backup, shown)}><${Icon} name="pin" />${t(backup.pinned ? "pin.undo" : "pin.do")}</button>
      <button class="button" onClick=${() => setExporting(true)}><${Icon} name="download" />${t("export.do")}</button>
      <button class="button danger" disabled=${working} title="Delete" onClick=${dropping}><${Icon} name="remove" />${t("remove.do")}</button>
    </div>
    ${exporting && html`<${Export} backup=${backup} close=${() => setExporting(false)} />`}
  </header>`;
}

/** Where a backup lies and how large it is. @param {{backup: Backup}} props */
function Facts({ backup }) {
  const shared = backup.bytes_total ? Math.max(1 - backup.bytes_written / backup.bytes_total, 0) : 0;
  return html`<section class="card" aria-label=${t("facts.title")}>
    <dl class="facts">
      <dt>${t("facts.here")}</dt>
      <dd>${here(backup)}</dd>
      <dt>${t("facts.copy")}</dt>
      <dd>${t(`facts.copy_${secondCopy(backup)}`)}${backup.remote?.held ? html` <span class="muted">(${backup.remote.held})</span>` : ""}</dd>
      <dt>${t("facts.size")}</dt>
      <dd>${size(backup.bytes_total)} <span class="muted">${t("facts.shared", { part: percent(shared), size: size(backup.bytes_written) })}</span></dd>
      <dt>${t("facts.tokens")}</dt>
      <dd class="number">${count(backup.tokens)}</dd>
      <dt>${t("facts.model")}</dt>
      <dd>${backup.model_name ?? t("unknown")} <span class="muted">· ${backup.adapter}</span></dd>
      <dt>${t("facts.holds")}</dt>
      <dd class="row chips">${backup.layers.map((layer) => html`<${Chip} key=${layer} text=${says(`layer.${layer}`) ? t(`layer.${layer}`) : layer} />`)}</dd>
      <dt>${t("facts.kept")}</dt>
      <dd>${backup.pinned ? t("facts.kept_pinned") : backup.expires_at ? html`${t("facts.kept_until")} <${Time} at=${backup.expires_at} />` : t("facts.kept_always")}</dd>
      <dt>${t("facts.id")}</dt>
      <dd><button class="copy mono" title=${t("copy")} onClick=${() => copy(backup.id)}>${backup.id}<${Icon} name="copy" /></button></dd>
    </dl>
  </section>`;
}

/** @param {Backup} backup */
function here(backup) {
  if (backup.damaged_bytes > 0) return t("facts.here_damaged", { size: size(backup.damaged_bytes) });
  if (backup.absent_bytes > 0) return t("facts.here_part", { size: size(backup.bytes_total - backup.absent_bytes), all: size(backup.bytes_total) });
  return t(backup.dropped_at === null ? "facts.here_whole" : "facts.here_dropped");
}

/** @param {string} text */
function copy(text) {
  navigator.clipboard.writeText(text).then(() => toast(t("copied")), failed);
}

/** Nothing runs that could restore or save: how to let it. */
export function NoProcess() {
  const close = () => (lacking.value = false);
  return html`<${Dialog} title=${t("attach.title")} close=${close}>
    <div class="stack">
      <p>${t("attach.how")}</p>
      <pre class="code"><code>keeper.attach(provider)</code></pre>
      <p class="muted">${t("attach.safe")}</p>
      <footer><button class="button first" onClick=${close}>${t("close")}</button></footer>
    </div>
  <//>`;
}
