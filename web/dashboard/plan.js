/** What a restore would do, in words, before anybody restores: what comes back, what is computed again, how long it takes. */

import { html, useEffect } from "../vendor/preact.js";
import { Failed, useData } from "./data.js";
import { count, lasting, size } from "./numbers.js";
import { json } from "./session.js";
import { Chip } from "./states.js";
import { language, says, t } from "./words.js";

/** @typedef {{code: string, text: string, values: Record<string, number | string>}} Phrase */

const KINDS = /** @type {Record<string, string>} */ ({ full: "good", prefix: "good", embeddings: "accent", media: "accent", "text-only": "warn", refuse: "bad" });

/** @param {{id: string, told: () => void}} props `told` is called when the plan is there, or is not to be had */
export function Plan({ id, told }) {
  const { data, error, reload } = useData((signal) => json("GET", `/v1/backups/${encodeURIComponent(id)}/plan`, undefined, { signal }), [id]);
  useEffect(() => void ((data || error) && told()), [Boolean(data || error)]);
  if (error) return html`<${Failed} error=${error} retry=${reload} />`;
  return html`<section class="card plan" aria-label=${t("plan.title")} aria-busy=${!data}>
    <header><h2 class="as-h3">${t("plan.title")}</h2>${data && html`<${Chip} kind=${KINDS[data.mode]} text=${t(`mode.${data.mode}`)} />`}</header>
    ${data ? html`<p class="sentence">${sentence(data)}</p><${Tokens} plan=${data} />` : html`<p class="sentence"><span class="bone"></span></p><div class="tokens"><span class="bone"></span></div>`}
  </section>`;
}

/** Say a plan as a sentence. @param {{phrases: Phrase[], exact: boolean}} plan */
export function sentence({ phrases }) {
  const chinese = language.value === "zh-CN";
  const text = phrases.map(phrase).join(chinese ? "，" : ", ");
  return text.charAt(0).toLocaleUpperCase(language.value) + text.slice(1) + (chinese ? "。" : ".");
}

/** @param {Phrase} said */
function phrase({ code, text, values }) {
  const key = code === "seconds" && Number(values.seconds) < 1 ? "plan.at-once" : `plan.${code}`;
  if (!says(key)) return text; // of a newer daemon
  const n = Number(values.tokens ?? values.images ?? 0);
  const filled = /** @type {Record<string, number | string>} */ ({ n });
  for (const [name, value] of Object.entries(values)) {
    filled[name] = name === "bytes" ? size(Number(value)) : name === "seconds" ? lasting(roughly(Number(value))) : name === "layer" ? t(`layer.${value}`) : value;
  }
  return t(key, filled);
}

/** Nobody can foretell a second. @param {number} seconds */
function roughly(seconds) {
  return seconds < 10 ? Math.round(seconds) : seconds < 90 ? 5 * Math.round(seconds / 5) : seconds;
}

/** How many tokens are ready, and how many are computed again, as a bar. @param {{plan: any}} props */
function Tokens({ plan }) {
  const all = plan.tokens_reused + plan.tokens_prefill;
  if (!all) return html`<div class="tokens"></div>`;
  return html`<div class="tokens">
    <span class="bar" aria-hidden="true"><i style=${{ width: `${(100 * plan.tokens_reused) / all}%` }}></i></span>
    <dl class="legend small">
      <div class="reused"><dt>${t("plan.reused")}</dt><dd class="number">${count(plan.tokens_reused)}</dd></div>
      <div class="again"><dt>${t("plan.again")}</dt><dd class="number">${count(plan.tokens_prefill)}</dd></div>
      ${plan.bytes_read > 0 && html`<div><dt>${t("plan.read")}</dt><dd class="number">${size(plan.bytes_read)}</dd></div>`}
    </dl>
  </div>`;
}
