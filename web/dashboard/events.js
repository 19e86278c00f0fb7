/** What happened, newest first, and as it happens. */

import { html } from "../vendor/preact.js";
import { Failed, useData, Waiting } from "./data.js";
import { Icon } from "./icons.js";
import { href } from "./routes.js";
import { Said, Verbatim } from "./said.js";
import { json } from "./session.js";
import { Time } from "./states.js";
import { t } from "./words.js";

const SHOWN = 40;
const ICONS = { info: "info", warning: "alert", error: "alert" };

export function Events() {
  const { data, error, reload } = useData((signal) => json("GET", `/v1/events?limit=${SHOWN}`, undefined, { signal }), []);
  const events = /** @type {import("./live.js").Happening[]} */ (data?.events ?? []);
  return html`<section class="card" aria-labelledby="events">
    <header><h2 id="events">${t("events.title")}</h2></header>
    ${error && !data
      ? html`<${Failed} error=${error} retry=${reload} />`
      : !data
        ? html`<${Waiting} lines=${5} />`
        : events.length === 0
          ? html`<p class="muted">${t("events.none")}</p>`
          : html`<ol class="events" tabindex="0" aria-labelledby="events">${events.map((event) => html`<${Line} key=${event.id} event=${event} />`)}</ol>`}
  </section>`;
}

/** @param {{event: import("./live.js").Happening}} props */
function Line({ event }) {
  return html`<li class=${event.level}>
    <${Icon} name=${ICONS[event.level] ?? "info"} />
    <div class="grow">
      <strong class="capital"><${Said} code=${`event.${event.kind}`} words=${event.kind.replaceAll("-", " ")} /></strong>
      ${event.session_id && html` <a class="small" href=${href("sessions", event.backup_id ? [event.session_id, event.backup_id] : [event.session_id])}>${event.session_id}</a>`}
      ${event.detail && html`<p class="small muted"><${Verbatim} words=${event.detail} /></p>`}
    </div>
    <span class="small muted"><${Time} at=${event.at} /></span>
  </li>`;
}
