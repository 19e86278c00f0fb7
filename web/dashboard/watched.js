/** The watched folders: what was taken in, what could not be and why; add one, forget one, look again. */

import { html, useState } from "../vendor/preact.js";
import { Act } from "./act.js";
import { Failed, useData, Waiting } from "./data.js";
import { Icon } from "./icons.js";
import { changed } from "./live.js";
import { Said, Verbatim } from "./said.js";
import { json } from "./session.js";
import { Time } from "./states.js";
import { failed, toast } from "./toasts.js";
import { t } from "./words.js";

/**
 * @typedef {{folder: string, source: "added" | "settings", mode: string, problem: {code: string, detail: string, hint: string} | null,
 *   files: number, waiting: number, failing_count: number, failing: {path: string, code: string, detail: string, at: number}[]}} Watch
 */

export function Watched() {
  const { data, error, reload } = useData((signal) => json("GET", "/v1/watches", undefined, { signal }), []);
  const watches = /** @type {Watch[] | undefined} */ (data?.watches);
  return html`<section class="card" aria-labelledby="watched">
    <header>
      <h2 id="watched" class="grow">${t("watch.title")}</h2>
      ${watches && watches.length > 0 && html`<${Act} kind="small" icon="restore" run=${() => json("POST", "/v1/watches/rescan")} done=${() => t("watch.looking")}>${t("watch.rescan")}<//>`}
    </header>
    <p class="muted">${t("watch.more")}</p>
    ${error && !watches ? html`<${Failed} error=${error} retry=${reload} />` : !watches ? html`<${Waiting} lines=${2} />` : html`<ul class="items">${watches.map((each) => html`<${Folder} key=${each.folder} watch=${each} />`)}</ul>`}
    <${Add} />
  </section>`;
}

/** @param {{watch: Watch}} props */
function Folder({ watch }) {
  const remove = () => json("DELETE", `/v1/watches?folder=${encodeURIComponent(watch.folder)}`);
  return html`<li class="folder">
    <${Icon} name="folder" />
    <div class="grow">
      <div class="row"><span class="mono">${watch.folder}</span>
        ${watch.problem ? html`<span class="chip bad">${t("watch.problem")}</span>` : html`<span class="chip">${t(`watch.mode.${watch.mode}`)}</span>`}
        ${watch.source === "settings" && html`<span class="chip">${t("watch.by_settings")}</span>`}
      </div>
      <p class="small muted">${t("watch.files", { n: watch.files })}${watch.waiting > 0 ? ` · ${t("watch.waiting", { n: watch.waiting })}` : ""}</p>
      ${watch.problem && html`<p class="small reason"><${Verbatim} words=${watch.problem.detail} /> <${Verbatim} words=${watch.problem.hint} /></p>`}
      ${watch.failing_count > 0 && html`<details>
        <summary class="small"><span class="chip warn">${t("watch.failing", { n: watch.failing_count })}</span></summary>
        <ul class="failing">${watch.failing.map((each) => html`<li key=${each.path}>
          <p class="mono small">${each.path}</p><p class="small reason"><strong><${Said} code=${`code.${each.code}`} words=${each.code} />: </strong><${Verbatim} words=${each.detail} /> · <${Time} at=${each.at} /></p>
        </li>`)}</ul>
      </details>`}
    </div>
    ${watch.source === "added" && html`<${Act} kind="small" label=${t("watch.remove_one", { folder: watch.folder })} run=${remove} done=${() => t("watch.removed", { folder: watch.folder })}>${t("watch.remove")}<//>`}
  </li>`;
}

function Add() {
  const [folder, setFolder] = useState("");
  const [busy, setBusy] = useState(false);
  /** @param {Event} event */
  const add = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await json("POST", "/v1/watches", { folder: folder.trim() });
      setFolder("");
      toast(t("watch.added", { folder }), { kind: "ok" });
      changed();
    } catch (error) {
      failed(error);
    } finally {
      setBusy(false);
    }
  };
  return html`<form class="row add" onSubmit=${add}>
    <input type="text" class="grow mono" aria-label=${t("watch.path")} placeholder="/home/…/sessions" spellcheck="false" autocomplete="off" value=${folder} onInput=${(/** @type {any} */ event) => setFolder(event.currentTarget.value)} />
    <button class="button" disabled=${busy || !folder.trim()}><${Icon} name="folder" />${t("watch.add")}</button>
  </form>`;
}
