/** Files that were opened on this machine: what each holds, and whether to import it. Nothing is imported before that. */

import { html } from "../vendor/preact.js";
import { Empty, Failed, useData, Waiting } from "./data.js";
import { FileCard } from "./opened.js";
import { usePoll } from "./poll.js";
import { route } from "./routes.js";
import { json } from "./session.js";
import { t } from "./words.js";

const LOOK_MS = 300;
const MOST = 200;

/** @typedef {import("./opened.js").Opened} Opened */

export function Page() {
  const named = route.value.parts;
  const { data, error, reload } = useData(known, []);
  const files = data === undefined ? undefined : shown(data.imports, named);
  usePoll(reload, LOOK_MS, Boolean(files?.some((each) => each.state === "waiting" || each.state === "running")));
  return html`<div class="page">
    <header><h1>${t("nav.open")}</h1></header>
    ${error && !files
      ? html`<${Failed} error=${error} retry=${reload} />`
      : !files
        ? html`<section class="card" aria-busy="true"><${Waiting} lines=${6} /></section>`
        : files.length === 0
          ? html`<${Empty} icon="folder" title=${t("open.none")}><p class="muted">${t("open.none_more")}</p><//>`
          : files.map((file) => html`<${FileCard} key=${file.id} file=${file} reload=${reload} />`)}
  </div>`;
}

/** @param {AbortSignal} signal @returns {Promise<{imports: Opened[]}>} */
const known = (signal) => json("GET", `/v1/imports?limit=${MOST}`, undefined, { signal });

/** The files that the address names, in its order, and all others that wait. @param {Opened[]} all @param {string[]} named */
function shown(all, named) {
  const first = named.flatMap((id) => all.filter((each) => each.id === id));
  return [...first, ...all.filter((each) => each.held && !named.includes(each.id))];
}
