/** The conversation of a backup: its newest messages first on the screen, the earlier ones when they are asked for. */

import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/preact.js";
import { Failed, Waiting } from "./data.js";
import { Icon } from "./icons.js";
import { count } from "./numbers.js";
import { Picture } from "./pictures.js";
import { json } from "./session.js";
import { says, t } from "./words.js";

const PAGE = 20;

/**
 * @typedef {{type: "text" | "image" | "video" | "thinking" | "tool_call", text: string | null, medium: number | null, cut: boolean, missing: boolean}} Part
 * @typedef {{index: number, role: string, parts: Part[]}} Message
 */

/** @param {{id: string, at?: number}} props `at`: the message to show, for what a search found */
export function Messages({ id, at }) {
  const [shown, setShown] = useState(/** @type {{messages: Message[], total: number} | null} */ (null));
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const [fetched, setFetched] = useState(false); // what only S3 has, too
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  const load = async (/** @type {number} */ from, /** @type {number} */ to) => {
    try {
      return await between(id, from, to, fetched);
    } catch (problem) {
      setError(problem);
      return null;
    }
  };
  const begin = async () => {
    setError(null);
    const first = await load(0, PAGE);
    if (!first) return;
    const from = at === undefined ? first.total - PAGE : Math.min(at - 2, first.total - PAGE);
    setShown(from > 0 ? await load(from, first.total) : { messages: first.messages, total: first.total });
  };
  useEffect(() => void begin(), [id, at, fetched]);
  useLayoutEffect(() => {
    if (at !== undefined && shown) place.current?.querySelector(`[data-message="${at}"]`)?.scrollIntoView({ block: "center" });
  }, [at, shown !== null]);
  const earlier = async () => {
    if (!shown) return;
    const from = shown.messages[0].index;
    const more = await load(Math.max(from - PAGE, 0), from);
    if (more) setShown({ messages: [...more.messages, ...shown.messages], total: more.total });
  };
  const missing = !fetched && shown?.messages.some((each) => each.parts.some((part) => part.missing));
  return html`<section class="messages" aria-label=${t("messages.title")} ref=${place}>
    <header class="row"><h2 class="as-h3">${t("messages.title")}</h2>${shown && html`<span class="muted small number">${count(shown.total)}</span>`}</header>
    ${error ? html`<${Failed} error=${error} retry=${begin} />` : null}
    ${missing && html`<div class="notice"><${Icon} name="cloud" /><span class="grow">${t("messages.missing")}</span>
      <button class="button small" onClick=${() => setFetched(true)}>${t("messages.fetch")}</button></div>`}
    ${!shown && !error && html`<${Waiting} lines=${5} />`}
    ${shown && shown.messages.length > 0 && shown.messages[0].index > 0 && html`<button class="button small" onClick=${earlier}>${t("messages.earlier", { n: shown.messages[0].index })}</button>`}
    ${shown && !shown.total && html`<p class="muted">${t("messages.none")}</p>`}
    <ol>
      ${shown?.messages.map((each) => html`<${Said} key=${each.index} backup=${id} message=${each} found=${each.index === at} fetched=${fetched} />`)}
    </ol>
  </section>`;
}

/** @param {string} id @param {number} from @param {number} to @param {boolean} fetched @returns {Promise<{messages: Message[], total: number}>} */
async function between(id, from, to, fetched) {
  /** @type {Message[]} */
  const messages = [];
  let next = /** @type {number | null} */ (from);
  let total = 0;
  while (next !== null && next < to) {
    const query = new URLSearchParams({ offset: String(next), limit: String(Math.min(to - next, 200)), ...(fetched && { fetch: "true" }) });
    const page = await json("GET", `/v1/backups/${encodeURIComponent(id)}/messages?${query}`);
    messages.push(...page.messages);
    ({ next, total } = page);
  }
  return { messages, total };
}

const SIDES = /** @type {Record<string, string>} */ ({ user: "mine", assistant: "theirs" });

/** @param {{backup: string, message: Message, found: boolean, fetched: boolean}} props */
function Said({ backup, message, found, fetched }) {
  const role = says(`role.${message.role}`) ? t(`role.${message.role}`) : message.role;
  return html`<li class=${`message ${SIDES[message.role] ?? "other"}${found ? " found" : ""}`} data-message=${message.index}>
    <span class="small muted">${role}</span>
    <div class="bubble">${message.parts.map((part, at) => html`<${Piece} key=${at} backup=${backup} part=${part} fetched=${fetched} />`)}</div>
  </li>`;
}

/** @param {{backup: string, part: Part, fetched: boolean}} props */
function Piece({ backup, part, fetched }) {
  if (part.type === "image" && part.medium !== null) return html`<${Picture} backup=${backup} index=${part.medium} pixels=${280} alt=${t("messages.image", { n: part.medium + 1 })} whole fetched=${fetched} />`;
  if (part.type === "image" || part.type === "video") return html`<p class="muted"><${Icon} name="image" /> ${t(part.type === "video" ? "messages.video" : "messages.no_image")}</p>`;
  if (part.type === "thinking") return html`<details><summary class="small muted">${t("messages.thinking")}</summary><${Text} part=${part} /></details>`;
  if (part.type === "tool_call") return html`<pre class="code small"><code>${part.text}</code></pre>`;
  return html`<${Text} part=${part} />`;
}

/** A text as it was written; what stands in fences is code. @param {{part: Part}} props */
function Text({ part }) {
  const pieces = (part.text ?? "").split(/^```.*$/m);
  return html`${pieces.map((piece, at) =>
      at % 2 ? html`<pre key=${at} class="code small"><code>${piece.trim()}</code></pre>` : piece.trim() && html`<p key=${at} class="text">${piece.trim()}</p>`,
    )}${part.cut && html`<p class="small muted">${t("messages.cut")}</p>`}`;
}

