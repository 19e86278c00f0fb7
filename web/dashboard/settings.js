/** What the daemon is and how it was set up: folders that it watches, files to take in, its settings. */

import { html } from "../vendor/preact.js";
import { Failed, useData, Waiting } from "./data.js";
import { Icon } from "./icons.js";
import { ImportCard } from "./import_card.js";
import { status } from "./live.js";
import { lasting } from "./numbers.js";
import { Said } from "./said.js";
import { json } from "./session.js";
import { t } from "./words.js";
import { Watched } from "./watched.js";

/** @typedef {{name: string, value: any, default: any, description: string, variable: string}} Setting */

export function Page() {
  return html`<div class="page">
    <header><h1>${t("nav.settings")}</h1></header>
    <${Watched} />
    <${ImportCard} />
    <${Settings} />
    <${About} />
  </div>`;
}

function Settings() {
  const { data, error, reload } = useData((signal) => json("GET", "/v1/settings", undefined, { signal }), [], { live: false });
  return html`<section class="card" aria-labelledby="settings">
    <header><h2 id="settings">${t("settings.title")}</h2></header>
    ${error && !data ? html`<${Failed} error=${error} retry=${reload} />` : !data ? html`<${Waiting} lines=${12} />` : html`
      <p class="muted">${t("settings.more")} <code>${data.file}</code></p>
      <ul class="settings">${data.settings.map((/** @type {Setting} */ each) => html`<${One} key=${each.name} setting=${each} />`)}</ul>`}
  </section>`;
}

/** @param {{setting: Setting}} props */
function One({ setting }) {
  const changed = JSON.stringify(setting.value) !== JSON.stringify(setting.default);
  return html`<li>
    <div class="grow">
      <p class="row"><code>${setting.name}</code><code class="small muted">${setting.variable}</code>${changed && html`<span class="chip accent">${t("settings.changed")}</span>`}</p>
      <p class="small muted"><${Said} code=${`setting.${setting.name}`} words=${setting.description} /></p>
    </div>
    <div class="value">
      <code>${written(setting.value)}</code>
      ${changed && html`<p class="small muted">${t("settings.default", { value: written(setting.default) })}</p>`}
    </div>
  </li>`;
}

/** @param {any} value */
function written(value) {
  if (value === null || (Array.isArray(value) && value.length === 0)) return "–";
  return Array.isArray(value) ? value.join(", ") : String(value);
}

function About() {
  const now = status.value;
  return html`<section class="card" aria-labelledby="about">
    <header><h2 id="about">${t("about.title")}</h2></header>
    ${!now ? html`<${Waiting} lines=${5} />` : html`<dl class="facts">
      <dt>${t("about.version")}</dt><dd>Torpor ${now.version}</dd>
      <dt>${t("about.running")}</dt><dd>${lasting(now.uptime_s)} · pid ${now.pid}</dd>
      <dt>${t("about.address")}</dt><dd class="mono">${now.url}</dd>
      <dt>${t("about.home")}</dt><dd class="mono">${now.home}</dd>
      <dt>${t("about.store")}</dt><dd class="mono">${now.store}</dd>
      <dt>${t("about.log")}</dt><dd class="mono">${now.log}</dd>
    </dl>`}
    <p class="small muted"><${Icon} name="info" /> ${t("about.cli")} <code>torpor --help</code></p>
  </section>`;
}
