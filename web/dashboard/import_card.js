/** The card by which files are chosen to be taken in, and how each of them went. */

import { html, useRef } from "../vendor/preact.js";
import { Icon } from "./icons.js";
import { takeIn, taken } from "./imports.js";
import { size } from "./numbers.js";
import { href } from "./routes.js";
import { Verbatim } from "./said.js";
import { t } from "./words.js";

/** A button that opens the choice of files. @param {{kind?: string}} props */
function ImportButton({ kind = "" }) {
  const field = useRef(/** @type {HTMLInputElement | null} */ (null));
  /** @param {any} event */
  const chosen = (event) => {
    takeIn([...event.currentTarget.files]);
    event.currentTarget.value = "";
  };
  return html`<button class=${`button ${kind}`} onClick=${() => field.current?.click()}><${Icon} name="upload" />${t("import.choose")}</button>
    <input ref=${field} class="hidden-text" type="file" multiple tabindex="-1" aria-label=${t("import.choose")} onChange=${chosen} />`;
}

export function ImportCard() {
  return html`<section class="card" aria-labelledby="import">
    <header><h2 id="import" class="grow">${t("import.title")}</h2><${ImportButton} kind="small" /></header>
    <p class="muted">${t("import.more")}</p>
    ${taken.value.length > 0 && html`<ul class="items">${taken.value.map((each) => html`<${One} key=${each.key} file=${each} />`)}</ul>`}
  </section>`;
}

const KINDS = /** @type {Record<string, string>} */ ({ done: "good", failed: "bad" });

/** @param {{file: import("./imports.js").Taken}} props */
function One({ file }) {
  return html`<li>
    <div class="grow">
      <div class="row"><span class="mono one-line">${file.name}</span><span class="small muted number">${size(file.size_bytes)}</span><span class=${`chip ${KINDS[file.state] ?? "accent"}`}>${t(`import.state.${file.state}`)}</span></div>
      ${file.problem && html`<p class="small reason"><${Verbatim} words=${file.problem.text} /> <${Verbatim} words=${file.problem.more} /></p>`}
    </div>
    ${file.session_id && html`<a class="button small" href=${href("sessions", file.backup_id ? [file.session_id, file.backup_id] : [file.session_id])}>${t("import.open")}</a>`}
  </li>`;
}
