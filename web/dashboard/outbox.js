/** The second copy: how it is and why, what is on its way, and what was given up; pause, go on, try again. */

import { html } from "../vendor/preact.js";
import { Act } from "./act.js";
import { Empty, Failed, useData, Waiting } from "./data.js";
import { Icon } from "./icons.js";
import { count, lasting, moment, percent, size } from "./numbers.js";
import { Choices } from "./outbox_choices.js";
import { GivenUp, Held, Retrying } from "./outbox_items.js";
import { Pause } from "./pause.js";
import { usePoll } from "./poll.js";
import { Verbatim } from "./said.js";
import { json } from "./session.js";
import { Time } from "./states.js";
import { says, t } from "./words.js";

const LOOK_MS = 1500;

/** @typedef {Record<string, any>} Sync what GET /v1/sync answers */

export function Page() {
  const { data: sync, error, reload } = useData((signal) => json("GET", "/v1/sync", undefined, { signal }), []);
  usePoll(reload, LOOK_MS, Boolean(sync?.running || sync?.waiting_count || sync?.paused_until));
  return html`<div class="page">
    <header>
      <h1 class="grow">${t("nav.sync")}</h1>
      ${sync?.on && html`<${Actions} sync=${sync} />`}
    </header>
    ${error && !sync ? html`<${Failed} error=${error} retry=${reload} />` : !sync ? html`<${Waiting} lines=${6} />` : html`<${Body} sync=${sync} />`}
  </div>`;
}

/** @param {{sync: Sync}} props */
function Actions({ sync }) {
  return html`<div class="row">
    ${sync.state === "paused"
      ? html`<${Act} kind="first" icon="play" run=${() => json("POST", "/v1/sync/resume")} done=${() => t("sync.resumed")}>${t("sync.resume")}<//>`
      : html`<${Pause} />`}
    <${Act} icon="upload" disabled=${sync.state === "paused"} run=${() => json("POST", "/v1/sync/now")} done=${() => t("sync.asked")}>${t("sync.now")}<//>
  </div>`;
}

/** @param {{sync: Sync}} props */
function Body({ sync }) {
  if (!sync.on) return html`<section class="card"><${Off} /></section>`;
  return html`
    <${State} sync=${sync} />
    ${sync.warnings.map((/** @type {string} */ each) => html`<div key=${each} class="notice warn"><${Icon} name="alert" /><span><${Verbatim} words=${each} /></span></div>`)}
    ${sync.dead_count > 0 && html`<${GivenUp} items=${sync.dead} total=${sync.dead_count} />`}
    ${sync.retrying.length > 0 && html`<${Retrying} items=${sync.retrying} />`}
    <div class="cards">
      <${Queue} sync=${sync} />
      <${Place} sync=${sync} />
    </div>
    ${sync.held_count > 0 && html`<${Held} items=${sync.held} total=${sync.held_count} bytes=${sync.held_bytes} />`}
    <${Choices} key=${sync.endpoint} sync=${sync} />
  `;
}

function Off() {
  return html`<${Empty} icon="cloud" title=${t("sync.off")}>
    <p>${t("sync.off_more")}</p>
    <pre class="sample" tabindex="0"><code>PERSISTENCE_BACKEND=s3
S3_ENDPOINT=https://…
S3_ACCESS_KEY=…
S3_SECRET_KEY=…
S3_BUCKET=…</code></pre>
    <p class="small">${t("sync.off_where")}</p>
  <//>`;
}

const KINDS = /** @type {Record<string, [string, string]>} */ ({
  idle: ["good", "check"],
  busy: ["accent", "upload"],
  paused: ["", "pause"],
  offline: ["warn", "cloud"],
  throttled: ["warn", "clock"],
});

/** @param {{sync: Sync}} props */
function State({ sync }) {
  const [kind, icon] = KINDS[sync.state] ?? ["bad", "alert"];
  const key = `sync.state.${sync.state}`;
  return html`<section class=${`card state ${kind}`} aria-label=${t("sync.state")}>
    <span class="state-icon"><${Icon} name=${icon} /></span>
    <div class="grow">
      <h2>${says(key) ? t(key) : sync.state}</h2>
      <p class="muted"><${Why} sync=${sync} /></p>
      ${sync.hint && sync.state !== "paused" && html`<p class="small"><${Verbatim} words=${sync.hint} /></p>`}
    </div>
    ${sync.running && html`<${Running} running=${sync.running} />`}
  </section>`;
}

/** @param {{sync: Sync}} props */
function Why({ sync }) {
  if (sync.state === "paused") return sync.paused_until ? t("sync.paused_until", { when: moment(sync.paused_until) }) : t("sync.paused_open");
  if (sync.reason) {
    const again = sync.retry_in_s === null ? "" : ` ${t("sync.again_in", { time: lasting(Math.max(sync.retry_in_s, 1)) })}`;
    return html`<${Verbatim} words=${sync.reason} />.${again}`;
  }
  if (sync.last_synced_at) return html`${t("sync.last")} <${Time} at=${sync.last_synced_at} />`;
  return t("sync.nothing_yet");
}

/** @param {{running: Record<string, any>}} props */
function Running({ running }) {
  const part = running.size_bytes ? Math.min(running.sent_bytes / running.size_bytes, 1) : 1;
  return html`<div class="running">
    <progress max="1" value=${part} aria-label=${t("sync.running")}>${percent(part)}</progress>
    <p class="small muted number">
      ${size(Math.min(running.sent_bytes, running.size_bytes))} / ${size(running.size_bytes)}
      ${running.rate_bytes_s ? ` · ${t("per_second", { size: size(running.rate_bytes_s) })}` : ""}
    </p>
  </div>`;
}

/** @param {{sync: Sync}} props */
function Queue({ sync }) {
  return html`<section class="card">
    <header><h2>${t("sync.waiting")}</h2><span class="muted">${size(sync.waiting_bytes)}</span></header>
    ${sync.waiting.length === 0
      ? html`<p class="muted">${t("sync.waiting_none")}</p>`
      : html`<table class="plain-table">
          <thead><tr><th scope="col">${t("sync.stage")}</th><th scope="col" class="number">${t("sync.items")}</th><th scope="col" class="number">${t("size")}</th></tr></thead>
          <tbody>${sync.waiting.map(
            (/** @type {Record<string, any>} */ row) => html`<tr key=${row.stage}>
              <td>${t(`stage.${row.stage}`)}</td><td class="number">${count(row.count)}</td><td class="number">${size(row.size_bytes)}</td>
            </tr>`,
          )}</tbody>
        </table>`}
    <p class="small muted">${t("sync.order")}</p>
  </section>`;
}

/** @param {{sync: Sync}} props */
function Place({ sync }) {
  return html`<section class="card">
    <header><h2>${t("sync.where")}</h2></header>
    <dl class="facts">
      <dt>${t("sync.bucket")}</dt><dd class="mono">${sync.bucket}${sync.prefix ? `/${sync.prefix}` : ""}</dd>
      <dt>${t("sync.endpoint")}</dt><dd class="mono">${sync.endpoint}</dd>
      <dt>${t("sync.encryption")}</dt><dd><${Secrecy} sync=${sync} /></dd>
      <dt>${t("sync.machine")}</dt><dd class="mono">${sync.machine}</dd>
      ${sync.plain_copies && html`<dt>${t("sync.plain_copies")}</dt><dd>${t("sync.plain_counts", { written: sync.plain_copies.written, waiting: sync.plain_copies.waiting })}</dd>`}
    </dl>
  </section>`;
}

/** @param {{sync: Sync}} props */
function Secrecy({ sync }) {
  if (sync.encrypted === null) return t("unknown");
  if (sync.encrypted) return html`<span class="chip good"><${Icon} name="check" />${t("sync.encrypted")}</span>`;
  return html`<span class="chip warn"><${Icon} name="alert" />${t("sync.readable")}</span> <span class="small muted">${t("sync.readable_more")}</span>`;
}

