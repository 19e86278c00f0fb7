/** Programs that hold sessions in their memory, and are asked for them when somebody wants a backup now. */

import { html } from "../vendor/preact.js";
import { Act } from "./act.js";
import { useData } from "./data.js";
import { Icon } from "./icons.js";
import { usePoll } from "./poll.js";
import { json } from "./session.js";
import { Time } from "./states.js";
import { t } from "./words.js";

const LOOK_MS = 5000;

/** @typedef {{name: string, pid: number, model: string | null, sessions: string[], attached_at: number, working?: boolean | number | string | null}} Program */

const saveAll = () => json("POST", "/api/backup/create", { session_id: null });

export function Attached() {
  const { data, reload } = useData((signal) => json("GET", "/v1/attached", undefined, { signal }), []);
  usePoll(reload, LOOK_MS, true);
  const found = /** @type {Program[]} */ (data?.processes ?? []);
  return html`<section class="card" aria-labelledby="attached">
    <header>
      <h2 id="attached" class="grow">${t("attached.title")}</h2>
      ${found.length > 0 && html`<${Act} kind="small" icon="moon" run=${saveAll} done=${(/** @type {{backups: any[]}} */ answer) => t("attached.saved", { n: answer.backups.length })}>${t("attached.save")}<//>`}
    </header>
    ${found.length === 0
      ? html`<p class="muted">${t("attached.none")} <code>keeper.attach(provider)</code></p>`
      : html`<ul class="items">${found.map((each) => html`<${One} key=${`${each.pid}/${each.name}`} program=${each} />`)}</ul>`}
  </section>`;
}

/** @param {{program: Program}} props */
function One({ program }) {
  return html`<li>
    <${Icon} name="play" />
    <div class="grow">
      <div class="row"><strong>${program.name}</strong>${program.model && html`<span class="chip">${program.model}</span>`}${program.working ? html`<span class="chip accent">${t("attached.working")}</span>` : ""}</div>
      <p class="small muted">${t("attached.sessions", { n: program.sessions.length })} · pid ${program.pid} · ${t("attached.since")} <${Time} at=${program.attached_at} /></p>
    </div>
  </li>`;
}
