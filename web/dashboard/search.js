/** Search over titles and messages: the field, what was found, and where in it. */

import { html, signal, useEffect, useRef, useState } from "../vendor/preact.js";
import { Empty, Failed, useData, Waiting } from "./data.js";
import { Icon } from "./icons.js";
import { useKeys } from "./keys.js";
import { href, route } from "./routes.js";
import { json } from "./session.js";
import { nameOf, Time } from "./states.js";
import { VirtualList } from "./virtual.js";
import { t } from "./words.js";

const PAUSE_MS = 180; // in typing, before it is asked for
const MOST = 100;
const ROW_REM = 5.6;

/** What is searched for. */
export const question = signal(route.value.query.get("q") ?? "");

export function SearchField() {
  const place = useRef(/** @type {HTMLInputElement | null} */ (null));
  const timer = useRef(0);
  useKeys({ "/": () => place.current?.focus() });
  const ask = (/** @type {string} */ text) => {
    clearTimeout(timer.current);
    question.value = text.trim();
  };
  const typed = (/** @type {Event} */ event) => {
    clearTimeout(timer.current);
    const text = /** @type {HTMLInputElement} */ (event.currentTarget).value;
    timer.current = setTimeout(() => ask(text), PAUSE_MS);
  };
  const pressed = (/** @type {KeyboardEvent} */ event) => {
    const field = /** @type {HTMLInputElement} */ (event.currentTarget);
    if (event.key === "Enter") ask(field.value);
    else if (event.key === "Escape" && field.value) ((field.value = ""), ask(""), event.preventDefault());
    else if (event.key === "ArrowDown") (intoList(field), event.preventDefault());
  };
  return html`<div class="search" role="search">
    <${Icon} name="search" />
    <input
      ref=${place}
      type="search"
      aria-label=${t("search.label")}
      placeholder=${t("search.label")}
      maxlength="200"
      spellcheck="false"
      defaultValue=${question.peek()}
      onInput=${typed}
      onKeyDown=${pressed}
    />
    <kbd aria-hidden="true">/</kbd>
  </div>`;
}

/** Go on from the field to the list under it. @param {HTMLElement} field */
function intoList(field) {
  /** @type {HTMLElement | null | undefined} */ (field.closest(".pane")?.querySelector('[data-row][tabindex="0"]'))?.focus();
}

/** What was found. @param {{chosen?: string}} props */
export function Found({ chosen }) {
  const asked = question.value;
  const { data, error, reload } = useData(
    (signal) => json("GET", `/v1/search?${new URLSearchParams({ q: asked, limit: String(MOST) })}`, undefined, { signal }),
    [asked],
  );
  const [cursor, setCursor] = useState(0);
  useEffect(() => setCursor(0), [asked]);
  if (error) return html`<div class="pad"><${Failed} error=${error} retry=${reload} /></div>`;
  if (!data) return html`<div class="pad"><${Waiting} /></div>`;
  if (!data.results.length) return html`<${Empty} icon="search" title=${t("search.nothing")}><p>${t("search.nothing_more")}</p><//>`;
  return html`<p class="found small muted" role="status">
      ${t(data.more ? "search.found_more" : "search.found", { n: data.results.length })} ${data.waiting > 0 && t("search.waiting", { n: data.waiting })}
    </p>
    <${VirtualList}
      label=${t("search.results")}
      class="rows"
      count=${data.results.length}
      height=${ROW_REM}
      cursor=${cursor}
      moved=${setCursor}
      row=${(/** @type {number} */ index, /** @type {boolean} */ focusable) =>
        html`<${Hit} hit=${data.results[index]} chosen=${data.results[index].session_id === chosen} focusable=${focusable} />`}
    />`;
}

/** @param {{hit: any, chosen: boolean, focusable: boolean}} props */
function Hit({ hit, chosen, focusable }) {
  const [match] = hit.matches;
  const at = match && match.index >= 0 ? { message: String(match.index) } : undefined;
  return html`<a
    class="session-row hit"
    data-row
    href=${href("sessions", [hit.session_id, hit.backup_id], at)}
    tabindex=${focusable ? 0 : -1}
    aria-current=${chosen ? "true" : undefined}
  >
    <div class="grow">
      <div class="line">
        <strong class="one-line grow">${nameOf(hit)}</strong>
        ${hit.hits > 1 && html`<span class="small muted number">${t("search.hits", { n: hit.hits })}</span>`}
        <span class="muted small"><${Time} at=${hit.created_at} /></span>
      </div>
      <p class="two-lines muted">
        ${match?.snippet.map((/** @type {{text: string, mark: boolean}} */ part, /** @type {number} */ index) => (part.mark ? html`<mark key=${index}>${part.text}</mark>` : part.text))}
      </p>
    </div>
  </a>`;
}
